"""Trees, and any other pytree of arrays, in one file.

In: records of arrays, say (result.tree, problems). Out: one .npz that is there whole or
not at all, and the same records from it, bit for bit, so that a search can go on with
grow(). A leaf is stored by its path in the pytree; the classes are not stored, so what
is loaded takes its structure from an example and is checked against it. Parameters and
configs are not in it. For one process: every array must be addressable.
"""

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from o1jax.parallel.sharding import path_name

LEAF, TYPES = "leaf/", "types"


@contextmanager
def written_whole(file: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `file` at the end if nothing failed."""
    path = Path(file)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tree(file: str | os.PathLike, records: Any) -> None:
    """Saves a pytree of arrays; load_tree() gives it back."""
    arrays: dict[str, np.ndarray] = {}
    types: dict[str, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(records):
        name = path_name(path)
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise ValueError(f"{name} is a {type(leaf).__name__}, not an array")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(f"{name} is a PRNG key: save its jax.random.key_data")
        if name in types:
            raise ValueError(f"{name} is the path of two leaves")
        types[name] = str(leaf.dtype)
        # The format knows numpy's own types; bfloat16 and the like go as their bits.
        arrays[LEAF + name] = _bits(np.asarray(leaf))
    with written_whole(file) as out:
        np.savez(out, **{TYPES: np.array(json.dumps(types))}, **arrays)


def load_tree(file: str | os.PathLike, like: Any) -> Any:
    """What save_tree() saved, in the structure and with the shardings of `like`.

    like: the same records with arrays or jax.ShapeDtypeStructs (jax.eval_shape of what
    made them) for leaves. ValueError names the first leaf that does not fit, or says
    that the file is damaged.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = {path_name(path): leaf for path, leaf in paths}
    types, arrays = _read(file)
    for name in wanted:
        if name not in types:
            raise ValueError(f"{file}: {name} of the example is not in it")
    for name in types:
        if name not in wanted:
            raise ValueError(f"{file}: {name} is in it, but not in the example")
    leaves = []
    for name, leaf in wanted.items():
        array = arrays[name]
        found = f"{types[name]}{list(array.shape)}"
        expected = f"{leaf.dtype}{list(leaf.shape)}"
        if found != expected:
            raise ValueError(f"{file}: {name} is {found}, in the example {expected}")
        array = array.view(leaf.dtype)
        leaves.append(jax.device_put(array, getattr(leaf, "sharding", None)))
    return jax.tree_util.tree_unflatten(structure, leaves)


def _bits(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "biufc":
        return array
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _read(file: str | os.PathLike) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The types and the arrays of a file, by name."""
    try:
        with open(file, "rb") as raw, np.load(raw, allow_pickle=False) as content:
            types = json.loads(content[TYPES].item())
            return types, {name: content[LEAF + name] for name in types}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, TypeError) as error:
        raise ValueError(f"{file}: damaged, or not a file of save_tree") from error

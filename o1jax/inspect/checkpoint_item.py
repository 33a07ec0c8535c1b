"""An item of a checkpoint: a pytree of arrays, by the paths of its leaves.

In: the folder of an item, as orbax writes it. Out: for each array its shape, dtype,
chunks, bytes and the sharding it was saved with, from orbax's `_METADATA` and
`_sharding` and from the zarr metadata; leaves that are no arrays; files that are
missing or cut. Of the arrays only those of a single number are read.
"""

import base64
import json
import math
from typing import Any, NamedTuple

import tensorstore as ts

from o1jax.inspect.checkpoint_place import Place
from o1jax.inspect.checkpoint_store import (
    Problem,
    StoredArray,
    Zarr,
    read_stored,
    reason,
)

TREE, SHARDINGS, STRINGS = "_METADATA", "_sharding", "_strings.json"
MOST_VALUES = 64  # single numbers that are read


class Sharding(NamedTuple):
    """How an array lay on the devices that saved it."""

    spec: tuple[str, ...]  # a dimension: mesh axes joined by +, "" for whole
    mesh: tuple[tuple[str, int], ...]  # (axis, size); () on a single device
    kind: str  # jax's class, such as NamedSharding

    @property
    def text(self) -> str:
        """fsdp, –, data+tensor: a dash for a dimension that is whole."""  # noqa: RUF002
        if self.kind != "NamedSharding":
            return self.kind.removesuffix("Sharding")
        if not any(self.spec):
            return "replicated"
        return ", ".join(axes or "–" for axes in self.spec)  # noqa: RUF001

    @property
    def mesh_text(self) -> str:
        """data=2 tensor=4, or nothing."""
        return " ".join(f"{axis}={size}" for axis, size in self.mesh)


class Array(NamedTuple):
    """An array of the tree."""

    path: str  # params/layers/mlp/up
    name: str  # in the files: the same keys joined by dots
    zarr: Zarr | None  # None if its metadata is lost
    chunks: int  # written
    stored: int | None  # bytes on disk, compressed; None in an object store
    sharding: Sharding | None  # None if none was written
    value: int | float | bool | None  # of a single number
    problems: tuple[str, ...]
    spec: dict[str, Any]  # to open it with tensorstore

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; () if it is lost."""
        return self.zarr.shape if self.zarr else ()

    @property
    def dtype(self) -> str:
        """Its dtype; "" if it is lost."""
        return self.zarr.dtype if self.zarr else ""

    @property
    def size(self) -> int:
        """Its elements; 0 if it is lost."""
        return math.prod(self.zarr.shape) if self.zarr else 0

    @property
    def nbytes(self) -> int:
        """Its bytes in memory."""
        return self.size and self.size * ts.dtype(self.dtype).numpy_dtype.itemsize


class Item(NamedTuple):
    """All leaves of an item."""

    format: str  # such as "zarr3 in OCDBT"
    arrays: tuple[Array, ...]
    leaves: dict[str, str]  # path -> what is there instead of an array
    problems: list[Problem]


def read_item(place: Place) -> Item:
    """Read an item's metadata. Whatever is wrong is among the problems."""
    stored = read_stored(place)
    problems = list(stored.problems)
    tree = _json(place, TREE, problems, needed=True)
    strings = _json(place, STRINGS, problems)
    shardings = {
        _decoded(name): _sharding(text)
        for name, text in _json(place, SHARDINGS, problems).items()
    }
    arrays, leaves, known = [], {}, set()
    for keys, kind in _leaves(tree, problems):
        name, path = ".".join(keys), "/".join(keys)
        known.add(name)
        if name in stored.arrays:
            found = stored.arrays[name]
        elif kind == "string" and name in strings:
            leaves[path] = repr(strings[name])
            continue
        elif kind in ("None", "Dict", "List", "Tuple", "NamedTuple"):
            leaves[path] = "None" if kind == "None" else f"empty {kind}"
            continue
        else:
            problems.append(Problem(name, "missing: no such array is stored", (name,)))
            found = StoredArray(name, None, {}, {})
        arrays.append(_array(path, found, shardings.get(name)))
    for name in sorted(stored.arrays.keys() - known):  # what `_METADATA` can't tell
        path = name.replace(".", "/")
        arrays.append(_array(path, stored.arrays[name], shardings.get(name)))
    arrays = _with_values(_with_problems(arrays, problems))
    paths = {array.name: array.path for array in arrays}
    problems = [
        problem._replace(arrays=tuple(paths.get(n, n) for n in problem.arrays))
        for problem in problems
    ]
    return Item(stored.format, tuple(arrays), leaves, problems)


def _json(
    place: Place, name: str, problems: list[Problem], needed: bool = False
) -> dict[str, Any]:
    """A file's object; {} if it is not there or broken."""
    if name not in place.files:
        if needed:
            problems.append(Problem(name, "missing"))
        return {}
    try:
        content = json.loads(place.read(name))
        if not isinstance(content, dict):
            raise ValueError("not an object")
        return content
    except (ValueError, OSError) as error:
        problems.append(Problem(name, f"not JSON: {reason(error)}"))
        return {}


def _leaves(
    tree: dict[str, Any], problems: list[Problem]
) -> list[tuple[tuple[str, ...], str]]:
    """(keys, kind) of the leaves that `_METADATA` lists."""
    found = []
    for text, leaf in tree.get("tree_metadata", {}).items():
        try:
            keys = tuple(str(key["key"]) for key in leaf["key_metadata"])
            found.append((keys, leaf["value_metadata"]["value_type"]))
        except (LookupError, TypeError):
            problems.append(Problem(TREE, f"{text} is not the metadata of a leaf"))
    return found


def _decoded(name: str) -> str:
    try:
        return base64.b64decode(name, validate=True).decode()
    except ValueError:
        return name


def _sharding(text: Any) -> Sharding | None:
    """What `_sharding` says of an array: the JSON of a jax sharding."""
    try:
        known = json.loads(text)
        kind = known["sharding_type"]
        if kind != "NamedSharding":
            return Sharding((), (), kind)
        mesh = tuple(zip(known["axis_names"], known["shape"]))
        spec = tuple(
            "+".join(axes) if isinstance(axes, list) else axes or ""
            for axes in known["partition_spec"]
        )
        return Sharding(spec, mesh, kind)
    except (ValueError, LookupError, TypeError):
        return None


def _array(path: str, found: StoredArray, sharding: Sharding | None) -> Array:
    sizes = [blob.size for blob in found.chunks.values()]
    return Array(
        path=path,
        name=found.name,
        zarr=found.zarr,
        chunks=len(found.chunks),
        stored=None if None in sizes else sum(sizes),
        sharding=sharding,
        value=None,
        problems=(),
        spec=found.spec,
    )


def _with_problems(arrays: list[Array], problems: list[Problem]) -> list[Array]:
    of: dict[str, list[str]] = {}
    for problem in problems:
        for name in problem.arrays:
            of.setdefault(name, []).append(f"{problem.file}: {problem.text}")
    if not of:
        return arrays
    return [a._replace(problems=tuple(of.get(a.name, ()))) for a in arrays]


def _with_values(arrays: list[Array]) -> list[Array]:
    """The same, those of a single number with it."""
    reads = {}
    for index, array in enumerate(arrays):
        if array.size == 1 and not array.problems and len(reads) < MOST_VALUES:
            reads[index] = ts.open(array.spec, open=True, read=True)
    for index, opened in reads.items():
        array = arrays[index]
        try:
            number = opened.result().read().result().item()
        except ValueError as error:
            arrays[index] = array._replace(problems=(reason(error),))
            continue
        if isinstance(number, bool | int | float):
            arrays[index] = array._replace(value=number)
    return arrays

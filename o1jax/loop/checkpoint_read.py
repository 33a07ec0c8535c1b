"""What is read of checkpoints, and what is said of those that are damaged.

In: the directory of a run's checkpoints. Out: a step's state in the shardings asked
for, or the parameters alone; or what is wrong with it, in a line. A list of files with
checksums stands beside each step (manifest.py), so damage is told from a fault of ours.
The arrays are orbax's (https://orbax.readthedocs.io), one nested dict named by path.
"""

import os
import pathlib
import re
import sys
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import SingleDeviceSharding

from o1jax.loop import manifest
from o1jax.parallel.hosts import everywhere, first
from o1jax.parallel.sharding import path_name
from o1jax.types import Params

MARK = "commit_success.txt"  # of a whole step in a bucket, for orbax
STEP_NAMES = ocp.path.step.standard_name_format(step_format_fixed_length=6)


class CheckpointError(RuntimeError):
    """What is wrong with a checkpoint, in one line that names the step."""


class RestoredParams(NamedTuple):
    """What evaluation needs of a checkpoint."""

    step: int
    params: Params
    position: dict
    extra: dict


def restore_params(
    directory: str | os.PathLike, step: int | None = None
) -> RestoredParams:
    """The parameters of a step (default: the newest complete one), on one device.

    Reads nothing else, needs no model and changes nothing on disk. CheckpointError if
    there is no such step or it is broken.
    """
    directory = absolute(directory)
    found = steps_in(directory)
    if step is not None and step not in found:
        raise CheckpointError(
            f"no checkpoint of step {step} in {directory}; there are {sorted(found)}"
        )
    if not found:
        raise CheckpointError(f"no checkpoint in {directory}")
    damages: dict[int, str] = {}
    for candidate in found if step is None else [step]:
        restored, damage = try_read(step_path(directory, candidate), None)
        if restored is not None:
            return RestoredParams(candidate, *restored)
        damages[candidate] = damage
        say(f"checkpoint of step {candidate} is broken ({damage})")
    raise CheckpointError(all_broken(directory, damages))


def steps_in(directory: str | os.PathLike) -> list[int]:
    """The steps that were written to their end, as far as names tell; newest first."""
    directory = absolute(directory)
    if not directory.exists():
        return []
    found = [m.step for m in STEP_NAMES.find_all(directory)]
    found += [int(step.name) for step in copied(directory)]
    return sorted(found, reverse=True)


def copied(directory: epath.Path) -> list[epath.Path]:
    """Steps in a bucket that were written to a disk: orbax holds them for half-written.

    A rename made them whole there; here they have a list of their files, but no mark.
    """
    if "://" not in str(directory) or not directory.exists():
        return []
    steps = (path for path in directory.iterdir() if path.name.isdecimal())
    return [
        step
        for step in steps
        if (step / manifest.NAME).exists() and not (step / MARK).exists()
    ]


def try_read(step: epath.Path, target: Any | None) -> tuple[tuple | None, str]:
    """(state, position, extra) and "", or None and what is damaged.

    Without a target: the parameters instead of the state.
    """
    damage = None
    if first():
        damage = manifest.damage(pathlib.Path(step))
    if not everywhere(not damage):
        return None, damage or "found by the first process"
    result = None
    try:
        result = _read(step, target)
    except CheckpointError:
        raise
    except Exception as error:  # what broken bytes make orbax raise has many types
        if damage == "":  # the bytes are as written: moving them aside would be wrong
            raise CheckpointError(
                f"checkpoint {step} is complete but can't be read: {first_line(error)}"
            ) from error
        damage = first_line(error)
    if everywhere(result is not None):
        return result, ""
    return None, damage or "found by another process"


def _read(step: epath.Path, target: Any | None) -> tuple[Any, dict, dict]:
    meta = ocp.JsonCheckpointHandler().restore(step / "meta")
    handler = ocp.PyTreeCheckpointHandler()
    saved = flatten_dict(handler.metadata(step / "state").tree, sep="/")
    for path, impl in meta["keys"].items():
        data = jax.ShapeDtypeStruct(saved[path].shape, saved[path].dtype)
        saved[path] = jax.eval_shape(
            lambda d, impl=impl: jax.random.wrap_key_data(d, impl=impl), data
        )
    if target is None:
        wanted = {
            path: leaf for path, leaf in saved.items() if path.startswith("params/")
        }
    else:
        wanted = flatten(target)
        _check_structure(step, saved, wanted)
    abstract = unflatten_dict(
        {path: _array_target(leaf) for path, leaf in wanted.items()}, sep="/"
    )
    tree = handler.restore(
        step / "state",
        args=ocp.args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        ),
    )
    arrays = flatten_dict(tree, sep="/")
    for path in meta["keys"].keys() & arrays.keys():
        arrays[path] = jax.random.wrap_key_data(arrays[path], impl=meta["keys"][path])
    if target is None:
        state = unflatten_dict(arrays, sep="/")["params"]
    else:
        leaves = [arrays[path] for path in wanted]
        state = jax.tree.unflatten(jax.tree.structure(target), leaves)
    return state, meta["position"], meta["extra"]


def _array_target(leaf: Any) -> jax.ShapeDtypeStruct:
    """What orbax shall restore: plain arrays, each with a sharding."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.Sharding):  # metadata has its own kind
        sharding = SingleDeviceSharding(jax.local_devices()[0])
    data = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, data)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)


def _check_structure(step: epath.Path, saved: dict, wanted: dict) -> None:
    def show(leaf: Any) -> str:
        return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"

    for path in [*wanted, *saved]:
        there, here = show(saved.get(path)), show(wanted.get(path))
        if there != here:
            raise CheckpointError(
                f"checkpoint {step} is of another model or optimizer: {path} is "
                f"{there} in it and {here} in this run"
            )


def flatten(state: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {path_name(path): leaf for path, leaf in leaves}


def absolute(directory: str | os.PathLike) -> epath.Path:
    """The address of a bucket is absolute; epath would put it below the folder."""
    path = epath.Path(directory)
    return path if "://" in str(path) else path.expanduser().absolute()


def step_path(directory: epath.Path, step: int) -> epath.Path:
    return directory / STEP_NAMES.build_name(step)


def all_broken(directory: epath.Path, damages: dict[int, str]) -> str:
    each = "; ".join(f"step {step}: {damage}" for step, damage in damages.items())
    return f"no usable checkpoint in {directory}: {each}"


def first_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    code = re.search(r"os_error_code='(\d+)'", text)  # tensorstore's, behind 3 paths
    return os.strerror(int(code[1])) if code else text.splitlines()[0]


def say(line: str) -> None:
    if first():
        print(line, file=sys.stderr)

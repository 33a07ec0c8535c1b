"""What other writers' checkpoints hold: every format that orbax can write, one tree.

The files are made by the installed orbax, on 8 fake devices, so that arrays are cut
into a chunk a device; what is read back without jax is compared with what was saved.
"""

import subprocess
import sys
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import v1

from o1jax.inspect.checkpoint import read_checkpoint
from o1jax.inspect.checkpoint_pieces import GIB, plan, read_pieces
from o1jax.inspect.checkpoint_place import find_place, find_stages

MEMORY = GIB // 8


class Moments(NamedTuple):
    mu: Any
    nu: Any


def tree():
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def put(array, *spec):
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

    w = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)
    b = jnp.arange(32, dtype=jnp.bfloat16)
    return {
        "params": {
            "layer.0": {"w": put(w, "data", "tensor"), "b": put(b, "tensor")},
            "zero": put(np.zeros((16, 16), np.float32), None, ("data", "tensor")),
            "int8": jnp.ones((3, 5), jnp.int8),
        },
        "opt": [Moments(put(w * 2, "data", "tensor"), put(b, "tensor")), (None, {})],
        "step": 7,
        "name": "chain",
    }


def old(**options):
    def save(path):
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
            checkpointer.save(path, tree())

    return save


def cut_smaller(path):
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=256), tree())
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_zarr3=True)) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree(), save_args=save_args))


def new(**options):
    def save(path):
        saving = v1.options.ArrayOptions.Saving(**options)
        array_options = v1.options.ArrayOptions(saving=saving)
        with v1.Context(array_options=array_options):
            v1.save_pytree(path, tree())

    return save


# name -> (how it is saved, its writer, its format, the shape of a chunk of w)
FORMATS = {
    "v0 zarr2": (old(), "orbax v0", "zarr2 in OCDBT", (32, 8)),
    "v0 zarr2 files": (
        old(use_ocdbt=False),
        "orbax v0",
        "zarr2, a folder an array",
        (32, 8),
    ),
    "v0 zarr3": (old(use_zarr3=True), "orbax v0", "zarr3 in OCDBT", (32, 8)),
    "v0 zarr3 files": (
        old(use_ocdbt=False, use_zarr3=True),
        "orbax v0",
        "zarr3, a folder an array",
        (32, 8),
    ),
    "v0 cut smaller": (cut_smaller, "orbax v0", "zarr3 in OCDBT", (8, 8)),
    "v1 zarr3": (new(), "orbax v1", "zarr3 in OCDBT", (32, 8)),
    "v1 zarr2 files": (
        new(use_ocdbt=False, use_zarr3=False),
        "orbax v1",
        "zarr2, a folder an array",
        (32, 8),
    ),
}


@pytest.fixture(scope="module", params=FORMATS, ids=lambda name: name.replace(" ", "-"))
def saved(request, tmp_path_factory):
    """(name of the format, the checkpoint as read)"""
    path = tmp_path_factory.mktemp("foreign") / "100"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # orbax's about itself
        FORMATS[request.param][0](path)
    (stage,) = find_stages(find_place(path))
    (step,) = stage.steps
    assert step == ("", 100, "")
    return request.param, read_checkpoint(find_place(path), step.number)


def test_every_array_of_every_format_is_found(saved):
    name, checkpoint = saved
    _, writer, stored_as, chunk = FORMATS[name]
    assert (checkpoint.writer, checkpoint.format) == (writer, stored_as)
    assert checkpoint.problems == () and checkpoint.written.endswith(" UTC")
    sizes = {array.path: (array.shape, array.dtype) for array in checkpoint.arrays}
    assert sizes == {
        "params/layer.0/w": ((64, 32), "float32"),
        "params/layer.0/b": ((32,), "bfloat16"),
        "params/zero": ((16, 16), "float32"),
        "params/int8": ((3, 5), "int8"),
        "opt/0/mu": ((64, 32), "float32"),
        "opt/0/nu": ((32,), "bfloat16"),
        "step": ((), "int64"),
    }
    assert [a.path for a in checkpoint.optimizer] == ["opt/0/mu", "opt/0/nu"]
    assert [a.path for a in checkpoint.other] == ["step"]
    found = {array.path: array for array in checkpoint.arrays}
    w = found["params/layer.0/w"]
    assert w.nbytes == 64 * 32 * 4 and 0 < w.stored < w.nbytes  # it is compressed
    assert w.zarr.read_shape == chunk and w.chunks == 64 * 32 // np.prod(
        w.zarr.chunk_shape
    )
    assert w.sharding.text == "data, tensor"
    assert w.sharding.mesh_text == "data=2 tensor=4"
    assert found["params/zero"].sharding.text == "–, data+tensor"  # noqa: RUF001
    assert found["params/int8"].sharding.kind == "SingleDeviceSharding"
    assert found["step"].value == 7


def test_what_is_no_array_is_told(saved):
    _, checkpoint = saved
    assert checkpoint.leaves == {
        "name": "'chain'",
        "opt/1/0": "None",
        "opt/1/1": "empty Dict",
    }


def test_the_numbers_are_those_that_were_saved(saved):
    _, checkpoint = saved
    wanted = tree()["params"]["layer.0"]
    found = {array.path: array for array in checkpoint.arrays}
    for name in ("w", "b"):
        array = found[f"params/layer.0/{name}"]
        read = np.full(array.shape, -1, np.float32)
        for box, data in read_pieces(array, plan([array], MEMORY)):
            read[box] = data
        np.testing.assert_array_equal(read, np.asarray(wanted[name], np.float32))


def test_several_trees_and_json_of_one_checkpoint(tmp_path):
    path = tmp_path / "step_12"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ocp.Checkpointer(ocp.CompositeCheckpointHandler()).save(
            path,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave({"w": jnp.ones((4, 2))}),
                average=ocp.args.StandardSave({"w": jnp.ones((4, 2))}),
                data=ocp.args.JsonSave({"epoch": 3}),
            ),
        )
    checkpoint = read_checkpoint(find_place(path))
    assert [a.path for a in checkpoint.params] == ["average/w", "model/w"]
    assert checkpoint.documents == {"data": {"epoch": 3}}
    assert checkpoint.problems == ()
    assert find_stages(find_place(tmp_path))[0].newest.number == 12


def test_metadata_that_a_database_keeps_in_a_file_among_other_values(tmp_path):
    # tensorstore's own databases keep in their nodes only what has 100 bytes or less.
    base = {"driver": "ocdbt", "base": f"file://{tmp_path}/7/state/"}
    metadata = {"shape": [6, 4], "chunks": [3, 4], "dtype": "<f4"}
    spec = {"driver": "zarr", "kvstore": {**base, "path": "w/"}, "metadata": metadata}
    ts.open(spec, create=True).result().write(np.ones((6, 4), np.float32)).result()
    (array,) = read_checkpoint(find_place(tmp_path / "7")).params
    assert (array.shape, array.dtype, array.chunks) == ((6, 4), "float32", 2)


def test_jax_is_not_imported():
    # The metadata of a checkpoint is wanted on machines where importing jax takes
    # seconds, or where there is none.
    code = (
        "import sys, o1jax.cli, o1jax.inspect.checkpoint_report, "
        "o1jax.inspect.checkpoint_text, o1jax.inspect.checkpoint_page; "
        "print([m for m in ('jax', 'flax', 'orbax', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")

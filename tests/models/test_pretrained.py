"""A run begins with an imported model, and what it became goes out again."""

from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import pytest

from o1jax.cli import main
from o1jax.config import check_workdir, load
from o1jax.loop import model_files
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.model_files import export_model, import_model
from o1jax.loop.pretrained import pretrained
from o1jax.loop.workdir import Workdir
from o1jax.models.safetensors import read_folder
from o1jax.types import TrainState

GOLDEN = Path(__file__).parent / "golden"
EXPERIMENT = """
include '{model}/policy.gin'
Experiment.task = @Chain()
Experiment.stages = [@Pretrained(), @Imitate()]
Pretrained.path = '{model}'
Chain.min_steps = 2
Chain.max_steps = 2
Chain.modulus = 5
BatchConfig.rows = 8
BatchConfig.length = 12
SamplerConfig.max_new_tokens = 4
SamplerConfig.rows = 8
Imitate.steps = 1
Probe.problems = 8
"""
quiet = lambda what, total: nullcontext(lambda done: None)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "llama"
    import_model(GOLDEN / "llama3", folder, progress=quiet)
    return folder


def begun(file, folder, model):
    file.write_text(EXPERIMENT.format(model=model))
    return Workdir(load(file).experiment, folder)


def test_a_run_goes_on_from_an_imported_model(tmp_path, imported):
    file, folder = tmp_path / "tune.gin", tmp_path / "run"
    run = begun(file, folder, imported)
    run.finish(0, pretrained(run, 0, run.experiment.stages[0]))
    assert (folder / "checkpoints" / "00-pretrained").is_symlink()
    # Learners want f32; the import kept bf16.
    assert {x.dtype for x in jax.tree.leaves(run.params)} == {np.dtype(np.float32)}
    again = begun(file, folder, imported)
    assert again.resume() == 1
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)

    # As a step of training leaves it: all layers of a parameter in one chunk.
    trained = jax.tree.map(lambda x: x + 1, run.params)
    state = TrainState(
        step=np.ones((), np.int32), params=trained, opt_state=(), key=jax.random.key(0)
    )
    with Checkpoints(run.checkpoints(1)) as checkpoints:
        checkpoints.save(1, state, {}, {})
    check_workdir(load(file), folder)
    export_model(folder, tmp_path / "out", dtype="float32", progress=quiet)
    ours, theirs = read_folder(tmp_path / "out"), read_folder(GOLDEN / "llama3")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        before = theirs[name].read().astype(np.float32)
        np.testing.assert_array_equal(tensor.read(), before + 1, err_msg=name)


def test_another_size_is_refused(tmp_path, imported, capsys):
    file = tmp_path / "tune.gin"
    file.write_text(EXPERIMENT.format(model=imported) + "PolicyConfig.ff = 32\n")
    assert main(["run", str(file), "--workdir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "layers/mlp/down is (2, 24, 16) in the model and (2, 32, 16)" in line


def test_an_import_that_fails_leaves_nothing(tmp_path, capsys, monkeypatch):
    """Here because the disk is full."""
    read = model_files._read

    def interrupted(*arguments):
        for number, piece in enumerate(read(*arguments)):
            if number == 3:
                raise OSError(28, "No space left on device")
            yield piece

    command = ["import", str(GOLDEN / "llama3"), str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(model_files, "_read", interrupted)
        assert main(command) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(command) == 0
    assert (tmp_path / "run" / "config.gin").exists()

"""A run that began on one mesh goes on on another: where it is is not what it is."""

import pytest

from o1jax.config import ConfigError, check_workdir, load

TEXT = """
Experiment.stages = [@Imitate()]
Experiment.mesh = @MeshConfig()
MeshConfig.data = 2
MeshConfig.fsdp = 4
"""


@pytest.fixture
def loaded(tmp_path):
    import o1jax.loop.experiment  # noqa: F401  registers every config class

    file = tmp_path / "run.gin"
    file.write_text(TEXT)
    return lambda *overrides: load(file, overrides)


def test_another_mesh_is_the_same_run(loaded, tmp_path):
    workdir = tmp_path / "run"
    check_workdir(loaded(), workdir)
    moved = loaded("MeshConfig.data=1", "MeshConfig.fsdp=2", "MeshConfig.tensor=2")
    check_workdir(moved, workdir)
    assert "MeshConfig.tensor = 2\n" in (workdir / "config.gin").read_text()
    # Processes of one start must agree on it, and cached runs keep their names.
    assert moved.fingerprint() != loaded().fingerprint()
    with pytest.raises(ConfigError, match=r"Imitate.steps was \d+, is 7\): choose"):
        check_workdir(loaded("Imitate.steps=7", "MeshConfig.fsdp=8"), workdir)

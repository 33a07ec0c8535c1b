"""An experiment that a slice cannot run is refused before the slice is asked for."""

import importlib.util
from pathlib import Path

import pytest

from o1jax.config import ConfigError

FILE = Path(__file__).parents[2] / "launch" / "preflight.py"
EXPERIMENT = """
Experiment.task = @Chain()
Experiment.stages = [@Imitate()]
BatchConfig.rows = 64
"""


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("preflight", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check


@pytest.fixture
def experiment(tmp_path):
    def write(*lines):
        file = tmp_path / "experiment.gin"
        file.write_text(EXPERIMENT + "\n".join(lines))
        return str(file)

    return write


def test_what_fits_passes(check, experiment):
    check(experiment(), "v5e:8x8")
    check(experiment("MeshConfig.fsdp = 4", "MeshConfig.tensor = 4"), "v5p:4x4x4")


@pytest.mark.parametrize(
    ("lines", "topology", "line"),
    [
        ((), "v5e:16x16", "BatchConfig.rows is 64, which the 256 row shards"),
        (
            ("MeshConfig.data = 8",),
            "v5e:4x4",
            "data=8 x fsdp=1 .* does not fill",
        ),
        (("MeshConfig.tensor = 3",), "v5e:4x4", "does not fill the 16 chips"),
        ((), "v5e", "topology 'v5e' is not CHIP:SIZES"),
    ],
)
def test_what_does_not_is_named(check, experiment, lines, topology, line):
    with pytest.raises(ValueError, match=line):
        check(experiment(*lines), topology)


def test_a_mistake_in_the_file_is_named(check, experiment):
    with pytest.raises(ConfigError, match="Bacth"):
        check(experiment("BacthConfig.rows = 1"), "v5e:4x4")

"""The whole test session runs on 8 fake CPU devices, with jax at its strictest.

Set in the environment, before jax is imported, so that subprocesses of tests get the
same. A test on one device needs nothing special: jax uses device 0 unless told.
"""

import os
from importlib.metadata import version

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of a test's time goes into XLA's compiler, for a program that then runs once. It
# takes a fifth where it neither optimises nor splits the program, and fuses loops as it
# did before; what comes out is about 1.5x as slow.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
        # jaxlib 0.12 has it no more, and an unknown flag ends the process.
        "--xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
        # Of two that contradict each other the last counts: any can be set outside.
        os.environ.get("XLA_FLAGS", ""),
    ]
).strip()
# [B, T] + [T] must be written out: silent broadcasting of ranks hides shape errors.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# A program compiled by an earlier version of the code must never answer for this one.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import jax
import pytest
from hypothesis import settings
from tiny import tiny

# The same examples at every run, and no clock: machines that run tests are busy.
settings.register_profile("o1jax", derandomize=True, deadline=None, database=None)
settings.load_profile("o1jax")


@pytest.fixture
def any_rank():
    """For a test of code that broadcasts ranks silently, such as a library's own."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def make():
    """overrides of a PolicyConfig -> (config, policy, params), see tiny.py."""
    return tiny

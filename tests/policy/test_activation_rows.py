"""Activations are cut by rows on every mesh, not by width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.parallel.sharding import on_rows


@pytest.mark.parametrize("config", [MeshConfig(8, 1, 1), MeshConfig(1, 8, 1)])
def test_rows_are_cut_whatever_the_operand_was(config):
    mesh = build_mesh(config)
    whole = jax.NamedSharding(mesh, jax.P())
    x = jax.device_put(np.zeros((16, 8), np.float32), whole)
    assert jax.jit(on_rows)(x).addressable_shards[0].data.shape == (2, 8)
    uneven = jax.device_put(np.zeros((12, 8), np.float32), whole)
    assert jax.jit(on_rows)(uneven).addressable_shards[0].data.shape == (12, 8)


def test_without_a_mesh_nothing_happens():
    x = jnp.ones((4, 2))
    assert str(jax.make_jaxpr(on_rows)(x)).count("sharding_constraint") == 0

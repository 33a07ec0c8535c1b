"""Matrices of 8 bits: how far from the matrix, and from the policy's logits."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.loop.layout import decoding
from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.policy.int8 import INPUTS, Int8, inputs_of, quantise, quantised, restored


def test_each_output_has_a_scale_of_its_own():
    x = jnp.array([[1.27, 100.0], [-0.5, 63.5], [0.0, 0.0]])  # [D, V]
    value, scale = quantise(x, (-2,))
    np.testing.assert_allclose(scale, [[0.01, 100 / 127]], rtol=1e-6)
    assert value.tolist() == [[127, 127], [-50, 81], [0, 0]]  # 63.5 / (100/127) = 80.6
    assert jnp.max(jnp.abs(value * scale - x) / scale) <= 0.5
    assert quantise(jnp.zeros((3, 2)), (-2,)).value.tolist() == [[0, 0]] * 3


def test_which_parameters_and_how_many_bytes(make):
    _, _, params = make(width=64, ff=128)
    small = quantised(params)
    taken = {name for name in INPUTS if name.startswith("un")}
    for part in ("attention", "mlp"):
        for name, leaf in small["layers"][part].items():
            assert isinstance(leaf, Int8) == bool(inputs_of(f"{part}/{name}"))
            taken.add(f"{part}/{name}")
    assert taken == set(INPUTS)
    assert small["layers"]["attention"]["o"].scale.shape == (2, 1, 1, 1, 64)
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree["layers"]))
    assert size(small) < 0.3 * size(params)  # of f32; scales and norms are the rest


def test_logits_are_close_and_decoding_is_forward(make):
    """Rounding moves a weight by scale / sqrt(12). Initial weights end at 2 of the 0.88
    deviations that are left then, so a product is off by 2.27 / 127 / sqrt(12) = 0.5 %
    of its spread, and 9 of them in a row by 1.6 % at most, if none hides another's."""
    _, policy, _ = make(width=64, ff=128, vocab=40)
    params = jax.jit(policy.init)(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (4, 9), 0, 40)
    forward = jax.jit(lambda p, t: policy.forward(p, t).logits)
    exact, small = forward(params, tokens), forward(quantised(params), tokens)
    off = jnp.std(small - exact) / jnp.std(exact)
    assert 1e-3 < off < 0.016
    # Prefill and a step read the same 8-bit matrices as whole rows do.
    length = jnp.full(4, 8)
    start = jax.jit(lambda p, t: policy.start(p, t[:, :8], length, capacity=12))
    step = jax.jit(policy.step)
    apart = policy.unstack(quantised(params))
    _, cache = start(apart, tokens)
    output, _ = step(apart, cache, tokens[:, 8])
    longer = forward(quantised(params), jnp.pad(tokens, ((0, 0), (0, 1))))
    np.testing.assert_allclose(output.logits, longer[:, 9], rtol=2e-4, atol=2e-4)


def test_a_loop_does_not_make_the_matrices_in_front_of_it(make):
    """The compiled loop carries the 8 bits, not what is made of them."""
    _, policy, params = make(width=64, ff=128)
    apart = policy.unstack(quantised(params))

    def decode(params, tokens):
        _, cache = policy.start(params, tokens, jnp.full(2, 3), capacity=8)
        body = lambda i, c: policy.step(params, c, jnp.full(2, i))[1]
        return jax.lax.fori_loop(0, 4, body, cache).k[0][0].sum()

    jaxpr = jax.make_jaxpr(decode)(apart, jnp.zeros((2, 3), jnp.int32))
    (loop,) = (e for e in jaxpr.eqns if e.primitive.name in ("while", "scan"))
    into = [v.aval for v in loop.invars]
    assert sum(x.dtype == jnp.int8 for x in into) == 8 + 1  # four a layer, unembed
    assert not [x for x in into if x.dtype == jnp.float32 and x.size > 64 * 64]


@pytest.mark.parametrize("decode", [None, MeshConfig(4, 1, 2)])
def test_the_layout_brings_8_bits(make, decode):
    config, _, params = make(decode_weights="int8")
    mesh = build_mesh(MeshConfig(2, 4, 1))
    run = SimpleNamespace(
        mesh=mesh, experiment=SimpleNamespace(decode=decode), policy_config=config
    )
    placed = decoding(run).place(shard(params, TRANSFORMER_RULES, mesh))
    expected = quantised(params)
    jax.tree.map(np.testing.assert_array_equal, placed["layers"], expected["layers"])
    if decode:
        down = placed["layers"]["mlp"]["down"]  # [L, F, D], F over the tensor axis
        assert down.value.sharding.shard_shape(down.value.shape) == (2, 12, 16)
        assert down.scale.sharding.is_fully_replicated
        qkv = placed["layers"]["attention"]["qkv"]
        assert qkv.scale.sharding.shard_shape(qkv.scale.shape)[2] == 1  # K: one of two


def test_only_8_bits(make):
    with pytest.raises(ValueError, match="decode_weights is 'int4'; choose int8"):
        make(decode_weights="int4")
    plain = {"a": jnp.ones(3)}
    assert restored(plain, jnp.float32, now=jnp.zeros(1)) is plain

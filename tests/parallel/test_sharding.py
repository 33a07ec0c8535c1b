"""One table places parameters and optimizer moments alike, and names what it can't."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard, shardings, spec_of
from o1jax.types import TrainState

L, D, K, G, E, F, V = 3, 8, 2, 3, 6, 16, 10


def transformer_params():
    """The names and shapes of the policy's parameters, layers stacked."""
    shapes = {
        "embed": {"embedding": (V, D)},
        "layers": {
            "attention": {
                "qkv": (L, D, K, G + 2, E),
                "o": (L, K, G, E, D),
                "q_norm": {"scale": (L, E)},
                "k_norm": {"scale": (L, E)},
            },
            "mlp": {"gate_up": (L, D, 2, F), "down": (L, F, D)},
            "attention_norm": {"scale": (L, D)},
            "mlp_norm": {"scale": (L, D)},
        },
        "final_norm": {"scale": (D,)},
        "unembed": {"kernel": (D, V)},
        "value": {"kernel": (D, 1), "bias": (1,)},
        "process": {"kernel": (3, 1)},
    }
    is_shape = lambda x: isinstance(x, tuple)
    return jax.tree.map(lambda s: jnp.ones(s), shapes, is_leaf=is_shape)


def train_state():
    params = transformer_params()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        key=jax.random.key(0),
    )


def specs(tree, mesh):
    return jax.tree.map(lambda s: s.spec, shardings(tree, TRANSFORMER_RULES, mesh))


def test_the_table_cuts_heads_widths_and_vocabulary():
    layers = specs(transformer_params(), build_mesh(MeshConfig(2, 2, 2)))["layers"]
    assert layers["attention"]["qkv"] == P(None, "fsdp", "tensor", None, None)
    assert layers["attention"]["o"] == P(None, "tensor", None, None, "fsdp")
    assert layers["mlp"]["gate_up"] == P(None, "fsdp", None, "tensor")
    assert layers["mlp"]["down"] == P(None, "tensor", "fsdp")
    assert layers["attention"]["k_norm"]["scale"] == P(None, None)


def test_an_unscanned_layer_uses_the_same_rule():
    spec = spec_of("params/layer_3/attention/o", (K, G, E, D), TRANSFORMER_RULES)
    assert spec == P("tensor", None, None, "fsdp")


def test_embeddings_are_told_apart():
    rules = TRANSFORMER_RULES
    assert spec_of("params/embed/embedding", (V, D), rules) == P("tensor", "fsdp")
    assert spec_of("params/unembed/kernel", (D, V), rules) == P("fsdp", "tensor")
    with pytest.raises(ValueError, match="unembed/embedding"):
        spec_of("params/unembed/embedding", (V, D), rules)


def test_moments_inherit_and_scalars_are_replicated():
    mesh = build_mesh(MeshConfig(2, 2, 2))
    state = train_state()
    spec = specs(state, mesh)
    adam = spec.opt_state[1][0]
    assert adam.mu == spec.params
    assert adam.nu == spec.params
    assert (adam.count, spec.step, spec.key) == (P(), P(), P())

    placed = shard(state, TRANSFORMER_RULES, mesh)
    qkv = placed.opt_state[1][0].mu["layers"]["attention"]["qkv"]
    shapes = {s.data.shape for s in qkv.addressable_shards}
    assert shapes == {(L, D // 2, K // 2, G + 2, E)}
    np.testing.assert_array_equal(placed.params["embed"]["embedding"], np.ones((V, D)))
    assert (jax.random.bits(placed.key) == jax.random.bits(state.key)).all()


def test_shapes_are_enough():
    mesh = build_mesh(MeshConfig(2, 2, 2))
    abstract = jax.eval_shape(train_state)
    assert specs(abstract, mesh) == specs(train_state(), mesh)


def test_a_dimension_that_does_not_divide_is_named():
    mesh = build_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    message = (
        r"params/layers/attention/qkv \[3, 8, 2, 5, 6\]: dimension 2 \(2\) does "
        r"not divide by mesh axis tensor=4"
    )
    with pytest.raises(ValueError, match=message):
        shardings(
            {
                "params": {
                    "layers": {"attention": {"qkv": jnp.ones((L, D, K, G + 2, E))}}
                }
            },
            TRANSFORMER_RULES,
            mesh,
        )
    # Cut over two axes at once, their product counts: 6 rows over 2 x 4.
    with pytest.raises(ValueError, match=r"dimension 0 \(6\).*fsdp=2 x tensor=4"):
        shardings(
            {"w": jnp.ones((6, 2))}, ((r"w$", P(("fsdp", "tensor"), None)),), mesh
        )


def test_what_no_rule_knows_is_an_error_unless_it_is_small():
    assert spec_of("params/new/bias", (4,), TRANSFORMER_RULES) == P(None)
    assert spec_of("opt_state/0/count", (), TRANSFORMER_RULES) == P()
    with pytest.raises(
        ValueError, match=r"params/new/kernel \[4, 4\]: no sharding rule"
    ):
        spec_of("params/new/kernel", (4, 4), TRANSFORMER_RULES)
    with pytest.raises(ValueError, match=r"mlp/down \[4\]: rule .* at least 2 dim"):
        spec_of("params/mlp/down", (4,), TRANSFORMER_RULES)


def test_the_first_rule_that_is_found_wins():
    rules = ((r"up$", P("tensor")), (r"mlp/", P("fsdp")))
    assert spec_of("params/mlp/up", (2, 2), rules) == P(None, "tensor")
    assert spec_of("params/mlp/down", (2, 2), rules) == P(None, "fsdp")

"""The forward pass: the equations, who sees whom, and what must change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.parallel.sharding import TRANSFORMER_RULES, shardings
from o1jax.policy.attention import attend, rotate, rotation

T = 8
# Distinct tokens, so that a gradient of an embedding row is that of one position.
TOKENS = jnp.array([[3, 9, 0, 5, 11, 7, 1, 4]])
F32 = dict(rtol=2e-5, atol=2e-5)


def reference(config, params, tokens):
    """One row, written from the papers: f64, head by head, rotation as complex turns.

    Returns logits [T, V], value [T] and process [T].
    """
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    T, E = len(tokens), p["layers"]["attention"]["qkv"].shape[-1]

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale

    def turn(x):  # components i and i + E / 2 are a complex number
        angle = np.outer(np.arange(T), 10_000.0 ** (-2 * np.arange(E // 2) / E))
        z = (x[:, : E // 2] + 1j * x[:, E // 2 :]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag], axis=1)

    h = p["embed"]["embedding"][tokens]
    layer_of = lambda i: jax.tree.map(lambda x: x[i], p["layers"])
    for layer in map(layer_of, range(config.layers)):
        attention, x = layer["attention"], norm(h, layer["attention_norm"]["scale"])
        group = config.heads // config.kv_heads
        for head in range(config.heads):
            k_head, g = divmod(head, group)
            q = x @ attention["qkv"][:, k_head, g]
            k = x @ attention["qkv"][:, k_head, group]
            v = x @ attention["qkv"][:, k_head, group + 1]
            if config.qk_norm:
                q = norm(q, attention["q_norm"]["scale"])
                k = norm(k, attention["k_norm"]["scale"])
            score = np.exp(turn(q) @ turn(k).T / np.sqrt(E)) * np.tri(T)
            weight = score / score.sum(axis=1, keepdims=True)
            h = h + weight @ v @ attention["o"][k_head, g]
        x = norm(h, layer["mlp_norm"]["scale"])
        gate, up = x @ layer["mlp"]["gate_up"][:, 0], x @ layer["mlp"]["gate_up"][:, 1]
        h = h + (gate / (1 + np.exp(-gate)) * up) @ layer["mlp"]["down"]
    h = norm(h, p["final_norm"]["scale"])
    before = np.concatenate([np.zeros_like(h[:1]), h[:-1]])  # token t is not in it
    head = p["embed"]["embedding"].T if config.tied else p["unembed"]["kernel"]
    value = (before @ p["value"]["kernel"] + p["value"]["bias"])[:, 0]
    process = (h @ p["process"]["kernel"] + p["process"]["bias"])[:, 0]
    return before @ head, value, process


@pytest.mark.parametrize(
    "overrides",
    [
        dict(kv_heads=4),
        dict(qk_norm=True),
        dict(kv_heads=1, tied=True, head_width=6, layers=3),
    ],
)
def test_the_forward_pass_is_its_equations(make, overrides):
    config, policy, params = make(**overrides)
    tokens = jnp.array([[3, 9, 0, 5, 3, 7, 1], [4, 4, 8, 2, 6, 11, 10]])
    output = jax.jit(policy.forward)(params, tokens)
    for row in range(2):
        logits, value, process = reference(config, params, np.asarray(tokens[row]))
        np.testing.assert_allclose(output.logits[row], logits, **F32)
        np.testing.assert_allclose(output.value[row], value, **F32)
        np.testing.assert_allclose(output.process[row], process, **F32)


@pytest.mark.parametrize("packed", [False, True])
def test_the_attention_of_accelerators_is_that_of_the_cpu(monkeypatch, packed):
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(2, T, 2, 3, 4)), jnp.float32)
    k, v = jnp.asarray(rng.normal(size=(2, 2, T, 2, 4)), jnp.float32)
    segment = jnp.array([[1] * 3 + [2] * 5, [1] * 7 + [0]]) if packed else None
    here = attend(q, k, v, segment=segment)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    there = attend(q, k, v, segment=segment)
    np.testing.assert_allclose(here, there, **F32)


def sensitivity(policy, params, tokens=TOKENS, **kwargs):
    """|d output[t] / d token u| as [t, u] for logits, value and process."""

    def outputs(embedding):
        changed = params | {"embed": {"embedding": embedding}}
        output = policy.forward(changed, tokens, **kwargs)
        # Random weights, so that no cancellation hides a logit.
        mix = jax.random.normal(jax.random.key(0), output.logits.shape[-1:])
        return {
            "logits": output.logits[0] @ mix,
            "value": output.value[0],
            "process": output.process[0],
        }

    jacobian = jax.jit(jax.jacrev(outputs))(params["embed"]["embedding"])
    return {name: jnp.abs(j[:, tokens[0]]).sum(-1) for name, j in jacobian.items()}


def test_causality_by_gradient(make):
    _, policy, params = make(qk_norm=True)
    seen = sensitivity(policy, params)
    before = np.tri(T, k=-1, dtype=bool)  # t sees u < t; process sees u = t as well
    for name, mask in {"logits": before, "value": before, "process": np.tri(T)}.items():
        np.testing.assert_array_equal(seen[name] > 0, mask, err_msg=name)


# Two documents, of 3 and of 4 tokens, and one place of padding.
SEGMENT = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]])
POSITION = jnp.array([[0, 1, 2, 0, 1, 2, 3, 0]])


def test_a_packed_row_gives_what_its_documents_give_alone(make):
    _, policy, params = make(qk_norm=True)
    forward = jax.jit(policy.forward)
    packed = forward(params, TOKENS, segment=SEGMENT, position=POSITION)
    for document in (slice(0, 3), slice(3, 7)):
        alone = forward(params, TOKENS[:, document])
        for part, whole in zip(jax.tree.leaves(packed), jax.tree.leaves(alone)):
            np.testing.assert_allclose(part[:, document], whole, **F32)


def test_no_gradient_crosses_from_document_to_document(make):
    _, policy, params = make(qk_norm=True)
    seen = sensitivity(policy, params, segment=SEGMENT, position=POSITION)
    same = np.asarray(SEGMENT[0][:, None] == SEGMENT[0][None])
    for name, mask in {"logits": np.tri(T, k=-1), "process": np.tri(T)}.items():
        np.testing.assert_array_equal(seen[name] > 0, same & (mask > 0), err_msg=name)


def test_what_stands_behind_the_end_changes_nothing(make):
    _, policy, params = make()
    forward = jax.jit(policy.forward)
    short = forward(params, TOKENS[:, :5])
    long = forward(params, TOKENS)
    other = forward(params, TOKENS.at[:, 5:].set(2))
    head = lambda output: jax.tree.map(lambda x: x[:, :5], output)
    jax.tree.map(np.testing.assert_array_equal, head(long), head(other))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **F32), head(long), short
    )


def test_rotary_scores_depend_on_the_distance_only():
    rng = np.random.default_rng(0)
    q, k = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)

    def score(at_q, at_k):
        turned = [
            rotate(x[None, None], rotation(jnp.array([at]), 6, 10_000.0))
            for x, at in ((q, at_q), (k, at_k))
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    # f32 angles of up to 100 rad are off by up to 100 * 2^-24 = 6e-6, and |q||k| < 10.
    np.testing.assert_allclose(score(9, 2), score(100, 93), atol=1e-4)
    np.testing.assert_allclose(score(5, 5), q @ k, atol=1e-5)
    assert abs(score(9, 2) - score(9, 3)) > 0.01


def test_only_differences_of_position_matter_to_the_policy(make):
    _, policy, params = make()
    forward = jax.jit(policy.forward)
    at = jnp.arange(T)[None]
    plain = forward(params, TOKENS, position=at)
    jax.tree.map(
        np.testing.assert_array_equal, plain, jax.jit(policy.forward)(params, TOKENS)
    )
    moved = forward(params, TOKENS, position=at + 50)
    stretched = forward(params, TOKENS, position=at * 3)
    np.testing.assert_allclose(plain.logits, moved.logits, rtol=1e-4, atol=1e-4)
    assert jnp.abs(plain.logits - stretched.logits).max() > 0.01


def test_remat_and_unroll_change_nothing(make):
    def gradient(**overrides):
        _, policy, params = make(layers=3, **overrides)
        loss = lambda p: jnp.mean(jnp.sin(policy.forward(p, TOKENS).logits))
        return jax.jit(jax.value_and_grad(loss))(params)

    plain = gradient()
    assert all(jnp.abs(plain[1]["layers"]["mlp"]["down"]).max((1, 2)) > 0)
    for overrides in (dict(remat="dots", unroll=3), dict(remat="full")):
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        jax.tree.map(close, plain, gradient(**overrides))


def test_bfloat16_stays_inside(make):
    _, policy, params = make(qk_norm=True)
    _, half, _ = make(qk_norm=True, dtype="bfloat16")
    exact = jax.jit(policy.forward)(params, TOKENS)
    rounded = jax.jit(half.forward)(params, TOKENS)
    for leaf in jax.tree.leaves(rounded):
        assert leaf.dtype == jnp.float32
    # Rounding to 8 bits is off by about 2^-9 of a number. On the way to a logit lie
    # about 12 roundings a layer (weights and results of 4 products, norms, rotation,
    # softmax, sums), so 25 in all; independent errors add like sqrt(25) = 5.
    # An estimate, so within a factor of 2; and below 2^-9 nothing was rounded.
    rms = lambda x: float(jnp.sqrt(jnp.mean(x[:, 1:] ** 2)))
    error = rms(rounded.logits - exact.logits) / rms(exact.logits)
    assert 2.0**-9 < error < 2 * 5 * 2.0**-9
    # Logits come out of an f32 sum: rounded to bf16, one of 8 to 16 would be off by
    # up to 1/32, and so would its log-prob.
    as_bf16 = rounded.logits.astype(jnp.bfloat16).astype(jnp.float32)
    assert jnp.mean(rounded.logits[:, 1:] == as_bf16[:, 1:]) < 0.1


def test_parameters_of_a_key_are_the_same_on_a_mesh(make):
    _, policy, _ = make(qk_norm=True)
    key = jax.random.key(3)
    mesh = build_mesh(MeshConfig(2, 2, 2))
    placed = shardings(jax.eval_shape(policy.init, key), TRANSFORMER_RULES, mesh)
    alone = jax.jit(policy.init)(key)
    shared = jax.jit(policy.init, out_shardings=placed)(key)
    assert len(shared["layers"]["mlp"]["down"].devices()) == 8
    jax.tree.map(np.testing.assert_array_equal, alone, shared)
    # Each layer has its own numbers, of variance 1 / D.
    gate = alone["layers"]["mlp"]["gate_up"]
    assert jnp.abs(gate[0] - gate[1]).max() > 0.1
    # A normal cut at 2 standard deviations keeps 0.88 of its own.
    np.testing.assert_allclose(jnp.std(gate), 0.88 * 16**-0.5, rtol=0.1)

"""Losses against the published equations, and what must change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tabular
from tabular import MASK, MOST, POLICY, STATE, TOKENS

from o1jax.config import ConfigError, load
from o1jax.learn.kl import KLControl, divergence
from o1jax.learn.policy_objective import (
    RECIPES,
    PolicyGradient,
    build_experience,
    policy_gradient_objective,
)
from o1jax.learn.reading import LOWEST, read_responses
from o1jax.learn.reduction import overlong_penalty
from o1jax.learn.terms import Critic, Divergence, Entropy, Reinforce, Surrogate
from o1jax.learn.update import _mean, build_update
from o1jax.types import TrainState

NOW, OLD, REFERENCE = (tabular.table(seed) for seed in range(3))
now, old, reference = map(tabular.Theory, (NOW, OLD, REFERENCE))
AT = np.array([13, 4, 0, 9, 2, 14, 7, 1])  # two questions, four responses each
PAID = np.random.default_rng(0).normal(0, 1, MASK.shape) * MASK
ALL = PolicyGradient(
    "gae",
    (Surrogate(0.1, 0.2), Divergence("k3"), Entropy(0.1), Critic(0.5, 0.1)),
    "token",
    lam=0.9,
    kl=KLControl(0.3),
)

# An optimizer that changes nothing and keeps the gradient as its state.
KEEP = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params: (jax.tree.map(jnp.zeros_like, grads), grads),
)


@functools.cache
def programs(config):
    """build_experience; batch -> loss and metrics; its gradient at params, a sum."""
    objective = policy_gradient_objective(POLICY, config)

    def loss(batch):
        total, metrics = objective.total(NOW, batch)
        weight = objective.weight(batch)
        return total / weight, {name: _mean(x, weight) for name, x in metrics.items()}

    static = functools.partial(build_experience, config, samples=4, max_tokens=MOST)
    return (
        jax.jit(static),
        jax.jit(loss),
        jax.jit(jax.grad(lambda p, b: objective.total(p, b)[0])),
    )


def batch_of(config, at=AT, **given):
    f32 = lambda x: x[at].astype(np.float32)
    given = {"ref_logprob": f32(reference.logprob)} | given
    return programs(config)[0](tabular.trajectories(old, at), f32(PAID), **given)


def loss_of(config, batch):
    return programs(config)[1](batch)


# As trl 0.2x computes them, from the papers' equations.


def standardised(r):
    r = r.reshape(-1, 4)
    return (
        (r - r.mean(1, keepdims=True)) / (r.std(1, ddof=1, keepdims=True) + 1e-4)
    ).ravel()


def test_grpo_dapo_and_dr_grpo_by_their_equations():
    r, mask = PAID[AT].sum(1), MASK[AT]
    ratio = np.exp(now.logprob - old.logprob)[AT]
    d = (reference.logprob - now.logprob)[AT]

    def surrogate(A, low, high):
        A = A[:, None]
        return -np.minimum(ratio * A, np.clip(ratio, 1 - low, 1 + high) * A)

    each = surrogate(standardised(r), 0.2, 0.2) + 0.04 * (np.exp(d) - d - 1)
    grpo = ((each * mask).sum(1) / mask.sum(1)).mean()
    found, metrics = loss_of(RECIPES["grpo"], batch_of(RECIPES["grpo"]))
    np.testing.assert_allclose(found, grpo, rtol=1e-5)
    k3 = ((np.exp(d) - d - 1) * mask).sum() / mask.sum()
    np.testing.assert_allclose(metrics["kl_reference"], k3, rtol=1e-5)

    centred = (r.reshape(-1, 4) - r.reshape(-1, 4).mean(1, keepdims=True)).ravel()
    each = surrogate(centred, 0.2, 0.2) * mask
    found, _ = loss_of(RECIPES["dr_grpo"], batch_of(RECIPES["dr_grpo"]))
    np.testing.assert_allclose(found, each.sum() / MOST / len(AT), rtol=1e-5)

    counts = mask & tabular.FINISHED[AT][:, None]  # what was cut off is left out
    assert 0 < counts.sum() < mask.sum()
    each = surrogate(standardised(r), 0.2, 0.28) * counts
    found, _ = loss_of(RECIPES["dapo"], batch_of(RECIPES["dapo"]))
    np.testing.assert_allclose(found, each.sum() / counts.sum(), rtol=1e-5)


def test_ppo_by_its_equations():
    mask = MASK[AT]
    before, after = old.value[AT], now.value[AT]
    A = np.zeros(mask.shape)
    for t in range(MASK.shape[1] - 1, 0, -1):
        v, more = (0, 0) if t + 1 == mask.shape[1] else (before[:, t + 1], A[:, t + 1])
        A[:, t] = (PAID[AT][:, t] + v - before[:, t] + 0.95 * more) * mask[:, t]
    ratio = np.exp(now.logprob - old.logprob)[AT]
    policy = np.maximum(-A * ratio, -A * np.clip(ratio, 0.8, 1.2))
    returns = A + before
    near = np.clip(after, before - 0.2, before + 0.2)
    value = 0.5 * np.maximum((after - returns) ** 2, (near - returns) ** 2)
    ppo = ((policy + 0.5 * value) * mask).sum() / mask.sum()
    found, metrics = loss_of(RECIPES["ppo"], batch_of(RECIPES["ppo"]))
    np.testing.assert_allclose(found, ppo, rtol=1e-5)
    cut = (-A * np.clip(ratio, 0.8, 1.2) > -A * ratio)[mask].mean()
    assert 0 < cut < 1
    np.testing.assert_allclose(metrics["clip_fraction"], cut, rtol=1e-6)


def test_gspo_by_its_equation():
    r, n = PAID[AT].sum(1), MASK[AT].sum(1)
    s = np.exp((now.logprob - old.logprob)[AT].sum(1) / n)
    A = standardised(r)
    gspo = -np.minimum(s * A, np.clip(s, 1 - 3e-4, 1 + 4e-4) * A).mean()
    found, _ = loss_of(RECIPES["gspo"], batch_of(RECIPES["gspo"]))
    np.testing.assert_allclose(found, gspo, rtol=1e-5)


def test_the_metrics_are_means_over_tokens_that_count():
    config = dataclasses.replace(RECIPES["dr_grpo"], truncation="mask")
    batch = batch_of(config)
    _, metrics = loss_of(config, batch)
    counts = (MASK & tabular.FINISHED[:, None])[AT]
    gap = (now.logprob - old.logprob)[AT]
    entropy = -(now.p * now.logp).sum(1)[STATE][AT]
    value = np.asarray(NOW["value"])[STATE][AT]
    for name, wanted in {
        "logprob_gap": np.abs(gap),
        "kl_sampler": np.exp(gap) - 1 - gap,
        "entropy": entropy,
        "value": value,
        "advantage": np.asarray(batch.advantage),
    }.items():
        wanted = wanted[counts].mean()
        np.testing.assert_allclose(metrics[name], wanted, rtol=1e-4, err_msg=name)


# What changes nothing.


@pytest.fixture(scope="module")
def gradient():
    state = TrainState(jnp.int32(0), NOW, KEEP.init(NOW), jax.random.key(0))

    @functools.cache
    def update(microbatches):
        objective = policy_gradient_objective(POLICY, ALL)
        return jax.jit(build_update(objective, KEEP, microbatches=microbatches))

    def of(batch, microbatches=1):
        new, metrics = update(microbatches)(state, batch)
        return new.opt_state, metrics

    return of


def same(found, wanted):
    """Sums in another order: f32 rounding of the largest of an array."""

    def close(x, y):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6 * np.abs(y).max())

    jax.tree.map(close, found, wanted)


def test_the_layout_of_a_batch_changes_nothing(gradient):
    batch = batch_of(ALL)
    wanted = gradient(batch)
    assert wanted[1]["grad_norm"] > 0.1
    order = np.random.default_rng(0).permutation(len(AT))
    same(gradient(jax.tree.map(lambda x: x[order], batch)), wanted)
    # A row of padding is one whose response has no token; so are three columns.
    wider = lambda x: np.pad(x, ((0, 4), (0, 3))[: x.ndim], constant_values=1)
    rows = jax.tree.map(wider, tabular.trajectories(old, AT))
    rows.length[8:] = 1
    f32 = lambda x: wider(x[AT].astype(np.float32))
    padded = programs(ALL)[0](rows, f32(PAID), ref_logprob=f32(reference.logprob))
    same(gradient(padded, 3), wanted)


def test_rows_that_are_not_kept_only_lower_the_baseline():
    config = PolicyGradient("centred", reduction="response")
    keep = np.arange(8) != 3
    batch = batch_of(config, keep=jnp.asarray(keep))
    np.testing.assert_allclose(batch.advantage, batch_of(config).advantage)
    np.testing.assert_allclose(batch.share, keep)
    assert not batch.weight[3].any() and batch.weight[2].any()


def test_a_critic_of_its_own_learns_alone():
    """What its values were does the rest; the mesh: test_updates_on_mesh.py."""
    params = {"policy": NOW, "critic": REFERENCE}
    batch = batch_of(ALL)
    objective = policy_gradient_objective(POLICY, ALL, critic=POLICY)
    own = jax.jit(jax.grad(lambda p: objective.total(p, batch)[0]))(params)
    shared = programs(ALL)[2]
    both, other = shared(NOW, batch), shared(REFERENCE, batch)
    np.testing.assert_allclose(own["policy"]["logits"], both["logits"], atol=1e-5)
    np.testing.assert_allclose(own["critic"]["value"], other["value"], atol=1e-5)
    assert not own["policy"]["value"].any() and not own["critic"]["logits"].any()
    assert np.abs(other["value"] - both["value"]).max() > 0.01


# Small parts.


def test_a_token_that_is_left_out_by_now_has_ratio_0():
    """Top-1 of the table: most tokens are left out, and none makes a NaN."""

    def top_1(logits):
        best = jnp.max(logits, axis=-1, keepdims=True)
        return jax.nn.log_softmax(jnp.where(logits < best, -jnp.inf, logits))

    batch = batch_of(ALL)
    rows = (batch.tokens, batch.prompt_length, batch.length)
    read = jax.jit(lambda p: read_responses(POLICY, p, *rows, distribution=top_1))(NOW)
    chosen = np.argmax(now.logp[STATE], axis=-1)[AT] == TOKENS[AT]
    wanted = np.where(chosen | ~MASK[AT], 0, LOWEST)
    np.testing.assert_array_equal(read.logprob, wanted)
    np.testing.assert_array_equal(read.entropy, 0)
    config = dataclasses.replace(ALL, terms=(Reinforce(), *ALL.terms))
    objective = policy_gradient_objective(POLICY, config, distribution=top_1)
    grads = jax.jit(jax.grad(lambda p: objective.total(p, batch)[0]))(NOW)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert not grads["logits"].any()  # a distribution of one token has no slope


def test_the_estimates_of_the_divergence_by_hand():
    p, r = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))  # d = log 2
    log2 = np.log(2)
    found = {k: divergence(p, r, k)[0] for k in ("k1", "k2", "k3", "straight_through")}
    np.testing.assert_allclose(found["k1"], log2, rtol=1e-6)
    np.testing.assert_allclose(found["k2"], log2**2 / 2, rtol=1e-6)
    np.testing.assert_allclose(found["k3"], 0.5 - 1 + log2, rtol=1e-5)
    np.testing.assert_allclose(found["straight_through"], found["k3"], rtol=1e-6)
    with pytest.raises(ValueError, match="kind must be one of k1, k2"):
        divergence(p, r, "k4")


def test_the_coefficient_adapts_as_ziegler_has_it():
    control = KLControl(0.2, "adaptive", target=6.0, horizon=1000, stop=0.02)
    # Twice the target is clipped to an error of 0.2: 1 + 0.2 * 256 / 1000.
    np.testing.assert_allclose(control.after(0.5, 12.0, 256), 0.5 * 1.0512)
    np.testing.assert_allclose(control.after(0.5, 5.4, 256), 0.5 * (1 - 0.1 * 0.256))
    assert KLControl(0.2).after(0.5, 99.0, 256) == 0.5
    assert control.too_far(0.021) and not control.too_far(0.02)
    assert not KLControl().too_far(99.0)


def test_the_overlong_penalty_by_hand():
    found = overlong_penalty(jnp.array([1, 6, 7, 9, 10]), 10, 4)
    np.testing.assert_allclose(found, [0, 0, -0.25, -0.75, -1])
    with pytest.raises(ValueError, match=r"buffer \(0\) must be from 1"):
        overlong_penalty(jnp.array([1]), 10, 0)


def test_an_experiment_file_names_the_four_choices(tmp_path):
    file = tmp_path / "dapo.gin"
    lines = """
        PolicyGradient.signal = "group"
        PolicyGradient.terms = (@Surrogate(), @Divergence(),)
        PolicyGradient.reduction = "token"
        PolicyGradient.truncation = "mask"
        Surrogate.clip_high = 0.28
        Divergence.kind = "k2"
        KLControl.coef = 0.01
    """
    file.write_text("\n".join(line.strip() for line in lines.splitlines()))
    wanted = PolicyGradient(
        "group",
        (Surrogate(0.2, 0.28), Divergence("k2")),
        "token",
        "mask",
        kl=KLControl(0.01),
    )
    assert load(file, root="PolicyGradient").experiment == wanted
    with pytest.raises(ConfigError, match=r"--set.*signal.*did you mean group\?"):
        load(file, ['PolicyGradient.signal="groups"'], root="PolicyGradient")


@pytest.mark.parametrize(
    "fields, culprit",
    [
        (dict(signal="centered"), "signal must be one of .*did you mean centred"),
        (dict(reduction="mean"), "reduction must be one of token"),
        (dict(truncation="drop"), "truncation must be one of keep, mask"),
        (dict(gamma=1.5), "gamma must be from 0 to 1"),
        (dict(terms=()), "terms must not be empty"),
        (dict(signal="gae"), "needs a Critic"),
    ],
)
def test_an_impossible_choice_is_named(fields, culprit):
    with pytest.raises(ValueError, match=culprit):
        PolicyGradient(**fields)


@pytest.mark.parametrize(
    "make_it, culprit",
    [
        (lambda: Surrogate(clip_low=0.0), "clip_low"),
        (lambda: Surrogate(clip_high=0.0), "clip_high"),
        (lambda: Surrogate(dual_clip=0.5), "dual_clip"),
        (lambda: Surrogate(ratio="sequence"), "ratio"),
        (lambda: Divergence("k5"), "kind"),
        (lambda: Entropy(float("nan")), "coef"),
        (lambda: Critic(coef=0.0), "coef"),
        (lambda: Critic(clip=-1.0), "clip"),
        (lambda: KLControl(-1.0), "coef"),
        (lambda: KLControl(kind="adaptive"), "coef must be above 0 to adapt"),
        (lambda: KLControl(kind="linear"), "kind"),
        (lambda: KLControl(target=0.0), "target"),
        (lambda: KLControl(horizon=0), "horizon"),
        (lambda: KLControl(stop=-1.0), "stop"),
    ],
)
def test_an_impossible_number_is_named(make_it, culprit):
    with pytest.raises(ValueError, match=culprit):
        make_it()


def test_what_is_missing_for_a_batch_is_named():
    rows = (tabular.trajectories(old, AT), PAID[AT].astype(np.float32))
    with pytest.raises(ValueError, match="ref_logprob must be given"):
        build_experience(ALL, *rows, samples=4, max_tokens=MOST)
    with pytest.raises(ValueError, match=r"samples \(3\) must divide the rows \(8\)"):
        build_experience(RECIPES["rloo"], *rows, samples=3, max_tokens=MOST)

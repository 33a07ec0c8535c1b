"""Every signal, term and reduction: its expected gradient over all that can be sampled.

A question is answered by a group of three responses; all 15^3 groups are listed, each
goes through build_experience and the objective, and the gradients are averaged by the
group's probability. That must be the gradient of the objective that theory names, or
differ from it by the bias that theory gives.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tabular
from tabular import LENGTH, MASK, MOST, POLICY, RESPONSES, STATE, TOKENS, T

from o1jax.learn.advantage import EPS
from o1jax.learn.kl import KLControl
from o1jax.learn.policy_objective import (
    PolicyGradient,
    build_experience,
    policy_gradient_objective,
)
from o1jax.learn.terms import Critic, Divergence, Entropy, Reinforce, Surrogate

G = 3
AT = tabular.groups(G)  # i[3375, 3]
NOW, OLD, REFERENCE = (tabular.table(seed) for seed in range(3))
now, old, reference = map(tabular.Theory, (NOW, OLD, REFERENCE))

# Paid for choosing a token in a state; closing a step is to write b.
PAID = np.random.default_rng(3).normal(0, 1, (8, 3))[STATE, TOKENS] * MASK
R = PAID.sum(1)
RIGHT = np.array([y[-1] == 1 or y == (0, 2) for y in RESPONSES], float)
STEP_END = MASK & (TOKENS == 1)
OUTCOME = np.where(np.arange(T) == LENGTH[:, None], RIGHT[:, None], 0.0)

TERMS = {
    "reinforce": Reinforce(),
    "unclipped": Surrogate(1.0, 1e9),
    "clipped": Surrogate(0.2, 0.3),
    "dual": Surrogate(0.2, 0.3, dual_clip=1.2),
    "response": Surrogate(0.1, 0.1, ratio="response"),
    **{k: Divergence(k) for k in ("k1", "k2", "k3", "straight_through")},
    "entropy": Entropy(1.0),
    "critic": Critic(1.0),
    "critic_clip": Critic(1.0, 0.3),
}
REDUCTIONS = ("token", "response", "constant", "sum")


@pytest.fixture(scope="module")
def expected():
    """(experience of all groups, sampler) -> term -> gradient of its expected loss."""

    @jax.jit
    def gradients(batch, chance):
        def of(term):
            objective = policy_gradient_objective(POLICY, PolicyGradient(terms=(term,)))
            loss = lambda p, b: objective.total(p, b)[0] / objective.weight(b)
            each = jax.vmap(jax.grad(loss), (None, 0))(NOW, batch)
            return jax.tree.map(lambda g: jnp.tensordot(chance, g, 1), each)

        return {name: of(term) for name, term in TERMS.items()}

    def of(batch, sampler=now):
        chance = np.prod(sampler.P[AT], axis=1)
        found = gradients(batch, jnp.asarray(chance, jnp.float32))
        return jax.tree.map(np.asarray, found)

    return of


@pytest.fixture(scope="module")
def experience():
    """(signal, reduction, ...) -> the batch of every group, [3375, 3, ...]."""

    @functools.cache
    def built(config):
        def one(trajectory, paid, step_end, ref):
            return build_experience(
                config,
                trajectory,
                paid,
                samples=G,
                max_tokens=MOST,
                step_end=step_end,
                ref_logprob=ref,
                kl_coef=1.0,
            )

        return jax.jit(jax.vmap(one))

    def of(signal, reduction="sum", *, paid=PAID, sampler=now, lam=1.0, kl=0.0):
        rows = lambda x: np.reshape(x, (len(AT), G, *x.shape[1:]))
        f32 = lambda x: rows(x[AT.ravel()].astype(np.float32))
        given = (f32(paid), rows(STEP_END[AT.ravel()]), f32(reference.logprob))
        trajectory = jax.tree.map(rows, tabular.trajectories(sampler, AT))
        terms = (Reinforce(), Critic())
        build = lambda *choices, **numbers: built(
            PolicyGradient(choices[0], terms, choices[1], **numbers)
        )(trajectory, *given)
        batch = build(signal, "sum", lam=lam, kl=KLControl(kl))
        if reduction != "sum":  # which has no part in the advantages: a program less
            other = build("reward", reduction)
            batch = batch.replace(weight=other.weight, share=other.share)
        return batch

    return of


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=3e-6)


def weights(reduction):
    """[3375, 3]: of each response's tokens, divided by its group's share."""
    n = LENGTH[AT]
    return {
        "token": 1 / n.sum(1, keepdims=True) + 0 * n,
        "response": 1 / n / G,
        "constant": 1 / MOST / G + 0 * n,
        "sum": 1 / G + 0 * n,
    }[reduction]


def average(coefficient, w, sampler=now, direction=now.score):
    """Mean over all groups of sum_{b,t} w coefficient direction, which is [15, T, ...].

    coefficient: [3375, 3, T], or [15, T] if it does not depend on the others.
    """
    chance = np.prod(sampler.P[AT], axis=1)
    if coefficient.shape == MASK.shape:
        coefficient = coefficient[AT]
    by = np.einsum("g,gb,gbt->gbt", chance, w, coefficient)
    of_response = np.zeros(MASK.shape)
    np.add.at(of_response, AT, by)
    return np.tensordot(of_response, direction, 2)


# What each signal is, from its definition.


def advantages(signal, paid, lam=1.0):
    """[3375, 3, T]"""
    r = paid.sum(1)[AT]
    mean, std = r.mean(1, keepdims=True), r.std(1, ddof=1, keepdims=True)
    others = (r.sum(1, keepdims=True) - r) / (G - 1)
    of_response = {
        "reward": r,
        "batch_mean": r - mean,
        "centred": r - mean,
        "leave_one_out": r - others,
        "group": (r - mean) / (std + EPS),
    }
    if signal in of_response:
        return of_response[signal][..., None] * MASK[AT]
    if signal == "gae":
        return _gae(paid, lam)[AT]
    return np.array([_process(group, paid) for group in AT])


def _gae(paid, lam):
    """sum_k lam^k d_{t+k}, written out."""
    v = now.value
    after = np.pad(v[:, 1:], ((0, 0), (0, 1)))
    d = np.where(MASK, paid + after - v, 0)
    A = [sum(lam**k * d[:, t + k] for k in range(T - t)) for t in range(T)]
    return np.stack(A, 1) * MASK


def _process(group, paid):
    """A step ends with b; what is behind the last b belongs to the last step."""
    found = []
    for y in group:
        ends = [1 + i for i, token in enumerate(RESPONSES[y]) if token == 1] or [0]
        ends[-1] = LENGTH[y]
        starts = [1, *(e + 1 for e in ends[:-1])]
        found.append([(e, paid[y, a : e + 1].sum()) for a, e in zip(starts, ends)])
    sums = [s for steps in found for _, s in steps]
    mean, std = np.mean(sums), np.std(sums, ddof=1)
    A = np.zeros((G, T))
    for row, steps in zip(A, found):
        for end, s in steps:
            row[1 : end + 1] += (s - mean) / (std + EPS)
    return A


SIGNALS = [
    *("reward", "batch_mean", "leave_one_out", "group", "centred", "process"),
    "gae",
]


@pytest.mark.parametrize("signal", SIGNALS)
def test_every_signal_and_reduction_is_as_defined(expected, experience, signal):
    paid = OUTCOME if signal == "group" else PAID
    lam = 0.5 if signal == "gae" else 1.0
    A = advantages(signal, paid, lam)
    batch = experience(signal, paid=paid, lam=lam)
    np.testing.assert_allclose(batch.advantage, A, atol=2e-5)
    for reduction in REDUCTIONS:
        batch = experience(signal, reduction, paid=paid, lam=lam)
        found = expected(batch)
        wanted = average(-A, weights(reduction))
        close(found["reinforce"]["logits"], wanted)
        # With fresh samples every ratio is 1 and the surrogates have that gradient too.
        for name in ("unclipped", "clipped", "dual", "response"):
            close(found[name]["logits"], found["reinforce"]["logits"])
        assert not found["reinforce"]["value"].any()


# What theory says of them. J is the expected return; the loss falls along its slope.

J, SLOPE = now.P @ R, now.slope(R)


@pytest.mark.parametrize(
    "signal, part",
    [
        ("reward", 1),
        ("leave_one_out", 1),
        ("gae", 1),
        ("centred", (G - 1) / G),
        ("batch_mean", (G - 1) / G),
    ],
)
def test_a_sum_over_tokens_follows_the_expected_return(
    expected, experience, signal, part
):
    """Whatever the critic says; a mean that holds the response itself shortens it."""
    found = expected(experience(signal, lam=1.0))["reinforce"]["logits"]
    close(found, -part * SLOPE)
    found = expected(experience(signal, "constant", lam=1.0))["reinforce"]["logits"]
    close(found, -part * SLOPE / MOST)


def test_dividing_by_the_length_follows_another_objective(expected, experience):
    """E[R / n] without a baseline; a baseline b adds b times the slope of E[1 / n]."""
    short = now.slope(1 / LENGTH)
    found = expected(experience("reward", "response"))["reinforce"]["logits"]
    close(found, -now.slope(R / LENGTH))
    found = expected(experience("leave_one_out", "response"))["reinforce"]["logits"]
    close(found, -(now.slope(R / LENGTH) - J * short))
    assert np.abs(J * short).max() > 0.01
    # A token mean divides by the length of all responses: E[R 3 E[1 / (n + others)]].
    two = tabular.groups(2)
    others, chance = LENGTH[two].sum(1), np.prod(now.P[two], axis=1)
    h = (chance / (LENGTH[:, None] + others)).sum(1)
    found = expected(experience("reward", "token"))["reinforce"]["logits"]
    close(found, -now.slope(G * h * R))


def test_dividing_by_the_deviation_follows_another_objective(expected, experience):
    """For right and wrong answers the slope of p is multiplied by c(p): of questions
    that are nearly always or never solved more is made than their share.
    """
    found = expected(experience("group", paid=OUTCOME))["reinforce"]["logits"]
    close(found, -factor(now.P @ RIGHT, G) * now.slope(RIGHT))
    # In a large group c(p) is 1 / sqrt(p (1 - p)): the slope of 2 arcsin(sqrt(p)).
    for p in (0.1, 0.5):
        np.testing.assert_allclose(factor(p, 1000), (p - p * p) ** -0.5, rtol=0.01)
    assert 1.2 < factor(0.1, 8) / factor(0.5, 8) < 0.5 / 0.3  # the limit's ratio


def factor(p, size):
    """sum over k right answers: P(k) (k/G A_right / p - (1 - k/G) A_wrong / (1 - p))"""
    share = np.arange(1, size) / size  # where all are equal, both advantages are 0
    chance = np.array(
        [math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(1, size)]
    )
    std = np.sqrt(size / (size - 1) * share * (1 - share)) + EPS
    right, wrong = (1 - share) / std, -share / std
    return chance @ (share * right / p - (1 - share) * wrong / (1 - p))


def test_one_step_returns_are_as_wrong_as_the_critic(expected, experience):
    """lam = 0: the gradient is off by what the critic's error would earn."""
    found = expected(experience("gae", lam=0.0))["reinforce"]["logits"]
    true = value_of(now)
    after = np.pad((now.value - true[STATE] * MASK)[:, 1:], ((0, 0), (0, 1)))
    bias = average(after, weights("sum"))
    close(found, -SLOPE - bias)
    assert np.abs(bias).max() > 0.05


def value_of(theory):
    """[8]: the expected return of each state; q_of: [8, 3] of each choice in it."""
    return (theory.p * q_of(theory)).sum(1)


def q_of(theory):
    q, pay = np.zeros((8, 3)), np.zeros((8, 3))
    pay[STATE[MASK], TOKENS[MASK]] = PAID[MASK]
    for s in range(7, 0, -1):
        v = lambda a, s=s: theory.p[2 * s + a] @ q[2 * s + a] if s < 4 and a < 2 else 0
        q[s] = [pay[s, a] + v(a) for a in range(3)]
    return q


# The divergence from the reference.

D = now.logprob - reference.logprob
COEFFICIENT = {  # of the gradient of log p_t
    "k1": np.where(MASK, 1.0, 0.0),
    "k2": D,
    "k3": 1 - np.exp(-D),
    "straight_through": D,
}


def test_every_divergence_and_reduction(expected, experience):
    for reduction in REDUCTIONS:
        found = expected(experience("reward", reduction))
        for kind, coefficient in COEFFICIENT.items():
            wanted = average(coefficient * MASK, weights(reduction))
            close(found[kind]["logits"], wanted)
        # k1 has no gradient but by the length: that of E[w(n)], which is no divergence.
        if reduction in ("sum", "constant"):
            close(found["k1"]["logits"], 0)
        if reduction == "response":
            close(found["k1"]["logits"], now.slope(1 / LENGTH))


def test_divergences_hold_the_states_fixed(expected, experience):
    found = expected(experience("reward"))
    d = now.logp - reference.logp
    to_reference = now.p * (d - (now.p * d).sum(1, keepdims=True))  # of KL(p || r)
    from_reference = now.p - reference.p  # of KL(r || p)
    for kind in ("k2", "straight_through"):
        close(found[kind]["logits"], now.by_state(to_reference))
    close(found["k3"]["logits"], now.by_state(from_reference))
    # What is missing of the whole response's divergence: that the states change.
    at_state = (now.p * d).sum(1)  # KL of each state
    change = now.slope((at_state[STATE] * MASK).sum(1))
    whole = now.slope(D.sum(1))
    np.testing.assert_allclose(now.by_state(to_reference) + change, whole, atol=1e-9)
    assert np.abs(change).max() > 0.05


def test_paid_as_a_reward_it_is_that_of_whole_responses(expected, experience):
    nothing = np.zeros_like(PAID)
    found = expected(experience("leave_one_out", paid=nothing, kl=0.3))
    close(found["reinforce"]["logits"], now.slope(D.sum(1)))  # kl_coef is 1 here


# Entropy and critic.


def test_the_entropy(expected, experience):
    H = -(now.p * now.logp).sum(1, keepdims=True)
    slope = -now.p * (now.logp + H)
    for reduction in REDUCTIONS:
        wanted = average(
            -MASK.astype(float), weights(reduction), direction=now.scatter(slope[STATE])
        )
        found = expected(experience("reward", reduction))["entropy"]
        close(found["logits"], wanted)
    found = expected(experience("reward"))["entropy"]
    close(found["logits"], -now.by_state(slope))


def test_the_critic(expected, experience):
    place = np.eye(8)[STATE] * MASK[..., None]
    for sampler, lam in ((now, 1.0), (old, 0.5)):
        v, before = now.value, sampler.value
        after = np.pad(before[:, 1:], ((0, 0), (0, 1)))
        d = np.where(MASK, PAID + after - before, 0)
        A = [sum(lam**k * d[:, t + k] for k in range(T - t)) for t in range(T)]
        target = np.stack(A, 1) + before
        near = before + np.clip(v - before, -0.3, 0.3)
        stuck = ((near - target) ** 2 > (v - target) ** 2) & (np.abs(v - before) > 0.3)
        for reduction in REDUCTIONS:
            batch = experience("reward", reduction, sampler=sampler, lam=lam)
            found = expected(batch, sampler)
            for name, active in (("critic", 1), ("critic_clip", ~stuck)):
                error = (v - target) * MASK * active
                wanted = average(error, weights(reduction), sampler, place)
                close(found[name]["value"], wanted)
                assert not found[name]["logits"].any()
    assert stuck[MASK].any()
    # To its expected return it has nothing to learn.
    found = expected(experience("reward", lam=1.0))["critic"]["value"]
    close(found, now.visits * (np.asarray(NOW["value"]) - value_of(now)))


# Samples of an older policy.


def test_clips_are_as_defined_on_old_samples(expected, experience):
    ratio = np.exp(now.logprob - old.logprob)
    mean = np.exp((now.logprob - old.logprob).sum(1) / LENGTH)[:, None] * MASK
    A = R[:, None] * MASK
    outside = lambda r, low, high: ((A > 0) & (r > high)) | ((A < 0) & (r < low))
    cut = {
        "unclipped": (ratio, np.zeros_like(MASK)),
        "clipped": (ratio, outside(ratio, 0.8, 1.3)),
        "dual": (ratio, outside(ratio, 0.8, 1.3) | ((A < 0) & (ratio > 1.2))),
        "response": (mean, outside(mean, 0.9, 1.1)),
    }
    for reduction in REDUCTIONS:
        found = expected(experience("reward", reduction, sampler=old), old)
        for name, (r, out) in cut.items():
            wanted = average(-A * r * ~out, weights(reduction), old)
            close(found[name]["logits"], wanted)
            assert name == "unclipped" or (out & MASK).any()


def test_on_old_samples_the_surrogate_is_that_of_the_old_states(expected, experience):
    """The slope of sum_s d_old(s) sum_a p(a|s) Q_old(s, a): not that of E[R], which
    has the new policy's states and Q.
    """
    found = expected(experience("gae", sampler=old, lam=1.0), old)
    q = q_of(old)
    slope = now.p * (q - (now.p * q).sum(1, keepdims=True))
    close(found["unclipped"]["logits"], -old.by_state(slope))
    assert np.abs(old.by_state(slope) - SLOPE).max() > 0.1
    slope = now.p * (q_of(now) - value_of(now)[:, None])  # the policy gradient theorem
    np.testing.assert_allclose(now.by_state(slope), SLOPE, atol=1e-9)

"""Shaping: what is paid adds up as the formula says, and who would farm it.

The optimal policy is read off a tree that holds every text of a small language, by
backward induction written here, with nothing of shaping.py in it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.reward.shaping import (
    Shaping,
    farmable_bonus,
    kl_penalty,
    length_cost,
    potential_based,
    shape,
    value_behind,
)
from o1jax.types import Trajectory

STEP, STOP = 3, 4  # tokens of the small language, besides the words 1 and 2
LONGEST = 5  # tokens of a text; one that long is cut off if it has not stopped


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def lengths(*values):
    return jnp.array(values, jnp.int32)


def ends(size, *positions):
    """bool[B, size], True at the positions of each row."""
    marks = np.zeros((len(positions), size), bool)
    for row, at in zip(marks, positions):
        row[list(at)] = True
    return jnp.asarray(marks)


# Tokens of a row: 2 of the prompt, then a ; b ; STOP, then padding.
PHI = jnp.array([[9.0, 9.0, 9.0, 0.5, 9.0, 0.8, 9.0, 9.0]])  # 9: never read
MARKS = ends(8, [3, 5])


def test_steps_are_paid_for_what_they_change():
    """0.3 up from 0.2 in front, 0.3 more, and the outcome takes back the 0.8 held."""
    paid = potential_based(
        jnp.ones(1), PHI, MARKS, lengths(2), lengths(7), start=jnp.array([0.2])
    )
    expected = [[0, 0, 0, 0.3, 0, 0.3, 1 - 0.8, 0]]
    np.testing.assert_allclose(paid, expected, atol=1e-6)


def test_discount_charges_for_what_is_held():
    """gamma 0.9: each token pays gamma * phi behind it - phi in front of it."""
    paid = potential_based(
        jnp.ones(1),
        PHI,
        MARKS,
        lengths(2),
        lengths(7),
        gamma=0.9,
        start=jnp.array([0.2]),
    )
    inside = [0.9 * 0.2 - 0.2, 0.9 * 0.5 - 0.2, 0.9 * 0.5 - 0.5, 0.9 * 0.8 - 0.5]
    np.testing.assert_allclose(paid, [[0, 0, *inside, 1 - 0.8, 0]], atol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 0.97, 0.5])
def test_it_telescopes(gamma):
    """The discounted sum is the discounted outcome minus the potential in front.

    The scores are not numbers wherever they must not be read: off the step ends, on
    the prompt, on padding. Marks there don't count either.
    """
    rng = np.random.default_rng(0)
    B, T = 64, 12
    prompt = rng.integers(0, 5, B)
    length = prompt + rng.integers(1, 8, B)
    t = np.arange(T)
    response = (t >= prompt[:, None]) & (t < length[:, None])
    marks = rng.random((B, T)) < 0.4
    phi = np.where(marks & response, rng.normal(size=(B, T)), np.nan)
    outcome, start = rng.random(B), rng.normal(size=B)
    paid = np.asarray(
        potential_based(outcome, phi, marks, prompt, length, gamma=gamma, start=start),
        np.float64,
    )
    assert np.all(paid[~response] == 0)
    age = np.where(response, t - prompt[:, None], 0)
    total = np.sum(gamma**age * paid, axis=1)
    expected = gamma ** (length - prompt - 1.0) * outcome - start
    np.testing.assert_allclose(total, expected, atol=2e-6)


def texts():
    """Every text of the language that is over: it has stopped, or is LONGEST long."""
    open_texts, over = [()], []
    while open_texts:
        text = open_texts.pop()
        for token in (1, 2, STEP, STOP):
            longer = (*text, token)
            is_over = token == STOP or len(longer) == LONGEST
            (over if is_over else open_texts).append(longer)
    return over


TEXTS = texts()


def as_trajectory(rows=TEXTS, value=None):
    """The rows behind a prompt of one token."""
    tokens = np.zeros((len(rows), 1 + LONGEST), np.int32)
    for row, text in zip(tokens, rows):
        row[1 : 1 + len(text)] = text
    zeros = jnp.zeros(tokens.shape, jnp.float32)
    return Trajectory(
        tokens=jnp.asarray(tokens),
        prompt_length=jnp.ones(len(rows), jnp.int32),
        length=jnp.array([1 + len(text) for text in rows], jnp.int32),
        logprob=zeros,
        value=zeros if value is None else value,
        finished=jnp.array([text[-1] == STOP for text in rows]),
        prompt_id=jnp.arange(len(rows), dtype=jnp.int32),
    )


def best_tokens(paid, gamma):
    """For each unfinished text: its value, and the set of its best next tokens.

    Backward induction on the tree. A token must earn the same whatever is written
    behind it, or no policy could be said to be optimal.
    """
    earned = {}
    for text, row in zip(TEXTS, np.asarray(paid, np.float64)):
        for n in range(len(text)):
            known = earned.setdefault(text[: n + 1], row[1 + n])
            assert known == pytest.approx(row[1 + n], abs=1e-6)
    value, best = {}, {}
    unfinished = {text[:n] for text in TEXTS for n in range(len(text))}
    for text in sorted(unfinished, key=len, reverse=True):
        q = {}
        for token in (1, 2, STEP, STOP):
            longer = (*text, token)
            q[token] = earned[longer] + gamma * value.get(longer, 0.0)
        value[text] = max(q.values())
        best[text] = {a for a in q if q[a] > value[text] - 1e-4}
    return value, best


def world(seed):
    """Random outcomes (few, so that there are ties) and a potential of each prefix."""
    rng = np.random.default_rng(seed)
    outcome = rng.choice([0.0, 0.5, 1.0], len(TEXTS), p=[0.8, 0.1, 0.1])
    prefixes = sorted({text[:n] for text in TEXTS for n in range(LONGEST + 1)})
    potential = {prefix: 3 * rng.normal() for prefix in prefixes}
    phi = np.zeros((len(TEXTS), 1 + LONGEST), np.float32)
    for row, text in zip(phi, TEXTS):
        for n in range(len(text)):
            row[1 + n] = potential[text[: n + 1]]
    plain = np.zeros(phi.shape)
    for row, text, worth in zip(plain, TEXTS, outcome):
        row[len(text)] = worth
    return jnp.asarray(outcome, jnp.float32), jnp.asarray(phi), potential, plain


def marks(trajectory):
    return trajectory.tokens == STEP


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_potential_changes_no_best_token(seed, gamma):
    """Ng et al. 1999: the best tokens of every text stay; values move by -phi."""
    outcome, phi, potential, plain = world(seed)
    trajectory = as_trajectory()
    config = Shaping(potential="heuristic", gamma=gamma, scale=2.0)
    start = jnp.full(len(TEXTS), 0.7)
    paid = shape(
        config, trajectory, outcome, marks(trajectory), heuristic=phi, start=start
    )
    value, best = best_tokens(plain, gamma)
    shaped_value, shaped_best = best_tokens(paid, gamma)
    assert shaped_best == best
    assert any(1 < len(tokens) < 4 for tokens in best.values())  # there are ties

    def held(text):
        closed = [n for n in range(1, len(text) + 1) if text[n - 1] == STEP]
        return 2.0 * (potential[text[: closed[-1]]] if closed else 0.7)

    for text in value:
        assert shaped_value[text] == pytest.approx(value[text] - held(text), abs=1e-4)
    # The same scores paid as they are, and a discount that is not the learner's, do
    # change what is best.
    summed = plain + np.where(marks(trajectory), phi, 0)
    assert best_tokens(summed, gamma)[1] != best
    other = potential_based(
        outcome,
        phi,
        marks(trajectory),
        trajectory.prompt_length,
        trajectory.length,
        gamma=0.5,
    )
    assert best_tokens(other, gamma)[1] != best


def test_a_bonus_for_steps_is_farmed():
    """Right after one step, `1 ; STOP`, earns 1 + 0.3; five empty steps earn 1.5."""
    right = (1, STEP, STOP)
    outcome = jnp.array([float(text == right) for text in TEXTS])
    trajectory = as_trajectory()

    def greedy(config):
        paid = shape(config, trajectory, outcome, marks(trajectory))
        value, best = best_tokens(paid, 1.0)
        text = ()
        while text in best:
            text += (min(best[text]),)
        return value[()], text

    assert greedy(Shaping()) == (1.0, right)
    value, text = greedy(Shaping(farmable_bonus=0.3))
    assert value == pytest.approx(1.5) and text == (STEP,) * 5
    value, text = greedy(Shaping(farmable_bonus=0.3, length_cost=0.2))
    assert value == pytest.approx(1.3 - 3 * 0.2) and text == right


def test_bonus_is_for_steps_of_the_response():
    """Marks of the prompt and of the padding are no steps."""
    paid = farmable_bonus(ends(6, [0, 2, 5], [1, 3]), lengths(1, 2), lengths(5, 3), 0.5)
    np.testing.assert_array_equal(paid, [[0, 0, 0.5, 0, 0, 0], [0] * 6])


def test_length_cost_spares_the_free_tokens():
    """Responses of 4 and 1 tokens, 2 free: the last two of the first are charged."""
    paid = length_cost(lengths(1, 2), lengths(5, 3), 6, 0.25, 2)
    np.testing.assert_array_equal(paid, [[0, 0, 0, -0.25, -0.25, 0], [0] * 6])


def row(**given):
    """Prompt of 1 token, response of 3 whose last two close a step, 1 of padding."""
    base = dict(
        tokens=jnp.array([[5, 1, 3, 3, 0]], jnp.int32),
        prompt_length=lengths(1),
        length=lengths(4),
        logprob=jnp.array([[0.0, -1.0, -2.0, -3.0, 0.0]]),
        value=jnp.array([[9.0, 0.1, 0.3, 0.6, 9.0]]),
        finished=jnp.array([True]),
        prompt_id=lengths(0),
    )
    return Trajectory(**base | given)


CLOSED = ends(5, [2, 3])


def test_potential_from_the_value_head_looks_behind_the_step():
    """The step closed by token 2 is worth value[3] = 0.6, not value[2] = 0.3.

    In front of the response stands value[1] = 0.1; the last token ends on 0.
    """
    np.testing.assert_array_equal(
        value_behind(jnp.array([[1.0, 2.0, 3.0]])), [[2.0, 3.0, 0.0]]
    )
    paid = shape(Shaping(potential="value"), row(), jnp.ones(1), CLOSED)
    np.testing.assert_allclose(paid, [[0, 0, 0.6 - 0.1, 1 - 0.6, 0]], atol=1e-6)
    paid = shape(Shaping(potential="value", scale=0.5), row(), jnp.ones(1), CLOSED)
    np.testing.assert_allclose(paid, [[0, 0, 0.25, 1 - 0.3, 0]], atol=1e-6)


def test_potential_from_scores_is_their_probability():
    """Log-odds log(3) are 3/4."""
    scores = jnp.full((1, 5), math.log(3.0))
    config = Shaping(potential="process")
    paid = shape(config, row(), jnp.ones(1), CLOSED, process=scores)
    np.testing.assert_allclose(paid, [[0, 0, 0.75, 0.25, 0]], atol=1e-6)


def test_terms_add_up():
    """Outcome 1, cost 0.1 a token behind the first, KL 0.2 at 0.5, bonus 0.3 a step."""
    config = Shaping(length_cost=0.1, free_tokens=1, kl_coef=0.5, farmable_bonus=0.3)
    reference = row().logprob - 0.2
    paid = shape(config, row(), jnp.ones(1), CLOSED, ref_logprob=reference)
    step = -0.1 - 0.1 + 0.3
    np.testing.assert_allclose(paid, [[0, -0.1, step, 1 + step, 0]], atol=1e-6)


def test_kl_as_a_reward_has_the_gradient_of_the_divergence():
    """By enumeration of one token: E[k1] = E[k3] = KL(p || r), for any p and r.

    The policy gradient E[k grad log p] is that of KL(p || r) for k1. For k3 it lacks
    E[grad k3] = grad KL(r || p).
    """
    rng = np.random.default_rng(1)
    logits, ref = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
    log_r = jax.nn.log_softmax(ref)

    def forward(x):
        log_p = jax.nn.log_softmax(x)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_r))

    def backward(x):
        return jnp.sum(jnp.exp(log_r) * (log_r - jax.nn.log_softmax(x)))

    def cost(x, kind):
        log_p = jax.nn.log_softmax(x)[None]
        mask = jnp.ones((1, 6), bool)
        return -kl_penalty(log_p, log_r[None], mask, 1.0, kind=kind)[0]

    def policy_gradient(kind):
        paid, p = cost(logits, kind), jax.nn.softmax(logits)
        return jax.grad(lambda x: jnp.sum(p * paid * jax.nn.log_softmax(x)))(logits)

    p = jax.nn.softmax(logits)
    divergence, gradient = jax.value_and_grad(forward)(logits)
    for kind in ("k1", "k3"):
        mean = float(jnp.sum(p * cost(logits, kind)))
        assert mean == pytest.approx(float(divergence), abs=1e-5)
    assert jnp.min(cost(logits, "k1")) < -0.1 and jnp.min(cost(logits, "k3")) >= 0
    np.testing.assert_allclose(policy_gradient("k1"), gradient, atol=1e-5)
    missing = jax.grad(backward)(logits)
    np.testing.assert_allclose(policy_gradient("k3"), gradient - missing, atol=1e-5)
    assert jnp.max(jnp.abs(missing)) > 0.1


def test_kl_reads_the_response_only():
    """A reference that is not a number on prompt and padding changes nothing."""
    log_r = jnp.array([[jnp.nan, -1.0, -jnp.inf]])
    mask = jnp.array([[False, True, False]])
    for kind, k in (("k1", 0.5), ("k3", math.exp(-0.5) - 1 + 0.5)):
        paid = kl_penalty(jnp.full((1, 3), -0.5), log_r, mask, 2.0, kind=kind)
        np.testing.assert_allclose(paid, [[0, -2 * k, 0]], atol=1e-6)


EVERYTHING = Shaping(
    potential="process",
    gamma=0.9,
    length_cost=0.1,
    kl_coef=0.5,
    kl="k3",
    farmable_bonus=0.2,
)


def everything(outcome, process, logprob, reference, pad=0):
    """All terms on four random rows, with `pad` more places full of garbage."""
    rng = np.random.default_rng(3)
    wide = lambda x, fill: jnp.pad(x, ((0, 0), (0, pad)), constant_values=fill)
    closed = wide(jnp.asarray(rng.random((4, 8)) < 0.5), True)
    trajectory = Trajectory(
        tokens=wide(jnp.ones((4, 8), jnp.int32), 7),
        prompt_length=lengths(1, 2, 3, 8),
        length=lengths(8, 5, 4, 8),  # full, short, one token, none
        logprob=wide(logprob, jnp.nan),
        value=wide(logprob, jnp.nan),
        finished=jnp.ones(4, bool),
        prompt_id=lengths(0, 1, 2, -1),
    )
    return shape(
        EVERYTHING,
        trajectory,
        outcome,
        closed,
        process=wide(process, jnp.nan),
        ref_logprob=wide(reference, jnp.nan),
    )


def inputs():
    rng = np.random.default_rng(4)
    draw = lambda *size: jnp.asarray(rng.normal(size=size), jnp.float32)
    return draw(4), draw(4, 8), draw(4, 8), draw(4, 8)


def test_padding_and_jit_change_nothing():
    paid = everything(*inputs())
    padded = jax.jit(everything, static_argnames="pad")(*inputs(), pad=3)
    np.testing.assert_allclose(padded[:, :8], paid, atol=1e-6)
    assert np.all(padded[:, 8:] == 0)
    assert np.all(paid[3] == 0) and np.all(np.isfinite(paid))  # no response, no pay
    assert paid.dtype == jnp.float32


def test_a_reward_passes_no_gradient():
    weight = jnp.arange(32.0).reshape(4, 8)
    gradients = jax.grad(
        lambda *x: jnp.sum(weight * everything(*x)), argnums=(0, 1, 2, 3)
    )(*inputs())
    assert all(np.all(g == 0) for g in gradients)


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_whole_numbers_are_refused(at):
    """An integer outcome, score or log-prob raises, as f32 of the same does not."""
    whole = [jnp.ones(x.shape, jnp.float32) for x in inputs()]
    everything(*whole)
    whole[at] = whole[at].astype(jnp.int32)
    with pytest.raises(AssertionError, match="int32"):
        everything(*whole)


@pytest.mark.parametrize(
    "config, missing",
    [
        (Shaping(potential="process"), "Shaping.potential needs `process`"),
        (Shaping(potential="heuristic"), "Shaping.potential needs `heuristic`"),
        (Shaping(kl_coef=0.1), "Shaping.kl_coef needs `ref_logprob`"),
    ],
)
def test_a_term_says_what_it_lacks(config, missing):
    with pytest.raises(ValueError, match=missing):
        shape(config, row(), jnp.ones(1), CLOSED)


@pytest.mark.parametrize(
    "field, value",
    [
        ("potential", "values"),
        ("kl", "k4"),
        ("gamma", 0.0),
        ("gamma", 1.1),
        ("gamma", math.nan),
        ("scale", -1.0),
        ("length_cost", -0.1),
        ("free_tokens", -1),
        ("kl_coef", math.inf),
        ("farmable_bonus", math.nan),
    ],
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} "):
        Shaping(**{field: value})

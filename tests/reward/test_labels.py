"""Labels from rollouts: exact in the limit, and the first error found by halving."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from o1jax.reward.label_cost import METHODS, label_costs, needed, replayed
from o1jax.reward.labels import (
    by_binary_search,
    by_rollouts,
    hard,
    reusable,
    soft,
    step_labels,
)
from o1jax.rollout.continuation import NONE, continue_from, read_prefixes
from o1jax.rollout.sampling import SamplingConfig

V = 12


# Rollouts of a policy whose every continuation can be enumerated.

B, STEPS, STOP = 20, 3, 0
ENDS = np.array([2, 4, 7])  # of three steps behind a prompt of one token
PLAIN = SamplingConfig()


def ends_right(a, b):
    """The grade of a continuation by at most two tokens; it is 0 behind a stop."""
    return (a + b) % 3 == 1


def traces():
    return np.random.default_rng(3).integers(1, V, (B, 8)).astype(np.int32)


def exact_success(policy, params):
    """f64[B, STEPS]: the probability that a continuation of a step ends right."""
    a, b = np.divmod(np.arange(V * V), V)
    forward = jax.jit(policy.forward)
    out = np.zeros((B, STEPS))
    for j, end in enumerate(ENDS):
        prefix = np.repeat(traces()[:, : end + 1], V * V, axis=0)
        pair = np.tile(np.stack([a, b], 1), (B, 1))
        texts = np.concatenate([prefix, pair], 1)
        texts = np.pad(texts, ((0, 0), (0, 10 - texts.shape[1])))
        logits = forward(params, jnp.asarray(texts, jnp.int32)).logits
        logprob = np.asarray(jax.nn.log_softmax(logits), np.float64)
        rows = np.arange(len(texts))
        first = np.exp(logprob[rows, end + 1, pair[:, 0]])
        second = np.exp(logprob[rows, end + 2, pair[:, 1]])
        second = np.where(pair[:, 0] == STOP, pair[:, 1] == 0, second)
        probability = (first * second).reshape(B, V * V)
        np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)
        out[:, j] = probability @ ends_right(a, b)
    return out


def policy_rollouts(policy, params, seed):
    """The Succeeds of a policy: draws behind prefixes that are read once."""
    ends = jnp.broadcast_to(jnp.asarray(ENDS, jnp.int32), (B, STEPS))
    read = jax.jit(functools.partial(read_prefixes, policy, sampling=PLAIN))
    prefixes = read(params, jnp.asarray(traces()), ends)
    draw = jax.jit(
        functools.partial(
            continue_from,
            policy,
            sampling=PLAIN,
            stop_ids=(STOP,),
            max_new_tokens=2,
            rows=16,
        )
    )
    calls = []

    def succeeds(trace, steps, count):
        calls.append(steps)
        key = jax.random.fold_in(jax.random.key(seed), len(calls))
        keys = jax.random.split(key, (B, STEPS, count))
        at = np.full((B, STEPS), NONE)
        at[trace, steps - 1] = steps - 1
        drawn = draw(params, prefixes, at, keys)
        tokens = np.asarray(drawn.tokens)[trace, steps - 1]
        return ends_right(*np.moveaxis(tokens, -1, 0))

    return succeeds


def test_rollout_labels_have_exactly_the_error_of_their_number(make):
    """K (label - p)^2 / p(1 - p), summed over 60 steps, is chi-square with 60 degrees.

    Both tails are refused: the error falls as 1 / sqrt(K), no slower and no faster.
    """
    _, policy, params = make()
    p = exact_success(policy, params)
    assert p.min() > 0.01 and p.max() < 0.99 and p.std() > 0.05
    errors = []
    succeeds = policy_rollouts(policy, params, seed=1)
    for K in (16, 256):
        found = by_rollouts(
            np.full(B, STEPS),
            np.zeros(B, bool),
            succeeds,
            rollouts=K,
            complete=np.zeros(B, bool),
        )
        assert found.value.dtype == np.float32
        np.testing.assert_array_equal(found.used, STEPS * K)
        spread = p * (1 - p) / K
        statistic = np.sum((found.value - p) ** 2 / spread)
        assert 1e-3 < stats.chi2.cdf(statistic, B * STEPS) < 1 - 1e-3
        errors.append(np.sqrt(np.mean((found.value - p) ** 2)))
    # The test sees labels that stand one step too early.
    late = np.roll(found.value, -1, axis=1)
    assert np.sum((late - p) ** 2 / spread) > 3 * B * STEPS
    assert 2.5 < errors[0] / errors[1] < 6.4  # sqrt(256 / 16) = 4, with 60 samples


# Binary search.


def oracle(right_steps):
    """A Succeeds under which beginnings of at most right_steps steps always succeed."""

    def succeeds(trace, steps, count):
        return np.repeat((steps <= right_steps[trace])[:, None], count, axis=1)

    return succeeds


def every_case():
    """(steps, right steps at the front, complete) for traces of 1 to 9 steps."""
    cases = [(n, f, c) for n in range(1, 10) for f in range(n + 1) for c in (0, 1)]
    steps, front, complete = np.array(cases).T
    return steps, front, complete.astype(bool)


def test_binary_search_finds_every_first_error():
    steps, front, complete = every_case()
    right = complete & (front == steps)  # a complete trace without error ended right
    found = by_binary_search(steps, right, oracle(front), rollouts=3, complete=complete)
    expected = np.arange(9)[None] < front[:, None]
    np.testing.assert_array_equal(found.value, expected)
    # n + 1 places for the first error; n where a wrong end says that there is one.
    possible = np.where(complete, steps, steps + 1)
    bound = [0 if r else math.ceil(math.log2(k)) for r, k in zip(right, possible)]
    assert (found.queries <= bound).all()
    assert (found.queries == bound).any(where=steps == 8)
    np.testing.assert_array_equal(found.used, 3 * found.queries)
    assert (found.used[right] == 0).all()


def test_a_search_that_knows_right_steps_asks_less():
    steps, front, complete = every_case()
    right = complete & (front == steps)
    for known in range(10):
        at_least = np.minimum(known, front)
        found = by_binary_search(
            steps,
            right,
            oracle(front),
            rollouts=1,
            complete=complete,
            known_right=at_least,
        )
        np.testing.assert_array_equal(found.value.sum(1), front)
        left = np.where(right, 1, steps - at_least + (~complete))
        assert (found.queries <= np.ceil(np.log2(left))).all()


def test_right_beginnings_cost_one_group_and_wrong_ones_all():
    """Eight steps, the first three right: asks 4 (wrong), 2 (right), 3 (right).

    In groups of 2 of 5 a wrong beginning costs 5. Behind two steps the third rollout is
    the first right one, so it costs 4; behind three steps the first is: 2.
    """
    asked, drawn = [], {2: [0, 0, 1, 0, 1], 3: [1, 0, 0, 0, 0], 4: [0] * 5}

    def succeeds(trace, steps, count):
        (n,) = steps
        asked.append((int(n), count))
        verdicts, drawn[n] = drawn[n][:count], drawn[n][count:]
        return np.array([verdicts])

    found = by_binary_search([8], [False], succeeds, rollouts=5, group=2)
    wrong, right = [(4, 2), (4, 2), (4, 1)], [(2, 2), (2, 2), (3, 2)]
    assert asked == wrong + right
    np.testing.assert_array_equal(found.value, [[1, 1, 1, 0, 0, 0, 0, 0]])
    assert (found.used, found.queries) == (11, 3)
    np.testing.assert_array_equal(found.drawn.steps, [4] * 5 + [2] * 4 + [3] * 2)
    np.testing.assert_array_equal(np.nonzero(found.drawn.right)[0], [7, 9])
    # Those behind two and three steps go on from right steps.
    again = reusable(found)
    np.testing.assert_array_equal(again.rollout, [5, 6, 7, 8, 9, 10])
    np.testing.assert_array_equal(again.known_right, [2, 2, 2, 2, 3, 3])
    np.testing.assert_array_equal(again.right, [0, 0, 1, 0, 1, 0])


def test_traces_stop_drawing_each_for_itself():
    """Of two traces with one question each, only the unlucky one draws again."""
    turns = []

    def succeeds(trace, steps, count):
        turns.append(trace.tolist())
        return np.array([[t == 0 or len(turns) == 3] for t in trace])

    found = by_binary_search([2, 2], [0, 0], succeeds, rollouts=4, group=1)
    assert turns == [[0, 1], [1], [1]]
    np.testing.assert_array_equal(found.used, [1, 3])
    np.testing.assert_array_equal(found.value, [[1, 0], [1, 0]])
    np.testing.assert_array_equal(found.drawn.trace, [0, 1, 1, 1])


def test_traces_without_a_step_or_a_doubt_ask_nothing():
    def never(*_):
        raise AssertionError("asked")

    found = by_binary_search([0, 1, 5], [False, False, True], never, rollouts=2)
    np.testing.assert_array_equal(found.value.sum(1), [0, 0, 5])
    assert found.drawn.trace.size == 0 and found.used.tolist() == [0, 0, 0]


# Every step.


def test_every_step_is_asked_in_one_call_and_the_end_is_known():
    """Traces of 3 and 1 steps and one of 2 that was cut off."""
    asked = []

    def succeeds(trace, steps, count):
        asked.append(list(zip(trace.tolist(), steps.tolist())))
        return np.arange(count)[None] < steps[:, None]  # as many as there are steps

    args = [3, 1, 2], [False, True, False], succeeds
    complete = [True, True, False]
    found = by_rollouts(*args, rollouts=4, complete=complete)
    assert asked == [[(0, 1), (0, 2), (2, 1), (2, 2)]]
    quarter = [[0.25, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.5, 0.0]]
    np.testing.assert_array_equal(found.value, quarter)
    np.testing.assert_array_equal(found.used, [8, 0, 8])
    found = by_rollouts(*args, rollouts=4, complete=complete, kind="hard")
    np.testing.assert_array_equal(found.value, np.ceil(quarter))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float64])
def test_soft_and_hard_are_floats_of_any_counts(dtype):
    successes = np.array([[0, 1], [3, 4]], dtype)
    np.testing.assert_array_equal(soft(successes, 4), [[0, 0.25], [0.75, 1]])
    np.testing.assert_array_equal(hard(successes), [[0, 1], [1, 1]])
    np.testing.assert_array_equal(soft(np.array([0, 1]), np.array([0, 2])), [0, 0.5])
    assert soft(successes, 4).dtype == hard(successes).dtype == np.float32


# What they cost.


def test_methods_are_compared_on_the_same_continuations():
    """Two traces of four steps: one ended right, of the other step 3 is wrong.

    At 2 rollouts of a step: every step but the last costs 2 x 3 x 2 = 12 of 2 traces,
    that of wrong traces only 6, and halving asks 2 steps (right: its first rollout is
    not, its second is) and 3 steps (wrong): 2 + 2.
    """
    outcomes = np.zeros((2, 4, 3), bool)
    outcomes[0] = [[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 1]]
    outcomes[1] = [[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    costs = label_costs([4, 4], [True, False], outcomes, sizes=(2,))
    assert [cost.method for cost in costs] == list(METHODS)
    assert [cost.used * 2 for cost in costs] == [12, 6, 4]
    expected = [
        [[1, 0.5, 0, 1], [1, 0.5, 0, 0]],
        [[1, 1, 1, 1], [1, 0.5, 0, 0]],
        [[1, 1, 1, 1], [1, 1, 0, 0]],
    ]
    for cost, value in zip(costs, expected):
        np.testing.assert_array_equal(cost.value, value)
        assert cost.value.dtype == np.float32


def test_continuations_are_served_once_and_in_order():
    outcomes = np.arange(12).reshape(2, 2, 3)
    succeeds = replayed(outcomes)
    ask = lambda trace, steps, count: succeeds(np.array(trace), np.array(steps), count)
    np.testing.assert_array_equal(ask([0, 1], [2, 1], 2), [[3, 4], [6, 7]])
    np.testing.assert_array_equal(ask([1, 1], [1, 2], 1), [[8], [9]])
    with pytest.raises(ValueError, match="more than 3 rollouts"):
        ask([1], [1], 1)


def test_what_a_method_needs_lies_on_a_line_in_log_rollouts():
    used, quality = [1, 4, 16], [0.6, 0.8, 0.9]
    assert needed(used, quality, 0.5) == 1
    assert needed(used, quality, 0.8) == pytest.approx(4)
    assert needed(used, quality, 0.85) == pytest.approx(8)  # half-way in the log
    assert needed(used, quality, 0.95) == math.inf


# The record.

TOKENS = [[9, 9, 1, 2, 3, 2, 4, 2], [9, 5, 2, 6, 2, 0, 0, 0]]
ROWS = dict(prompt_length=[2, 1], length=[8, 5], ends=[[3, 5, 7], [2, 4, -1]])


def labels(value, **options):
    return step_labels(TOKENS, **ROWS, value=value, **options)


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float64])
def test_labels_stand_at_step_ends_as_floats(dtype):
    """An integer array must not make the labels, or a mean of them, integers."""
    found = labels(np.array([[1, 0, 1], [1, 1, 1]], dtype), after_error="keep")
    ends = [[0, 0, 0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 0, 0, 0]]
    np.testing.assert_array_equal(found.step_end, np.array(ends, bool))
    right = [[0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 1, 0, 1, 0, 0, 0]]
    np.testing.assert_array_equal(found.label, right)
    np.testing.assert_array_equal(found.weight, ends)
    assert found.step_end.dtype == bool
    assert found.label.dtype == found.weight.dtype == np.float32
    with jax.numpy_dtype_promotion("strict"):
        mean = jnp.sum(found.label * found.weight) / jnp.sum(found.weight)
    assert mean == np.float32(4 / 5)


def test_soft_values_are_kept_as_they_are():
    found = labels([[0.25, 0.5, 0.75], [0.125, 1, 0]])
    np.testing.assert_array_equal(found.label[0, [3, 5, 7]], [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(found.label[1, [2, 4]], [0.125, 1])


def test_steps_behind_the_first_error_weigh_nothing_when_masked():
    value = [[0.5, 0, 0.5], [0, 0, 1]]
    masked, kept = (labels(value, after_error=how) for how in ("mask", "keep"))
    np.testing.assert_array_equal(masked.weight[0, [3, 5, 7]], [1, 1, 0])
    np.testing.assert_array_equal(masked.weight[1, [2, 4]], [1, 0])
    np.testing.assert_array_equal(kept.weight, kept.step_end)
    np.testing.assert_array_equal(masked.label, kept.label)
    own = [[0.5, 2, 3], [4, 5, 6]]
    found = labels(value, weight=own).weight
    np.testing.assert_array_equal(found[0, [3, 5, 7]], [0.5, 2, 0])
    np.testing.assert_array_equal(found[1, [2, 4]], [4, 0])
    assert found.sum() == 6.5  # and nothing elsewhere


def test_steps_behind_a_first_error_keep_their_weight_without_one():
    found = labels([[0.1, 0.2, 0.3], [1, 1, 1]])
    np.testing.assert_array_equal(found.weight, found.step_end)


def ask(right=(False,), rollouts=2, search=by_binary_search, steps=(4,), **options):
    draw = lambda trace, steps, count: np.zeros((len(trace), count))
    return search(steps, right, draw, rollouts=rollouts, **options)


@pytest.mark.parametrize(
    "message, wrong",
    [
        ("successes must lie", lambda: soft(np.array([5]), 4)),
        ("successes must lie", lambda: soft(np.array([-1]), 4)),
        ("step 2 of trace 1 has a value", lambda: step_labels(
            TOKENS, [2, 1], [8, 5], [[3, 5, 7], [2, 3, 4]], [[1] * 3, [1, 1, 1.5]])),
        ("step 0 of trace 0 has a value", lambda: labels([[np.nan] * 3, [1] * 3])),
        ("step 1 of trace 1 ends outside", lambda: step_labels(
            TOKENS, [2, 1], [8, 4], ROWS["ends"], np.ones((2, 3)))),
        ("step 0 of trace 0 ends outside", lambda: step_labels(
            TOKENS, [4, 1], [8, 5], ROWS["ends"], np.ones((2, 3)))),
        ("same shape", lambda: labels(np.ones((2, 2)))),
        ("after_error must be", lambda: labels(np.ones((2, 3)), after_error="drop")),
        ("rollouts must be at least 1", lambda: ask(rollouts=0)),
        ("rollouts must be at least 1", lambda: ask(rollouts=0, search=by_rollouts)),
        ("group must be at least 1", lambda: ask(group=0)),
        ("known_right must lie", lambda: ask(known_right=[5])),
        ("must be as many", lambda: ask(right=(True, False))),
        ("shape (1, 1) came", lambda: by_rollouts(
            [4], [0], lambda *_: np.ones((1, 1)), rollouts=2)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(message, wrong):
    with pytest.raises(ValueError) as error:
        wrong()
    assert message in str(error.value) and "\n" not in str(error.value)

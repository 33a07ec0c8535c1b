"""What checks of one's own steps are worth: by hand, and against simulated walks."""

import math

import numpy as np
import pytest

from o1jax.loop.self_verification import Rates, plain, retry, trace_back

# A step is right 6 times of 10; a check accepts 1 wrong one of 4, rejects 1 right of 6.
RATES = Rates(0.6, 0.25, 1 / 6)
BEHIND = Rates(0.7, 0.3, 0.2, accept_behind=0.45)


def test_by_hand():
    # Accepted: 0.6 * 5/6 = 0.5 right ones and 0.4 * 0.25 = 0.1 wrong ones.
    assert RATES.accepts == pytest.approx(0.6)
    assert RATES.right_accepted == pytest.approx(5 / 6)
    assert plain(RATES, 2) == pytest.approx((0.36, 1, 2))
    # 1 / 0.6 draws for the first step; for the second as many behind a right first one,
    # and 1 / 0.25 behind a wrong one.
    draws = 5 / 3 + 5 / 6 * 5 / 3 + 1 / 6 * 4
    assert retry(RATES, 2) == pytest.approx((25 / 36, 1, draws))
    # Two attempts: accepted in 0.84, else (0.16) the first, which is right in 0.1 of
    # the 0.4 that is rejected.
    right = 0.84 * 5 / 6 + 0.16 * 0.25
    assert retry(RATES, 1, 2) == pytest.approx((right, 1, 1.4))
    # Back from one step there is nowhere to go: 0.5 (1 + 0.4) are right, 0.1 (1 + 0.4)
    # wrong, the rest answers nothing.
    assert trace_back(RATES, 1, 2) == pytest.approx((0.7, 0.84, 1.4))


def test_one_attempt_is_plain_and_many_are_unbounded():
    assert retry(BEHIND, 5, 1) == pytest.approx(plain(BEHIND, 5))
    assert retry(BEHIND, 5, 400) == pytest.approx(retry(BEHIND, 5))
    # So many attempts never fail: nobody goes back.
    assert trace_back(BEHIND, 5, 400) == pytest.approx(retry(BEHIND, 5))


@pytest.mark.parametrize("right", [0.1, 0.5, 0.9])
def test_checks_help_where_their_errors_sum_to_less_than_one(right):
    for accept in np.linspace(0.05, 0.95, 7):
        for reject in np.linspace(0.03, 0.93, 7):
            rates = Rates(right, accept, reject)
            gain = retry(rates, 4).right - plain(rates, 4).right
            assert rates.helps == (gain > 0)
    # Checks that say nothing change nothing but the price.
    blind = retry(Rates(right, 0.5, 0.5), 4)
    assert blind == pytest.approx((right**4, 1, 8))


def test_a_perfect_check_is_always_right_at_a_price():
    assert retry(Rates(0.25, 0, 0), 3) == pytest.approx((1, 1, 12))
    found = trace_back(Rates(0.25, 0, 0), 1, 3)
    assert found.right == found.answered == pytest.approx(1 - 0.75**3)
    # A check that accepts nothing goes on for ever, or gives up.
    none = Rates(0.5, 0, 1)
    assert math.isinf(retry(none, 2).draws) and math.isnan(none.right_accepted)
    assert trace_back(none, 2, 3) == pytest.approx((0, 0, 3))


def test_steps_may_have_rates_of_their_own():
    two = [RATES, Rates(0.5, 0.0, 0.5)]
    assert plain(two, 2).right == pytest.approx(0.3)
    # Behind a right first step (5/6) 1 / 0.25 draws, all that is accepted is right;
    # behind a wrong one nothing is accepted.
    assert retry(two, 1) == retry(RATES, 1)
    assert retry(two, 2).right == pytest.approx(5 / 6)
    # One attempt at each: 0.5 * 0.25 right; at a wrong first step it ends in nothing.
    assert trace_back(two, 2, 1) == pytest.approx((0.125, 0.125, 1.6))
    assert trace_back([BEHIND] * 4, 4, 2) == trace_back(BEHIND, 4, 2)
    with pytest.raises(ValueError, match="rates of 2 steps for 3"):
        plain(two, 3)


def walk(rng, rates, steps, attempts, back):
    """(right, answered, draws) of one walk, written as it goes."""
    draws = 0

    def attempt(alive):
        nonlocal draws
        draws += 1
        right = alive and rng.random() < rates.right
        if alive:
            accepts = 1 - rates.false_reject if right else rates.false_accept
        else:
            accepts = rates.accepts_behind
        return right, rng.random() < accepts

    def down(alive, left):
        """What the answer is (None: there is none)."""
        if left == 0:
            return alive
        tried = []
        while attempts == 0 or len(tried) < attempts:
            right, accepted = attempt(alive)
            tried.append(right)
            if accepted:
                found = down(right, left - 1)
                if found is not None:
                    return found
        return None if back else down(tried[0], left - 1)

    answer = down(True, steps)
    return bool(answer), answer is not None, draws


@pytest.mark.parametrize("attempts, back", [(0, False), (3, False), (3, True)])
def test_simulated_walks_agree(attempts, back):
    rng = np.random.default_rng(0)
    found = np.array([walk(rng, BEHIND, 4, attempts, back) for _ in range(6000)])
    how = trace_back if back else retry
    expected = np.array(how(BEHIND, 4, attempts))
    error = found.std(axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - expected) <= 4 * error + 1e-9)


def test_a_rate_that_is_none_is_named():
    with pytest.raises(ValueError, match="false_accept must be from 0 to 1"):
        Rates(0.5, 1.2, 0)
    with pytest.raises(ValueError, match="attempts must be at least 1"):
        trace_back(RATES, 2, 0)

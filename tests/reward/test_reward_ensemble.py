"""Opinions of three heads by hand, and scores that outlive their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.reward.ensemble import combine
from o1jax.reward.versions import Scores, Weights, fresh

# Texts: overrated by one head; good and agreed; the heads are sure and differ.
HEADS = jnp.float32([[0.99, 0.7, 0.2], [0.99, 0.8, 0.6], [0.51, 0.75, 1.0]])


@pytest.mark.parametrize(
    "how, lam, expected",
    [
        ("mean", 1.0, [0.83, 0.75, 0.6]),
        ("min", 1.0, [0.51, 0.7, 0.2]),
        # Deviations from the means: (.16, .16, -.32), (-.05, .05, 0), (-.4, 0, .4).
        (
            "pessimistic",
            1.0,
            [
                0.83 - np.sqrt(0.1536 / 3),
                0.75 - np.sqrt(0.005 / 3),
                0.6 - np.sqrt(0.32 / 3),
            ],
        ),
        ("pessimistic", 0.0, [0.83, 0.75, 0.6]),
        ("pessimistic", 2.0, [0.83 - 2 * np.sqrt(0.0512), 0.75 - np.sqrt(0.02 / 3), 0]),
    ],
)
def test_opinions_are_combined(how, lam, expected):
    with jax.numpy_dtype_promotion("strict"):
        combined = combine(HEADS, how, lam)
    np.testing.assert_allclose(combined, expected, rtol=1e-5)
    np.testing.assert_array_equal(combine(HEADS[:, None], how, lam)[0], combined)


def test_doubt_changes_the_winner():
    winner = lambda how: int(jnp.argmax(combine(HEADS, how)))
    assert [winner(how) for how in ("mean", "min", "pessimistic")] == [0, 1, 1]


@pytest.mark.parametrize("how", ["mean", "min", "pessimistic"])
def test_one_head_is_itself(how):
    np.testing.assert_allclose(combine(HEADS[:1], how), HEADS[0])


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="one of mean, min, pessimistic"):
        combine(HEADS, "max")


def test_stale_scores_are_refused():
    weights = Weights({"net": 0}, 3)
    scores = Scores(np.array([0.5]), weights.version)
    assert fresh(scores, weights) is scores.values
    with pytest.raises(ValueError, match=r"version 3 are stale: .* is at 5"):
        fresh(scores, weights._replace(version=5))

"""A16's arithmetic: what is made of measured numbers."""

import numpy as np
import pytest

from o1jax.loop.reproduce.a16 import CLAIM, analyse, tokens_a_call
from o1jax.loop.reproduce.claim import Evidence, Predictions


def test_tokens_of_a_call_are_the_published_formula():
    assert tokens_a_call(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))
    assert tokens_a_call(1.0, 4) == 5 and tokens_a_call(0.0, 4) == 1


def evidence(**changed):
    """Every arm the same: acceptance 0.8, a step 1 s, its draft 0.05 s."""
    tier = CLAIM.tiers["nano"]

    def predicted(g):
        calls = 100
        facts = {
            "tested": 1000,
            "accepted": 800,
            "calls": calls,
            "emitted": calls * tokens_a_call(0.8, g),
            "same": True,
            "logprob_shift": 0.0,
            "plain_seconds": 10.0,
            "plain_processor": 10.0,
            "seconds": 5.0,
            "processor": 5.0,
            "step": 1.0,
            "draft_step": 0.05,
            "verify": 1.0 + 0.1 * g,
            "plain_prompts": 10.0,
            "prompts": 20.0,
        }
        ones = np.ones(2)
        return Predictions(ones, ones, ones, ones, facts=facts | changed)

    arms = {arm.name: [predicted(arm.method.tokens)] for arm in tier.arms}
    return Evidence(tier, (0,), [[]], arms)


def test_checks_hold_and_each_can_fail():
    passed = lambda **changed: [c.passed for c in analyse(evidence(**changed)).checks]
    assert passed() == [True] * 4
    assert passed(same=False) == [False, True, True, True]
    assert passed(emitted=100 * 3.36 * 2) == [True, False, True, True]
    # g = 4: 336 tokens, in 100 rounds of 1.4 + 4 * 0.05 s; 346 s against 180 s.
    assert passed(seconds=9.5) == [True, True, False, True]
    assert passed(seconds=11.0) == [True, True, False, False]
    assert passed(accepted=700)[3] is False  # nowhere as high as 0.8


def test_the_table_says_what_was_expected():
    table = analyse(evidence()).sections[0]["table"]
    row = dict(zip(table["columns"], table["rows"][1]))
    assert row["arm"] == "g=4" and row["speed-up"] == 2.0
    assert row["analytic"] == pytest.approx((10 + 336.16) / (20 + 160))
    assert row["if reading were free"] == pytest.approx((10 + 336.16) / (20 + 120))

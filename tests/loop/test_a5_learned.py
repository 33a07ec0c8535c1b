"""A5 with a learned guide: costs are matched, and each check can fail."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.loop.reproduce import a5_learned, judge
from o1jax.loop.reproduce.a5_learned import BUDGETS, SAMPLES, analyse, lead
from o1jax.loop.reproduce.claim import Evidence, Predictions, Tier
from o1jax.loop.reproduce.matched import at_cost
from o1jax.loop.traces import Traces
from o1jax.reward.model import RewardModel
from o1jax.reward.versions import Weights

P = 60


def test_accuracy_at_a_cost_by_hand():
    """Two problems at costs 1, 4 and 16: halfway in logs from 4 to 16 is 8."""
    accuracy = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    cost = np.array([[1.0, 1.0], [3.0, 5.0], [16.0, 16.0]])
    np.testing.assert_allclose(at_cost(accuracy, cost, 8.0), [1.0, 0.5])
    np.testing.assert_allclose(at_cost(accuracy, cost, 1.0), [0.0, 0.0])
    np.testing.assert_allclose(at_cost(accuracy, cost, 16.0), [1.0, 1.0])
    assert at_cost(accuracy, cost, 0.9) is None
    assert at_cost(accuracy, cost, 16.1) is None
    with pytest.raises(ValueError, match="must rise with the budget"):
        at_cost(accuracy, cost[::-1], 4.0)


def evidence(gain, reading, auc=0.95):
    """A search answers as best-of-N does with `gain(budget)` times as many samples.

    It generates 10 tokens a sample, and `reading` more for each are read.
    """
    found = {}

    def add(name, effective, tokens, flops):
        right = np.arange(P) < P * (0.1 + 0.1 * np.log2(effective))
        one = Predictions(
            right.astype(int),
            np.ones(P, int),
            np.full(P, float(tokens)),
            np.full(P, float(flops)),
            facts={"auc": auc, "auc_alive": auc},
        )
        found[name] = [one] * 3

    for name in a5_learned.JUDGED:
        add(name, 1, 1, 1)
    for n in SAMPLES:
        add(a5_learned.arm_name("best_of_n", n), n, 10 * n, 20 * n)
    for method in a5_learned.SEARCHES:
        for n in BUDGETS:
            name = a5_learned.arm_name(method, n)
            add(name, n * gain(n), 10 * n, 10 * (1 + reading) * n)
    return Evidence(Tier("x.gin", (), P), (0, 1, 2), [], found)


def passed(*arguments, **options):
    return [check.passed for check in analyse(evidence(*arguments, **options)).checks]


def test_a_lead_is_over_as_many_tokens_and_over_as_many_flops():
    """Twice the samples' worth, at once and at twice the FLOPs a token."""
    found = evidence(lambda n: 2, reading=3)
    tokens = lead(found, "beam", 8, "tokens")
    assert tokens.difference == pytest.approx(0.1) and tokens.resolved
    flops = lead(found, "beam", 8, "flops")
    assert flops.difference == pytest.approx(0, abs=1e-12) and not flops.resolved
    # Budget 64 at 20 times the FLOPs of a sample is beyond 256 samples.
    dear = evidence(lambda n: 2, reading=19)
    assert lead(dear, "beam", 64, "flops") is None
    assert lead(dear, "beam", 64, "tokens") is not None


def test_the_checks_tell_a_search_that_pays():
    fades = lambda n: 4 if n < 32 else 2
    assert passed(fades, reading=1) == [True] * 6
    # The guide's reading eats the lead.
    assert passed(fades, reading=7) == [True, True, False, True, False, True]
    assert passed(fades, reading=1, auc=0.85)[0] is False
    worse = passed(lambda n: 0.5, reading=1)
    assert worse[1:5] == [False] * 4
    assert passed(lambda n: 2 if n < 32 else 4, reading=1)[-1] is False


def test_the_report_holds_a_row_a_search_and_budget():
    found = analyse(evidence(lambda n: 2, reading=19))
    json.dumps([found.checks, found.sections])  # plain numbers and truths only
    guide, _, differences = found.sections
    assert len(guide["table"]["rows"]) == 6
    rows = {tuple(row[:2]): row for row in differences["table"]["rows"]}
    assert len(rows) == 12
    assert rows["beam", 8][6] == "search"
    assert rows["mcts", 64][7:] == [None, ""]


def test_the_guide_is_judged_by_the_steps_that_count(monkeypatch):
    """Two problems, two answers each of two steps, and scores read off a table."""
    verdict = np.zeros((4, 6), np.float32)
    verdict[:, 3] = [1, 1, 0, 0]
    verdict[:, 5] = [1, 0, 0, 0]
    step_end = np.zeros((4, 6), bool)
    step_end[:, [3, 5]] = True
    scores = np.zeros((4, 6), np.float32)
    scores[:, 3] = [2, -1, 0, -3]  # of 4 pairs of a right and a wrong one 3 in order
    scores[:, 5] = [1, 0.5, 9, 9]  # behind a right step: in order
    traces = Traces(
        examples=[],
        texts=[],
        grades=np.array([1.0, 0, 0, 0]),
        tokens=np.zeros((4, 6), np.int32),
        prompt_length=np.full(4, 2),
        length=np.full(4, 6),
        logprob=scores,
        finished=np.ones(4, bool),
        step_end=step_end,
        verdict=verdict,
    )
    monkeypatch.setattr(judge, "sample_traces", lambda *_, **__: traces)
    monkeypatch.setattr(judge, "FEWEST", 2)
    read = lambda params, tokens, *rows: jnp.asarray(scores) + params

    class Run:
        class experiment:
            task = None

        reward_model = lambda self, name: (RewardModel(None, read), Weights(1.0, 3))

    method = judge.JudgeSteps("guide", samples=2)
    found = judge.judge_steps(Run(), {}, None, [None, None], method)
    assert found.right.tolist() == [1, 0] and found.tokens.tolist() == [8, 8]
    facts = found.facts
    assert (facts["auc_1"], facts["right_1"]) == (3 / 4, 1 / 2)
    assert (facts["auc_2"], facts["right_2"]) == (1.0, 1 / 2)
    # Right 2, -1, 1; wrong and alive 0, -3, 0.5: 2 and 1 above all, -1 above one.
    assert facts["auc_alive"] == pytest.approx(7 / 9)
    # The two 9s behind an error stand above all right ones.
    assert facts["auc"] == pytest.approx(7 / 15)

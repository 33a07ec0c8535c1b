"""A6 and A13V: the checks tell the shapes from others, on evidence made by hand."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from o1jax.data.stream import BatchConfig
from o1jax.loop.experiment import Experiment
from o1jax.loop.imitate import Imitate
from o1jax.loop.reflection import Judged
from o1jax.loop.reproduce import a6
from o1jax.loop.reproduce import a13_verification as v
from o1jax.loop.reproduce.claim import Evidence, Predictions, Tier
from o1jax.loop.reproduce.identity import identity
from o1jax.loop.reproduce.revisor import (
    QUESTIONS_AT,
    Revised,
    Revisor,
    attempts,
    learn_to_revise,
    revised,
)
from o1jax.loop.reward_data import FRESH
from o1jax.loop.self_evaluation import SelfEvaluation
from o1jax.loop.self_verification import Rates
from o1jax.loop.workdir import Workdir
from o1jax.policy.policy import PolicyConfig
from o1jax.rollout.decode import SamplerConfig
from o1jax.tasks import Chain

PROBLEMS = 30


def passed(found):
    json.dumps([found.checks, found.sections])  # plain numbers and truths only
    return [check.passed for check in found.checks]


def predictions(right, samples, tokens=10.0, extra=None, facts=None):
    ones = np.ones(PROBLEMS)
    return Predictions(
        np.asarray(right),
        samples * ones.astype(int),
        tokens * ones,
        ones,
        extra or {},
        facts or {},
    )


def six(easy, hard, *, tokens=10.0):
    """Three seeds; what a chain of n answers, of 8, gets right by bin: n -> share.

    A third of the problems each is easy, half-way and hard; there it is the mean.
    """
    size = PROBLEMS // 3
    difficulty = np.repeat([30, 16, 2], size)
    arms = {a6.DIFFICULTY: [predictions(difficulty, 32)] * 3}
    for budget in a6.BUDGETS:
        for n in a6.lengths(budget):
            shares = easy(n), (easy(n) + hard(n)) / 2, hard(n)
            right = np.concatenate(
                [
                    (np.arange(size) < round(size * share)).astype(int)
                    for share in shares
                ]
            )
            spent = tokens if n > 1 else 10.0
            each = [predictions(right, 1, spent * budget)] * 3
            arms[a6.arm_name(n, budget)] = each
        beam = predictions(np.ones(PROBLEMS, int), 1, 10.0 * budget)
        arms[a6.beam_name(budget)] = [beam] * 3
    arms[f"{a6.BEFORE}-8"] = [predictions(np.ones(PROBLEMS, int), 1)] * 3
    return Evidence(Tier("x.gin", (), PROBLEMS), (0, 1, 2), [], arms)


def test_a6_asks_that_the_best_ratio_depends():
    assert a6.lengths(2) == [1, 2] and a6.lengths(8) == [1, 2, 4, 8]
    published = six(lambda n: 0.5 + 0.06 * n, lambda n: 0.6 if n == 2 else 0.3)
    assert passed(a6.analyse(published)) == [True] * 4
    # Revising does as much for hard problems as for easy ones.
    alike = six(lambda n: 0.5 + 0.05 * n, lambda n: 0.2 + 0.05 * n)
    assert passed(a6.analyse(alike))[:3] == [True, True, False]
    # It never helps.
    never = six(lambda n: 0.9 - 0.05 * n, lambda n: 0.4)
    assert passed(a6.analyse(never))[1] is False
    dear = six(lambda n: 0.5 + 0.06 * n, lambda n: 0.3, tokens=12.0)
    assert passed(a6.analyse(dear))[0] is False


def verification(rates, right=None, spent=None):
    """Three seeds of problems of three steps, right and priced as expected."""
    arms = {}
    for arm in v.HOW:
        said = v.expected([rates] * 3, arm, 3)
        share = (right or {}).get(arm, said.right)
        draws = (spent or {}).get(arm, said.draws)
        samples = 1000
        arms[arm] = [
            predictions(
                np.full(PROBLEMS, round(samples * share)),
                samples,
                extra={
                    "answered": [round(samples * said.answered)] * PROBLEMS,
                    "draws": [round(samples * draws)] * PROBLEMS,
                    "steps": [3] * PROBLEMS,
                },
                facts={"rates": vars(rates), "by_step": [vars(rates)] * 3},
            )
        ] * 3
    return Evidence(Tier("x.gin", (), PROBLEMS), (0, 1, 2), [], arms)


def test_a13v_holds_measured_answers_against_expected_ones():
    good = Rates(0.7, 0.3, 0.2, accept_behind=0.4)
    assert passed(v.analyse(verification(good))) == [True] * 5
    # Twice the draws that follow from the rates; or answers that do not.
    dear = verification(good, spent={v.RETRY: 20.0})
    assert passed(v.analyse(dear)) == [True, True, True, True, False]
    off = verification(good, right={v.RETRY: 0.9})
    assert passed(v.analyse(off)) == [True, True, False, True, True]
    # Checks that err more often than not do harm, which is what is expected of them.
    bad = Rates(0.7, 0.7, 0.5)
    assert passed(v.analyse(verification(bad))) == [False, True, True, True, True]
    harmless = verification(bad, right={v.RETRY: 0.9})
    assert passed(v.analyse(harmless))[1] is False


@pytest.fixture
def run(tmp_path):
    """A tiny run that has done nothing yet."""
    experiment = Experiment(
        task=Chain(min_steps=2, max_steps=2, modulus=5),
        policy=PolicyConfig(vocab=16, width=16, layers=1, heads=2, ff=16),
        sampler=SamplerConfig(rows=8, max_new_tokens=6),
        stages=(Imitate(),),
    )
    return Workdir(experiment, tmp_path)


def test_a_policy_learns_to_revise_its_wrong_answers(run):
    config = Revisor(
        questions=6,
        samples=4,
        most=2,
        steps=2,
        batch=BatchConfig(8, 48),
        microbatches=1,
    )
    params = run.current_params()
    template, tokenizer, task = (
        run.experiment.template,
        run.tokenizer,
        run.experiment.task,
    )
    counts = []
    for i, (tokens, given) in enumerate(attempts(run, params, config)):
        example = task.example(0, "train", QUESTIONS_AT * FRESH + i)
        prompt, solution = template.encode(tokenizer, example)
        assert tokens[: len(prompt)] == prompt and tokens[given:] == solution
        # What stands between are answers that are closed, and wrong.
        between = tokens[len(prompt) : given]
        assert not between or between[-1] == tokenizer.eos_id
        wrong = "".join(f"{t} " for t in between).split(f"{tokenizer.eos_id} ")[:-1]
        for text in wrong:
            said = tokenizer.decode([int(t) for t in text.split()])
            assert task.grade(example, said) == 0
        counts.append(len(wrong))
    assert len(counts) == 6 and max(counts) == 2 and min(counts) < 2
    learned = learn_to_revise(run, params, config)
    same = lambda a, b: all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))
    assert not same(learned, params)
    # The second time it is read from the disk, by the arm as well.
    test = Revised("a test", told, config)
    assert same(revised(run, params, jax.random.key(0), [], test), learned)
    assert "test_a6.told" in identity(test)


def told(run, params, key, examples, method):
    """An arm that says which policy it was given."""
    assert method == "a test"
    return params


def test_a13v_runs_its_arm(run, monkeypatch):
    """Columns a problem, and rates as the meter of walks has them."""
    task = run.experiment.task
    walk = [Judged(0, True, True, True), Judged(0, True, False, False)]
    found = SimpleNamespace(
        right=np.array([True, False, True, True]),
        answered=np.array([True, False, True, True]),
        draws=np.array([2, 5, 1, 3]),
        tokens=np.array([4, 10, 2, 6]),
        judged=[walk] * 4,
    )

    def answer(reflection, params, key, samples):
        run.ledger.add("evaluate", tokens=22, flops=220.0)
        return found

    monkeypatch.setattr(v.Reflection, "__call__", answer)
    examples = [task.example(0, "test", i) for i in range(2)]
    method = v.Verified(v.Reflect(check=SelfEvaluation("= =", "1", "2")), samples=2)
    got = v.verified(run, {}, jax.random.key(0), examples, method)
    assert got.right.tolist() == [1, 2] and got.samples.tolist() == [2, 2]
    assert got.extra == {"answered": [1, 2], "draws": [7, 4], "steps": [2, 2]}
    assert got.flops.tolist() == pytest.approx([140, 80])  # as their tokens
    assert got.facts["rates"]["right"] == pytest.approx(0.5)
    assert len(got.facts["by_step"]) == v.MOST
    json.dumps(got.facts)

"""A7 to A10: policies learn as told, and the checks tell the shapes from others."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.data.stream import BatchConfig
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.loop.imitate import Imitate
from o1jax.loop.improve import Improve
from o1jax.loop.reproduce import a7, a8, a9, a10
from o1jax.loop.reproduce.claim import Evidence, Predictions, Tier
from o1jax.loop.reproduce.learned import Learned, covered, curve, fact, learned, voted
from o1jax.loop.workdir import Workdir

FAST = OptimizerConfig(0.02, 1, "constant", weight_decay=0.0)
PROBLEMS, SAMPLES, ROUNDS = 10, 64, a8.ROUNDS


@pytest.fixture(scope="module")
def arm(finished):
    """The arm run on the finished tiny run: two stages, one of each kind."""
    run = Workdir(load(finished.workdir / "config.gin").experiment, finished.workdir)
    improve = Improve(
        rounds=2,
        questions=4,
        samples=4,
        optimizer=FAST,
        minibatches=2,
    )
    imitate = Imitate(steps=6, batch=BatchConfig(rows=8, length=12), optimizer=FAST)
    params = run.newest_params()
    before = jax.tree.map(np.array, params)
    task = run.experiment.task
    asked = [task.example(0, "test", i) for i in range(8)]
    method = Learned((imitate, improve), samples=4, room=7, draws=10)
    found = learned(run, params, jax.random.key(3), asked, method)
    jax.tree.map(np.testing.assert_array_equal, before, params)
    assert run.experiment.sampler.max_new_tokens == 6
    return found


def test_an_arm_goes_through_its_stages(arm):
    """What is asked for in numbers is what is counted."""
    facts = arm.facts
    assert facts["updates"] == 6 + 2 * 2 and facts["rows"] == 6 * 8 + 4 * 8
    imitated, improved = facts["rounds"]
    assert len(imitated["loss"]) == 6
    assert imitated["loss"][-1] < imitated["loss"][0]
    assert len(improved["pass@1"]) == len(improved["length"]) == 2
    # Every round's responses are 16, of as many tokens as it says.
    assert facts["generated"] == pytest.approx(sum(improved["length"]) * 16)
    assert facts["flops"]["train"] > 0 and facts["flops"]["rollout"] > 0
    assert facts["flops"]["evaluate"] == 0  # the test is no part of the learning
    assert arm.samples.tolist() == [4] * 8
    assert np.array(arm.extra["majority"]).shape == (8, 3)
    # Of one sample the majority is the sample itself.
    ones = np.array(arm.extra["majority"])[:, 0]
    np.testing.assert_allclose(ones.mean(), (arm.right / 4).mean(), atol=0.15)
    json.dumps(facts)


def evidence(arms):
    """Three seeds of arms, each (chance to be right, facts)."""
    rng = np.random.default_rng(0)
    each = np.clip(rng.normal(0, 0.03, (3, PROBLEMS)), -0.05, 0.05)
    found = {}
    for name, (chance, facts) in arms.items():
        right = np.clip(np.rint(SAMPLES * (chance + each)), 0, SAMPLES).astype(int)
        vote = np.repeat((right / SAMPLES)[..., None], 7, axis=2)
        ones = np.ones(PROBLEMS)
        found[name] = [
            Predictions(
                r,
                np.full(PROBLEMS, SAMPLES),
                ones,
                ones,
                {"majority": v.tolist()},
                {
                    "generated": 100.0,
                    "updates": ROUNDS,
                    "flops": {"rollout": 10, "train": 5},
                    "stopped": "",
                    "rounds": [],
                    **facts,
                },
            )
            for r, v in zip(right, vote)
        ]
    return Evidence(Tier("x.gin", (), PROBLEMS), (0, 1, 2), [], found)


def rounds(last, length=17.0, first=0.2):
    """Facts of an arm whose samples become right on a line."""
    right = np.linspace(first, last, ROUNDS).tolist()
    return {"rounds": [{"pass@1": right, "length": [length] * ROUNDS}]}


def passed(found):
    json.dumps([found.checks, found.sections])  # plain numbers and truths only
    return [check.passed for check in found.checks]


def eight(**changed):
    chances = {"start": 0.25, "own": 0.25, "sft": 0.25, "sft-distinct": 0.6}
    chances |= dict.fromkeys(a8.LEARNERS, 0.45)
    for clipped, unclipped in a8.CLIPS:
        chances |= {clipped: 0.5, unclipped: 0.3}
    chances |= changed
    return evidence({name: (x, rounds(x)) for name, x in chances.items()})


def test_a8_tells_gains_from_none():
    assert passed(a8.analyse(eight())) == [True] * 8
    none = passed(a8.analyse(eight(grpo=0.25)))
    assert none == [False] * 5 + [True] * 3
    # Resolved, but by less than was asked for.
    assert passed(a8.analyse(eight(grpo=0.35)))[0] is False
    assert passed(a8.analyse(eight(dpo=0.2)))[3] is False
    # Here some problems are never solved at first: learning covers more of them.
    assert passed(a8.analyse(eight(start=0.0)))[5] is False
    assert passed(a8.analyse(eight(**{"ppo-4-unclipped": 0.5})))[-2] is False


def test_a8_measures_by_hand():
    found = eight(grpo=0.5)
    right = found.column("grpo", "right")
    np.testing.assert_allclose(covered(found, "grpo", 1), right / 64)
    # Two of 64 drawn: 1 - (64 - r)(63 - r) / (64 * 63).
    two = 1 - (64 - right) * (63 - right) / (64 * 63)
    np.testing.assert_allclose(covered(found, "grpo", 2), two)
    np.testing.assert_allclose(voted(found, "grpo", 16), right / 64)
    assert curve(found, "grpo", "pass@1")[:, -1].tolist() == [0.5] * 3
    # What a learner does not measure is a gap.
    assert np.isnan(curve(found, "grpo", "entropy")).all()
    assert fact(found, "grpo", "updates").tolist() == [ROUNDS] * 3


def test_a9_asks_for_both():
    chances = {"start": 0.2, "clone": 0.4, "rloo": 0.4, "clone-rloo": 0.5}
    arms = {n: (x, rounds(x)) for n, x in ({"rloo-clone": 0.4} | chances).items()}
    assert passed(a9.analyse(evidence(arms))) == [True] * 3
    arms["clone"] = (0.5, rounds(0.5))
    assert passed(a9.analyse(evidence(arms))) == [False, True, True]
    # The same rounds and updates as either alone.
    of = {arm.name: arm.method.stages for arm in a9.CLAIM.tiers["nano"].arms}
    for name in ("clone-rloo", "rloo-clone"):
        assert sum(stage.rounds for stage in of[name]) == of["clone"][0].rounds


def test_a10_tells_shaping_from_farming():
    arms = {
        "start": (0.25, {}),
        "sparse": (0.5, rounds(0.5)),
        "potential": (0.5, rounds(0.6)),
        "sparse-short": (0.1, rounds(0.1)),
        "potential-long": (0.4, rounds(0.4)),
        "bonus": (0.1, rounds(0.1, length=30.0)),
        "potential-learned": (0.4, rounds(0.4)),
    }
    found = evidence(arms)
    assert passed(a10.analyse(found)) == [True] * 6
    useless = evidence(arms | {"sparse-short": (0.5, rounds(0.5))})
    assert passed(a10.analyse(useless))[2] is False
    # On a line from .2 to .5 the level of .35 is met half-way, on one to .6 earlier.
    (sparse, *_), (shaped, *_) = (a10.rounds_to(found, n) for n in list(arms)[1:3])
    assert abs(sparse - ROUNDS / 2) < a10.WINDOW and shaped < sparse - 3
    slow = passed(a10.analyse(evidence(arms | {"potential": (0.4, rounds(0.4))})))
    assert slow == [False, False, True, True, True, True]
    unfarmed = evidence(arms | {"bonus": (0.5, rounds(0.5))})
    assert passed(a10.analyse(unfarmed)) == [True] * 3 + [False] * 2 + [True]
    unlearned = evidence(arms | {a10.LEARNED: (0.1, rounds(0.1))})
    assert passed(a10.analyse(unlearned)) == [True] * 5 + [False]


def seven(auc=0.95, tokens=100.0, flops=20, **changed):
    chances = {"start": 0.1, "sft": 0.15, a7.SAMPLED: 0.2, a7.SAMPLED_MORE: 0.25}
    chances |= {a7.LED[0]: 0.4, a7.LED[1]: 0.35} | changed
    data = {"pass@1": [0.1] * 3, "rows": [9.0] * 3, "found": [0.5] * 3}
    arms = {n: (x, {"rounds": [data] if x > 0.15 else []}) for n, x in chances.items()}
    guided = {"generated": tokens, "flops": {"search": flops, "train": 5}}
    arms[a7.LED[1]][1].update(guided)
    arms[a7.SAMPLED_MORE][1].update(flops={"rollout": 20, "train": 5})
    return evidence(arms | {a7.JUDGED: (0.1, {"auc": auc})})


def test_a7_asks_for_a_guide_and_equal_budgets():
    assert passed(a7.analyse(seven())) == [True] * 8
    assert passed(a7.analyse(seven(auc=0.85))) == [False] + [True] * 7
    assert passed(a7.analyse(seven(tokens=120.0)))[1] is False
    assert passed(a7.analyse(seven(flops=30)))[2] is False
    no_gain = passed(a7.analyse(seven(**{a7.LED[1]: 0.2})))
    assert no_gain == [True] * 6 + [False, False]


def test_arms_of_a_claim_have_equal_budgets():
    """A8's learners differ in the learner and the rate, A10's in what is paid."""
    eights = {arm.name: arm.method.stages for arm in a8.CLAIM.tiers["nano"].arms}
    alike = {
        replace(eights[name][0], learner=a8.Clone(), optimizer=FAST, task=None, rows=0)
        for name in (*a8.LEARNERS, "own")
    }
    assert len(alike) == 1
    assert eights["sft"][0].steps == next(iter(alike)).rounds
    tens = {arm.name: arm.method for arm in a10.CLAIM.tiers["nano"].arms[1:]}
    tens[a10.LEARNED] = tens[a10.LEARNED].learned
    unpaid = {
        replace(method.stages[0], payment=a10.Payment(), learner=a8.PPO)
        for method in tens.values()
    }
    assert len(unpaid) == 1


def test_a_learned_potential_is_of_a_model_and_the_outcome_of_the_task(finished):
    """The arm on the finished tiny run: same questions, and the policy moves."""
    run = Workdir(load(finished.workdir / "config.gin").experiment, finished.workdir)
    (method,) = (
        arm.method for arm in a10.CLAIM.tiers["nano"].arms if arm.name == a10.LEARNED
    )
    paid = method.learned.stages[0].payment
    assert (paid.reward, paid.outcome) == (method.reward.name, "task")
    small = replace(
        method.reward,
        steps=2,
        rows=8,
        microbatches=1,
        traces=replace(method.reward.traces, problems=16),
        held_out=replace(method.reward.held_out, problems=8),
    )
    improve = Improve(rounds=1, questions=4, samples=4, optimizer=FAST, payment=paid)
    short = replace(method.learned, stages=(improve,), samples=2, room=0, draws=2)
    asked = [run.experiment.task.example(0, "test", i) for i in range(4)]
    stages = run.experiment.stages
    key, tiny = jax.random.key(3), a10.Judged(small, short)
    found = a10.judged(run, run.newest_params(), key, asked, tiny)
    assert run.experiment.stages is stages
    (seen,) = found.facts["rounds"]
    # The reward is the part that is right, not what the model thinks of it.
    assert seen["reward"] == seen["pass@1"]
    assert found.facts["flops"]["reward"] > 0 and found.facts["reward_flops"] > 0
    learning = sum(found.facts["flops"].values()) + found.facts["reward_flops"]
    assert found.flops.sum() > learning

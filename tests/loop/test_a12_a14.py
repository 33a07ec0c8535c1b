"""A12 to A14: policies read as told, and the checks tell the shapes from others."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from o1jax.data.behaviours import Behaviours
from o1jax.data.behaviours.task import PathTemplate
from o1jax.data.budget import BudgetBatch
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.loop.episodes import build_measure, build_sampling
from o1jax.loop.experience import Questions
from o1jax.loop.experiment import Experiment
from o1jax.loop.held_out import HeldOut
from o1jax.loop.imitate import Imitate
from o1jax.loop.improve import Improve
from o1jax.loop.reproduce import a12, a13, a14
from o1jax.loop.reproduce.a14 import TwoTurns, two_turns
from o1jax.loop.reproduce.claim import Evidence, Predictions, Tier
from o1jax.loop.reproduce.taught import Taught, learn_text, taught
from o1jax.loop.turns import Turns
from o1jax.loop.workdir import Workdir, write_json
from o1jax.policy.policy import PolicyConfig
from o1jax.rollout.decode import SamplerConfig
from o1jax.tasks import Graph

FAST = OptimizerConfig(0.02, 1, "constant", weight_decay=0.0)
PLAIN = Behaviours(
    task=Graph(modulus=2, min_variables=2, max_variables=2, distractors=0),
    analysis=0,
    decomposition=0,
    alternatives=0,
    evaluation=0,
    correction=0,
    numbered=False,
)
READ = 1500  # tokens
BUDGET = BudgetBatch(rows=8, length=96, packed=True, tokens=READ)
STAGE = Imitate(name="text", batch=BUDGET, steps=20, optimizer=FAST)
PROBLEMS, SAMPLES = 12, 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run that is said to have read its text."""
    experiment = Experiment(
        task=PLAIN,
        template=PathTemplate(),
        policy=PolicyConfig(width=16, layers=1, heads=2, ff=16),
        sampler=SamplerConfig(rows=8, max_new_tokens=12),
        stages=(STAGE,),
    )
    run = Workdir(experiment, tmp_path_factory.mktemp("taught"))
    results = {"ledger": [{"kind": "train", "flops": 7.0}]}
    results["stages"] = {"text": {"steps": 6}}
    write_json(run.path / "results.json", results)
    return run


def asked(run, count=4):
    task = run.experiment.task
    return [task.example(0, "test", i) for i in range(count)]


@pytest.fixture(scope="module")
def arm(run):
    """A policy that reads mistakes. What stages behind it do: test_a7_a10.py."""
    text = replace(PLAIN, correction=0.5)
    method = Taught(text=text, samples=4, room=14, harder=PLAIN)
    params = run.current_params()
    return method, taught(run, params, jax.random.key(1), asked(run), method)


def test_an_arm_reads_its_own_text(run, arm):
    method, found = arm
    facts = found.facts
    assert facts["read"] == READ and facts["steps"] < STAGE.steps
    assert facts["text_flops"] > 0 and facts["updates"] == 0
    assert found.samples.tolist() == [4] * 4
    for name in ("greedy", "words", "harder", "harder_right"):
        assert len(found.extra[name]) == 4
    assert run.experiment.sampler.max_new_tokens == 12
    json.dumps([facts, dict(found.extra)])
    (folder,) = (run.path / "taught").iterdir()
    trained = folder / "checkpoints" / "00-text"
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*")}
    # Asked for again, it is read from the disk.
    again = learn_text(run, replace(STAGE, task=method.text))
    assert again.tokens == READ and again.steps == facts["steps"]
    assert {f: f.stat().st_mtime_ns for f in trained.rglob("*")} == before


def test_the_run_itself_is_the_control(run):
    method = Taught(samples=2)
    params = run.current_params()
    found = taught(run, params, jax.random.key(1), asked(run), method)
    facts = found.facts
    assert (facts["read"], facts["steps"], facts["text_flops"]) == (READ, 6, 7.0)
    assert "harder" not in found.extra
    # A budget that was not used up is no equal budget.
    results = json.loads((run.path / "results.json").read_text())
    results["stages"]["text"]["steps"] = STAGE.steps
    short = Workdir(run.experiment, run.path / "short")
    write_json(short.path / "results.json", results)
    with pytest.raises(ValueError, match="before its 1500 tokens were read"):
        taught(short, params, jax.random.key(1), asked(run), method)


def test_two_attempts_are_counted(run):
    found = two_turns(
        run,
        run.current_params(),
        jax.random.key(1),
        asked(run),
        TwoTurns(samples=4),
    )
    first, mended, spoilt, same = (
        np.array(found.extra[name]) for name in ("first", "mended", "spoilt", "same")
    )
    np.testing.assert_array_equal(found.right, first + mended - spoilt)
    assert np.all(same <= 4) and len(same) == 4
    assert found.facts["updates"] == 0


def test_held_out_second_attempts_are_metered(run, monkeypatch):
    """What the texts of the second attempts show, whoever wrote them."""
    task = run.experiment.task
    stage = Improve(questions=2, samples=4, turns=Turns())
    episodes = build_sampling(run, Questions(run, 1, task), task, stage)
    back = SimpleNamespace(
        texts=[["<work> a = 1 ; <back> ;", "a = 1 ;"]] * 4,
        grades=np.zeros((4, 2)),
        tokens=np.full((4, 2), 5),
    )
    plain = SimpleNamespace(grades=np.ones((4, 2)))
    monkeypatch.setattr(episodes, "attempts", lambda *_, **__: (plain, back))
    found = build_measure(run, HeldOut(problems=4, samples=2), task, episodes)({})
    assert found["text_correction"] == [0.5] and found["text_completion"] == [0.5]
    assert found["delta"][0] == -1 and found["length"] == 5


def evidence(arms):
    """Three seeds of arms, each (columns by chance, facts)."""
    rng = np.random.default_rng(0)
    found = {}
    for name, (chances, facts) in arms.items():
        draw = lambda p: np.clip(
            np.rint(SAMPLES * (p + rng.uniform(-0.06, 0.06, PROBLEMS))), 0, SAMPLES
        ).astype(int)
        seeds = []
        for _ in range(3):
            columns = {k: draw(p).tolist() for k, p in chances.items()}
            for kind in ("greedy", "harder"):  # of one answer
                if kind in chances:
                    some = np.arange(PROBLEMS) < round(chances[kind] * PROBLEMS)
                    columns[kind] = some.astype(int).tolist()
            right = np.array(columns.pop("right"))
            ones = np.ones(PROBLEMS)
            spent = {"flops": {}, "generated": 1.0, "updates": 1, "stopped": ""}
            columns |= {"words": [9] * PROBLEMS}
            seeds.append(
                Predictions(
                    right,
                    np.full(PROBLEMS, SAMPLES),
                    9 * ones,
                    ones,
                    columns,
                    spent | facts,
                )
            )
        found[name] = seeds
    return Evidence(Tier("x.gin", (), PROBLEMS), (0, 1, 2), [], found)


def passed(found):
    json.dumps([found.checks, found.sections])  # plain numbers and truths only
    return [check.passed for check in found.checks]


def read(greedy, *, tokens=100, **more):
    texts = {"text_correction": more.pop("corrects", 0.2)}
    facts = {"read": tokens, "steps": 5, "text_flops": 1.0, "texts": texts}
    facts["harder_texts"] = texts
    return {"right": greedy, "greedy": greedy, **more}, facts


def twelve(**changed):
    arms = {"optimal": 0.25, "search": 0.5, "optimal-rl": 0.4, "search-rl": 0.75}
    return evidence({name: read(x) for name, x in (arms | changed).items()})


def test_a12_asks_for_more_by_search_and_by_rl():
    assert passed(a12.analyse(twelve())) == [True] * 4
    assert passed(a12.analyse(twelve(search=0.25))) == [True, False, True, True]
    assert passed(a12.analyse(twelve(**{"search-rl": 0.4}))) == [
        True,
        True,
        False,
        False,
    ]
    unequal = twelve()
    unequal.arms["search"][1].facts["read"] = 101
    assert passed(a12.analyse(unequal))[0] is False


def thirteen(**changed):
    chances = dict.fromkeys(a13.TEXTS, (0.8, 0.6)) | {a13.NONE: (0.8, 0.3)} | changed
    corrects = {a13.OFTEN: 0.2}
    return evidence(
        {
            name: read(
                near, harder=far, harder_right=far, corrects=corrects.get(name, 0.1)
            )
            for name, (near, far) in chances.items()
        }
    )


def test_a13_asks_for_gains_on_longer_problems():
    assert passed(a13.analyse(thirteen())) == [True] * 6
    none = thirteen(**{a13.NONE: (0.8, 0.6)})
    assert passed(a13.analyse(none)) == [True, False, False, True, True, True]
    nobody = thirteen(**{name: (0.8, 0.0) for name in a13.TEXTS})
    assert passed(a13.analyse(nobody)) == [True, False, False, False, True, True]
    dear = thirteen(**{a13.NONE: (1.0, 0.3)})
    assert passed(a13.analyse(dear))[4] is False
    never = thirteen()
    for one in never.arms[a13.OFTEN]:
        one.facts["texts"]["text_correction"] = 0.0
    assert passed(a13.analyse(never))[-1] is False


def test_a13_reads_the_data():
    """A text of two to four steps, each wrong at first with chance 1/2.

    Of two, three and four steps evenly: 1 - (1/4 + 1/8 + 1/16) / 3 = 0.854; those too
    long for the limit were drawn again.
    """
    assert a13.in_the_data(a13.OFTEN) == pytest.approx(0.854, abs=0.05)


def fourteen(**changed):
    arms = {
        "format": (0.5, 0.3),
        "pairs": (0.5, 0.5),
        "star": (0.5, 0.45),
        "plain-rl": (0.6, 0.6),
        "score": (0.6, 0.8),
    } | changed
    return evidence(
        {
            name: (
                {
                    "right": b,
                    "first": a,
                    "mended": 0.05 + max(b - a, 0),
                    "spoilt": 0.05 + max(a - b, 0),
                    "same": 0.3,
                },
                {},
            )
            for name, (a, b) in arms.items()
        }
    )


def test_a14_asks_for_a_gain_between_the_attempts():
    assert passed(a14.analyse(fourteen())) == [True] * 5
    copies = fourteen(score=(0.6, 0.6))
    assert passed(a14.analyse(copies)) == [True, False, False, True, False]
    naive = fourteen(pairs=(0.5, 0.9))
    assert passed(a14.analyse(naive)) == [True, False, True, False, True]
    delta = a14.delta(fourteen(), "format")
    assert delta.shape == (3, PROBLEMS) and -0.35 < delta.mean() < -0.05

"""A3: reward models choose among shared samples; the checks tell who is better."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.loop.probe import Probe
from o1jax.loop.reproduce import a3, verify
from o1jax.loop.reproduce import pool as pools
from o1jax.loop.reproduce.claim import Evidence, Predictions, Tier
from o1jax.loop.reward_data import Data
from o1jax.loop.reward_model import TrainReward
from o1jax.loop.traces import TraceConfig
from o1jax.loop.workdir import Workdir
from o1jax.types import StepLabels

EXPERIMENT = """
Experiment.task = @Chain()
Experiment.stages = [@Imitate()]
Chain.min_steps = 1
Chain.max_steps = 1
Chain.modulus = 5
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
SamplerConfig.max_new_tokens = 3
SamplerConfig.rows = 32
"""


def config(**changes) -> TrainReward:
    settings = {
        "traces": TraceConfig(problems=64, samples=1),
        "held_out": TraceConfig(problems=16, samples=2),
        "rows": 32,
        "steps": 2,
        "optimizer": OptimizerConfig(learning_rate=0.02),
        "probe": Probe(),
    }
    return TrainReward(**settings | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a policy that knows nothing."""
    folder = tmp_path_factory.mktemp("a3")
    (folder / "x.gin").write_text(EXPERIMENT)
    return Workdir(load(folder / "x.gin").experiment, folder)


class Judged:
    def __init__(self, *_):
        pass

    def full(self, params):
        return {"step_auc": 1.0, "reliability": []}


def test_arms_choose_among_the_same_samples(run, monkeypatch):
    drawn, draw = [], pools.draw_pool
    monkeypatch.setattr(
        pools, "draw_pool", lambda *args: drawn.append(args[-1]) or draw(*args)
    )
    monkeypatch.setattr(verify, "Judge", Judged)
    pools._kept.cache_clear()
    task, key = run.experiment.task, jax.random.key(5)
    examples = [task.example(0, "test", i) for i in range(8)]
    params = run.current_params()
    method = a3.Unverified(samples=16, draws=20)
    guessed = a3.unverified(run, params, key, examples, method)
    method = verify.Verify(config(), samples=16, draws=20)
    found = verify.verify(run, params, key, examples, method)
    assert drawn == [16]
    best, covered = (
        np.array(column) for column in (found.extra["best"], guessed.extra["covered"])
    )
    # One sample is chosen by nobody; no choice beats the oracle's.
    np.testing.assert_allclose(best[:, 0], covered[:, 0])
    assert np.all(best <= covered + 1e-9)
    assert np.all(found.flops > guessed.flops)
    np.testing.assert_array_equal(found.tokens, guessed.tokens)
    facts = found.facts
    assert facts["labels"] <= 64 and facts["epochs"] >= 1
    assert facts["train_flops"] > 0 and facts["data_flops"] > 0
    assert facts["judged"] == {"step_auc": 1.0}  # without what the report can't hold


ZERO, END = 9, 4  # ids of the words 0 and ;


def texts(numbers, answers):
    """Rows `BOS x` with the response `y ;`, for a judge that wants y to be x."""
    tokens = np.stack([np.ones_like(numbers), ZERO + numbers, ZERO + answers], 1)
    tokens = np.pad(tokens, ((0, 0), (0, 1)), constant_values=END).astype(np.int32)
    length = np.full(len(tokens), 4, np.int32)
    at_end = np.arange(4) == np.full((len(tokens), 1), 3)
    return StepLabels(
        tokens=tokens,
        prompt_length=length - 2,
        length=length,
        step_end=at_end,
        label=(at_end & (numbers == answers)[:, None]).astype(np.float32),
        weight=at_end.astype(np.float32),
    )


@pytest.mark.parametrize("learns", ["steps", "outcome"])
def test_a_model_finds_the_right_sample(run, learns, monkeypatch):
    assert run.tokenizer.encode("0 ;") == [ZERO, END]
    rng = np.random.default_rng(0)
    rows = texts(rng.integers(5, size=512), rng.integers(5, size=512))
    data = Data(rows, {"labels": 512})
    monkeypatch.setattr(verify, "Judge", Judged)
    method = verify.Verify(config(learns=learns, steps=60), how="last", ends=False)
    trained = verify.train_verifier(run, method.reward, data, 5.0)
    assert trained.facts["epochs"] == 60 * 32 / 512
    assert trained.facts["judged"] == {"step_auc": 1.0}
    assert trained.facts["data_flops"] == 5
    # Five problems with five samples each, all answers in turn.
    x, y = (part.ravel() for part in np.indices((5, 5)))
    rows = texts(x, y)
    score, flops = verify.score_rows(run, trained, rows, method)
    assert score.reshape(5, 5).argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert flops > 0
    # The steps of a text without any are not all right.
    empty = rows.replace(tokens=np.zeros_like(rows.tokens))
    score, _ = verify.score_rows(run, trained, empty, method)
    assert np.all(score < -1000)


def test_a_text_that_stops_too_early_has_a_wrong_end():
    """Two right steps of three, then two whole texts, the second of them wrong from the
    first step on; the last one never stops.
    """
    step_end = np.zeros((4, 7), bool)
    step_end[:, [2, 4]] = True
    verdict = step_end * np.array([1, 1, 0, 1], np.float32)[:, None]
    width = np.zeros((4, 7), np.int32)
    length = np.array([6, 6, 6, 7])
    traces = SimpleNamespace(
        tokens=width,
        prompt_length=length * 0 + 1,
        length=length,
        step_end=step_end,
        grades=np.array([0.0, 1.0, 0.0, 0.0]),
    )
    weight = step_end * np.array([[1, 1], [1, 1], [1, 0], [1, 1]]).repeat(
        [4, 3], axis=1
    ).astype(np.float32)
    labels = StepLabels(
        tokens=width,
        prompt_length=traces.prompt_length,
        length=length,
        step_end=step_end,
        label=verdict,
        weight=weight,
    )
    found = verify.judge_end(traces, labels, keep=False)
    ends = [np.flatnonzero(row).tolist() for row in found.step_end]
    assert ends == [[2, 4, 5], [2, 4, 5], [2, 4, 5], [2, 4, 6]]
    label = [row[at].tolist() for row, at in zip(found.label, ends)]
    assert label == [[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0]]
    known = [row[at].tolist() for row, at in zip(found.weight, ends)]
    assert known == [[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 1]]
    kept = verify.judge_end(traces, labels, keep=True)
    assert kept.weight[2, 5] == 1
    outcomes = verify.outcome_rows(traces)
    assert outcomes.label.sum(1).tolist() == [0, 1, 0, 0]
    assert [np.flatnonzero(w).tolist() for w in outcomes.weight] == [[5], [5], [5], [6]]
    np.testing.assert_array_equal(outcomes.step_end, found.step_end)


def test_choices_by_hand():
    """Answers 3, 3, 4 with worth 0.2, 0.2, 0.3: the best is 4, the vote is for 3."""
    pool = pools.Pool(
        rows=None,
        right=np.array([[1.0, 1.0, 0.0, 0.0]]),
        votes=[["3", "3", "4", None]],
        likelihood=np.zeros((1, 4)),
        tokens=np.array([8.0]),
        flops=np.array([100.0]),
    )
    score = np.log([[0.2, 0.2, 0.3, 0.1]])
    found = verify.choose(pool, score, 7.0, {"auc": 0.5}, draws=100)
    (best,), (vote,), (proxy,) = (found.extra[n] for n in ("best", "vote", "proxy"))
    # Of the six pairs three hold the 4; in the others a 3 is the best.
    assert best == pytest.approx([1 / 2, 3 / 6, 0])
    assert vote == pytest.approx([1 / 2, 4 / 6 - 1 / 6, 1])
    assert proxy == pytest.approx([0.8 / 4, (3 * 0.3 + 3 * 0.2) / 6, 0.3])
    assert (found.right.tolist(), found.samples.tolist()) == ([0], [1])
    assert (found.flops.tolist(), found.facts) == ([107.0], {"auc": 0.5})


def evidence(**levels):
    """Evidence where each curve earns level[0] at N = 1 and level[1] at 256."""
    rng = np.random.default_rng(0)
    problems, spread = 20, 0.02 * rng.standard_normal((3, 20, 1))

    def curve(seed, level):
        return (np.linspace(*level, 9) + spread[seed]).tolist()

    facts = {name: 1.0 for name in a3.FACTS}
    ones = np.ones(problems)
    found = {}
    for arm in a3.CLAIM.tiers["nano"].arms:
        found[arm.name] = []
        for seed in range(3):
            own = curve(seed, levels[arm.name.split("-")[0]])
            extra = {"best": own, "vote": own, "proxy": own}
            if arm.name == a3.POLICY:
                extra["majority"] = curve(seed, levels["majority"])
                extra["covered"] = curve(seed, (0.3, 1))
            of_arm = facts | {"judged": facts}
            predicted = Predictions(
                ones.astype(int), ones.astype(int), ones, ones, extra, of_arm
            )
            found[arm.name].append(predicted)
    return Evidence(Tier("x.gin", (), problems), (0, 1, 2), [], found)


def passed(**levels):
    return [check.passed for check in a3.analyse(evidence(**levels)).checks]


def test_the_checks_tell_who_is_better():
    published = {"prm": (0.3, 0.9), "orm": (0.3, 0.8), "majority": (0.3, 0.6)}
    published["policy"] = (0.3, 0.5)
    assert passed(**published) == [True] * 6
    # The outcome model as good as the process model: not above it, and no wider lead.
    same = passed(**published | {"prm": (0.3, 0.8)})
    assert same == [False, True, False, True, True, False]
    # Below majority.
    weak = passed(**published | {"orm": (0.3, 0.5)})
    assert weak == [True, False, True, False, True, True]
    # A lead that is there from the start and shrinks.
    early = passed(**published | {"prm": (0.8, 0.9)})
    assert early == [True] * 4 + [False, False]


def test_the_report_compares_per_trace_and_per_label():
    levels = {"prm": (0.3, 0.9), "orm": (0.3, 0.7), "majority": (0.3, 0.6)}
    found = a3.analyse(evidence(**levels, policy=(0.3, 0.5)))
    json.dumps([found.checks, found.sections])  # plain numbers and truths only
    curves, differences, models = found.sections
    assert [row[0] for row in curves["table"]["rows"]] == [2**i for i in range(9)]
    rows = {tuple(row[:2]): row[2:] for row in differences["table"]["rows"]}
    # At N = 64, six of eight steps up: 0.3 + 0.6 * 6 / 8 less 0.3 + 0.4 * 6 / 8.
    assert rows["prm-2048", "orm-16384"][2] == [pytest.approx(0.15)] * 3
    assert rows["prm-8192", "orm-8192"][3] == [pytest.approx(0.2)] * 3
    assert len(models["table"]["rows"]) == 6


class Own:
    def current_params(self):
        return {}


def test_a_pool_is_drawn_again_for_another_key(monkeypatch):
    monkeypatch.setattr(pools, "draw_pool", lambda *args: object())
    pools._kept.cache_clear()
    run = Own()
    pool = lambda seed: pools.shared_pool(run, jax.random.key(seed), [], 4)
    first = pool(0)
    assert pool(0) is first
    assert pool(1) is not first

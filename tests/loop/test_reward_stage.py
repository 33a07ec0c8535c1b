"""Reward models as stages: data, training, judgement; killed and resumed; refused."""

import json
import shutil

import jax
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.loop import reward_data
from o1jax.loop.guides import Verifier
from o1jax.loop.labelling import Labels, label_ends
from o1jax.loop.methods import Search
from o1jax.loop.reward_model import TrainReward, train_reward
from o1jax.loop.traces import TraceConfig, Traces, first_error, up_to_first_error
from o1jax.loop.workdir import Workdir
from o1jax.reward.model import RewardModelConfig
from o1jax.search.steps import Steps
from o1jax.types import StepLabels

# The policy of the tiny run knows little: many of its responses close no step at all.
TRACES = TraceConfig(problems=48, samples=4)
SMALL = dict(rows=16, steps=6, traces=TRACES, held_out=TraceConfig(24, 4))

SEARCH = Search(budget=8, steps=Steps(tokens=3), verifier=Verifier(outcome_only=True))
TREE = Labels(source="tree", search=SEARCH)

EXPERIMENT = """
Experiment.task = @Chain()
Experiment.stages = [@Imitate(), @TrainReward()]
Chain.min_steps = 2
Chain.max_steps = 2
Chain.modulus = 5
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
SamplerConfig.max_new_tokens = 6
SamplerConfig.rows = 8
Imitate.steps = 25
OptimizerConfig.learning_rate = 0.02
OptimizerConfig.warmup_steps = 1
BatchConfig.rows = 16
BatchConfig.length = 12
TrainReward.rows = 8
TrainReward.steps = 6
TrainReward.checkpoint_every = 2
TrainReward.traces = @tr/TraceConfig()
TrainReward.held_out = @held/TraceConfig()
tr/TraceConfig.problems = 64
held/TraceConfig.problems = 32
"""


@pytest.fixture
def run(copied):
    """The finished tiny run, with its policy."""
    state = Workdir(load(copied / "config.gin").experiment, copied)
    state.params = state.newest_params()
    return state


def trained(run, **options):
    """A stage more at the end of the run, done."""
    stage = TrainReward(**SMALL | options)
    experiment = run.experiment
    stages = (*experiment.stages, stage)
    object.__setattr__(experiment, "stages", stages)
    index = len(stages) - 1
    record = train_reward(run, index, stage)
    run.finish(index, record)
    return index, stage, record


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": RewardModelConfig(readout="head", heads=3, trunk="frozen")},
        {"model": RewardModelConfig(readout="label"), "language_weight": 0.5},
        {"learns": "outcome"},
        {"learns": "pairs"},
        {"learns": "pairs", "model": RewardModelConfig(readout="implicit")},
        {"learns": "demonstrations"},
        {"labels": Labels(source="rollouts", rollouts=2)},
        {"labels": Labels(source="binary", rollouts=2)},
        {"labels": TREE, "traces": TraceConfig(8)},
    ],
    ids=lambda o: "-".join(f"{k}" for k in o) or "oracle",
)
def test_every_kind_learns_and_is_judged(run, options):
    before = jax.tree.map(np.asarray, run.params)
    index, stage, record = trained(run, **options)
    assert (record.kind, record.steps) == ("reward", 6)
    assert record.results["steps"] == 6  # of the optimiser: traces count their own
    judged = record.results["judged"]
    assert judged["traces"] > 20 and 0 <= judged["step_auc"] <= 1
    assert record.results["labels"] > 0
    # The policy is what it was; the model can be read back, and scores.
    jax.tree.map(np.testing.assert_array_equal, before, run.params)
    model, weights = run.reward_model(stage.name)
    assert weights.version == 6
    if stage.model.trunk == "frozen":
        jax.tree.map(np.testing.assert_array_equal, before, weights.params["net"])
    data = reward_data.prepare(run, index, stage)
    spent = {row["kind"]: row for row in run.ledger.table()}
    assert spent["reward"]["flops"] > 0
    if stage.learns == "steps":
        rows = data.rows
        scores = model.score(
            weights.params, rows.tokens, rows.prompt_length, rows.length, rows.step_end
        )
        assert scores.shape[-2:] == rows.tokens.shape
        assert np.all(np.asarray(scores)[..., ~rows.step_end] == 0)


def test_oracle_labels_stop_at_the_first_error(run):
    index, stage, _ = trained(run)
    rows = reward_data.prepare(run, index, stage).rows
    assert rows.label.dtype == rows.weight.dtype == np.float32
    for end, label, weight in zip(rows.step_end, rows.label, rows.weight):
        wrong = int(first_error(end[None], label[None])[0])
        steps, right = int(end.sum()), int(end.sum()) if wrong < 0 else wrong
        known = steps if wrong < 0 else wrong + 1
        assert label[end].tolist() == [1] * right + [0] * (steps - right)
        assert weight[end].tolist() == [1] * known + [0] * (steps - known)


def test_the_end_of_a_text_is_its_last_step():
    """Rows: all right; right steps of a wrong answer; a wrong step; cut off."""
    tokens = [[1, 5, 4, 6, 4, 2], [1, 5, 4, 6, 2, 0], [1, 5, 4, 6, 4, 2]]
    tokens = np.array([*tokens, [1, 5, 4, 6, 7, 8]], np.int32)
    length, start = np.array([6, 5, 6, 6], np.int32), np.ones(4, np.int32)
    step_end = tokens == 4
    verdict = step_end.astype(np.float32)
    verdict[2] = 0
    weight = up_to_first_error(step_end, verdict).astype(np.float32)
    traces = Traces(
        examples=[None] * 4,
        texts=[""] * 4,
        grades=np.array([1.0, 0, 0, 0]),
        tokens=tokens,
        prompt_length=start,
        length=length,
        logprob=np.zeros(tokens.shape, np.float32),
        finished=np.array([True, True, True, False]),
        step_end=step_end,
        verdict=verdict,
    )
    rows = StepLabels(
        tokens=tokens,
        prompt_length=start,
        length=length,
        step_end=step_end,
        label=verdict,
        weight=weight,
    )
    masked, kept = (label_ends(traces, rows, keep=keep) for keep in (False, True))
    ends = [(0, 5), (1, 4), (2, 5)]  # none where room ran out
    assert [tuple(at) for at in np.argwhere(masked.step_end & ~step_end)] == ends
    assert [masked.label[at] for at in ends] == [1, 0, 0]
    # What follows a wrong step is no news, unless all is kept.
    assert [masked.weight[at] for at in ends] == [1, 1, 0]
    assert [kept.weight[at] for at in ends] == [1, 1, 1]
    np.testing.assert_array_equal(masked.weight[step_end], weight[step_end])
    for judged, last in ((True, [5, 4, 5, 2]), (False, [4, 2, 4, 2])):
        found = reward_data.outcome_labels(traces, ends=judged)
        assert np.argmax(found.weight, axis=1).tolist() == last
        assert found.label[np.arange(4), last].tolist() == [1, 0, 0, 0]


def test_outcomes_are_known_at_the_last_step_alone(run):
    index, stage, _ = trained(run, learns="outcome")
    rows = reward_data.prepare(run, index, stage).rows
    last = [np.flatnonzero(end)[-1] for end in rows.step_end]
    assert np.argmax(rows.weight, axis=1).tolist() == last
    assert (rows.weight.sum(axis=1) == 1).all()
    assert set(rows.label[rows.weight > 0]) <= {0.0, 1.0}


def test_a_hard_step_is_not_taken_for_a_wrong_one(run, monkeypatch):
    """Behind a soft label of 1/4 steps keep their weight; behind 0 they lose it."""
    from o1jax.loop import labelling

    stage = TrainReward(**SMALL)
    traces = reward_data.held_out_traces(run, stage.held_out, run.task(stage))
    row = int(np.argmax(traces.steps))
    traces = traces.rows(np.array([row, row]))
    ends = traces.ends[0][traces.ends[0] >= 0]
    value = np.zeros(traces.tokens.shape, np.float32)
    value[0, ends] = 1.0
    value[0, ends[0]] = 0.25
    value[1, ends[1:]] = 0.5
    faked = lambda *args, **kwargs: (value, {})
    monkeypatch.setattr(labelling, "from_rollouts", faked)
    config = Labels(source="rollouts")
    found = labelling.label(run, traces, config, task=None, key=None).labels
    assert found.weight[0, ends].tolist() == [1] * len(ends)
    assert found.weight[1, ends].tolist() == [1] + [0] * (len(ends) - 1)


def test_rollouts_are_the_same_in_other_chunks(run, monkeypatch):
    """Soft labels lie on the grid of their rollouts, and chunks change nothing."""
    from o1jax.loop import labelling

    stage = TrainReward(**SMALL)
    traces = reward_data.held_out_traces(run, stage.held_out, run.task(stage))
    config = Labels(source="rollouts", rollouts=4, after_error="keep")
    found = []
    for chunk in (256, 40):
        monkeypatch.setattr(labelling, "CHUNK", chunk)
        labels = labelling.label(
            run, traces, config, task=run.task(stage), key=jax.random.key(3)
        )
        found.append(labels)
    a, b = (x.labels for x in found)
    np.testing.assert_array_equal(a.label, b.label)
    assert found[0].facts["rollouts"] == found[1].facts["rollouts"]
    assert set((a.label[a.step_end] * 4).tolist()) <= {0, 1, 2, 3, 4}
    # A complete trace needs no rollout at its end: its grade is known.
    asked = traces.steps.sum() - (traces.finished & (traces.steps > 0)).sum()
    assert found[0].facts["rollouts"] == 4 * asked


def test_a_killed_stage_goes_on_where_it_was(o1jax, copied, tmp_path):
    """Neither samples nor labels are drawn again; the end is the same bit for bit."""
    file = tmp_path / "reward.gin"
    file.write_text(EXPERIMENT)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, _, err = o1jax("run", file, "--workdir", whole)
    assert code == 0, err
    place = "o1jax.loop.train:Checkpoints.save"
    o1jax.killed_at(place, 3, "run", file, "--workdir", killed)
    assert (killed / "rewards/01-reward/data.npz").exists()
    assert not (killed / "stages/01-reward.json").exists()
    code, _, err = o1jax("run", file, "--workdir", killed)
    assert code == 0, err
    untimed = lambda folder: {
        k: v
        for k, v in json.loads((folder / "stages/01-reward.json").read_text()).items()
        if k in ("results", "steps")
    }
    assert untimed(whole) == untimed(killed)
    spent = lambda folder: json.loads((folder / "stages/01-reward.json").read_text())[
        "ledger"
    ]["accounts"]["reward"]
    assert spent(whole) == spent(killed)


def test_pairs_of_a_users_file(run, tmp_path):
    task = run.experiment.task
    file = tmp_path / "pairs.jsonl"
    lines = []
    for i in range(12):
        example = task.example(0, "train", i)
        right = " ".join(f"{step} ;" for step in example.steps)
        wrong = " ".join(f"{(int(step) + 1) % 5} ;" for step in example.steps)
        lines.append(
            json.dumps(
                {"question": example.question, "chosen": right, "rejected": wrong}
            )
        )
    file.write_text("\n".join(lines))
    _, _, record = trained(run, learns="pairs", pairs_file=str(file), rows=8)
    assert record.results["pairs"] == 12


@pytest.mark.parametrize(
    "options, message",
    [
        ({"learns": "joy"}, "learns must be one of steps, "),
        ({"rows": 10, "microbatches": 4}, r"microbatches \(4\) must divide rows"),
        ({"learns": "pairs", "traces": TraceConfig(4, 1)}, "samples of at least 2"),
        ({"pairs_file": "x"}, "pairs_file is for learns 'pairs'"),
        ({"learns": "pairs", "language_weight": 1.0}, "language_weight is not for"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainReward(**SMALL | options)


def test_a_reward_model_that_is_not_there(run):
    with pytest.raises(ValueError, match=r"no reward model 'prm' in .*: it has none"):
        run.reward_model("prm")
    trained(run)
    with pytest.raises(ValueError, match=r"no reward model 'prm' in .*: reward"):
        run.reward_model("prm")


def test_damaged_data_are_made_again(run):
    index, stage, _ = trained(run)
    folder = run.rewards(index)
    first = reward_data.prepare(run, index, stage).rows
    shutil.rmtree(folder)
    again = reward_data.prepare(run, index, stage).rows
    assert isinstance(again, StepLabels)
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_a_reward_model_may_not_have_the_name_of_another_guide():
    from o1jax.loop.experiment import Experiment

    for name in ("likelihood", "verifier"):
        with pytest.raises(ValueError, match=f"{name}.* name of another guide"):
            Experiment(stages=(TrainReward(name=name),))

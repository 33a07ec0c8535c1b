"""A reward model that learns from all goals: its data by hand, and in the stage."""

import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.loop import reward_data
from o1jax.loop.goal_data import goal_ids, goal_labels
from o1jax.loop.reward_model import TrainReward, _objective
from o1jax.loop.traces import Traces, closing
from o1jax.loop.workdir import Workdir
from o1jax.reward.goals import GoalLabels, unpack_goals
from o1jax.reward.model import RewardModelConfig
from o1jax.tasks import Chain
from o1jax.types import StepLabels

EXPERIMENT = """
Experiment.task = @Countdown()
Experiment.stages = [@TrainReward()]
Countdown.numbers = 2
Countdown.max_number = 9
Countdown.min_target = 2
Countdown.max_target = 30
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
SamplerConfig.max_new_tokens = 9
SamplerConfig.rows = 32
TrainReward.learns = 'goals'
RewardModelConfig.readout = 'goal'
"""
# 3 and 8 make 5, 11 and 24; a wrong sum leaves nothing within reach.
TEXTS = ["8 * 3 = 24 , 24 ;", "8 - 3 = 5 , 5 ;", "8 + 3 = 12 , 12 ; 8 ;", "8 ="]
REACHED = [[{24}], [set()], [set(), set()], []]  # of 24: 5 is another's answer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("goals")
    (folder / "x.gin").write_text(EXPERIMENT)
    return Workdir(load(folder / "x.gin").experiment, folder)


def traces(run) -> Traces:
    """TEXTS as answers to 3 8 -> 24."""
    example = run.experiment.task.parse("3 8 -> 24")
    prompt = run.experiment.template.encode_prompt(run.tokenizer, example.question)
    rows = [prompt + run.tokenizer.encode(text) for text in TEXTS]
    length = np.array(list(map(len, rows)))
    tokens = np.zeros((len(rows), length.max()), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    prompt_length = np.full(len(rows), len(prompt))
    ends = closing(tokens, prompt_length, length, (run.tokenizer.id_of(";"),))
    zeros = np.zeros(tokens.shape, np.float32)
    return Traces(
        examples=[example] * len(rows),
        texts=TEXTS,
        grades=np.zeros(len(rows)),
        tokens=tokens,
        prompt_length=prompt_length,
        length=length,
        logprob=zeros,
        finished=np.ones(len(rows), bool),
        step_end=ends,
        verdict=zeros,
    )


def test_reach_of_each_step_by_hand(run):
    made, task = traces(run), run.experiment.task
    labels = StepLabels(
        tokens=made.tokens,
        prompt_length=made.prompt_length,
        length=made.length,
        step_end=made.step_end,
        label=made.verdict,
        weight=made.step_end.astype(np.float32),
    )
    rows = goal_labels(run, made, labels, task)
    assert len(rows.labels.tokens) == 3  # the last text closes no step
    reach = np.asarray(unpack_goals(rows.reach, len(task.goals)))
    for row, expected in zip(reach, REACHED):
        for bits, goals in zip(row, expected):
            assert {int(task.goals[g]) for g in np.flatnonzero(bits)} == goals
    words = [run.tokenizer.piece(i)[1:] for i in goal_ids(run, TrainReward())]
    assert words == [str(n) for n in range(2, 31)]


def test_the_stage_learns_from_them(run, monkeypatch):
    """The rows that it writes and reads back are those, with the oracle's labels."""
    stage = TrainReward(learns="goals", model=RewardModelConfig(readout="goal"))
    made = traces(run)
    verdict = np.where(made.step_end, [[1.0], [0.0], [0.0], [0.0]], 0.0)
    made = made._replace(verdict=verdict.astype(np.float32))
    monkeypatch.setattr(reward_data, "_traces", lambda *_: made)
    object.__setattr__(run.experiment, "stages", (stage,))
    reward_data.prepare(run, 0, stage)
    rows, facts = reward_data.prepare(run, 0, stage)
    assert isinstance(rows, GoalLabels) and rows.reach.dtype == np.uint8
    assert facts["labels"] == 3  # the step behind the wrong sum has no weight
    np.testing.assert_array_equal(rows.labels.label.sum(axis=1), [1, 0, 0])
    model = run.build_reward_model(stage)
    assert float(_objective(run, model, stage).weight(rows)) == 3


def test_a_task_without_goals_is_refused(run, monkeypatch):
    monkeypatch.setattr(run, "task", lambda stage: Chain())
    with pytest.raises(ValueError, match=r"needs a task that knows .* chain does not"):
        goal_ids(run, TrainReward())
    with pytest.raises(ValueError, match=r"needs RewardModelConfig\.readout"):
        TrainReward(learns="goals")

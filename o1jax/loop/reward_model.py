"""Training a reward model on what the policy writes.

In: the run so far and a TrainReward config. Out: its record; the model's parameters are
in the stage's folder, from where `Workdir.reward_model` reads them, and the policy
stays as it is. The loop is train.py's and the data reward_data.py's; here is which loss
goes with which data, and how good the model is on held-out traces.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jax
import numpy as np

from o1jax.config import configurable
from o1jax.data.marked import Solutions
from o1jax.data.rows import RowStream
from o1jax.learn.objectives import Objective
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.loop.goal_data import goal_ids
from o1jax.loop.labelling import Labels
from o1jax.loop.ledger import count_flops
from o1jax.loop.probe import Probe
from o1jax.loop.read_once import read_once
from o1jax.loop.reward_data import held_out_traces, marked_labels, prepare
from o1jax.loop.reward_sections import section
from o1jax.loop.traces import TraceConfig, up_to_first_error
from o1jax.loop.train import Learner, train
from o1jax.loop.workdir import StageRecord, Workdir
from o1jax.parallel.hosts import fetch
from o1jax.reward.demonstrations import demonstration_objective
from o1jax.reward.frozen import (
    StepReading,
    linear_objective,
    linear_scores,
    read_rows_of,
    reads_once,
)
from o1jax.reward.goals import goal_objective
from o1jax.reward.losses import reward_objective
from o1jax.reward.metrics import judge, step_auc
from o1jax.reward.model import RewardModel, RewardModelConfig
from o1jax.reward.preference import preference_objective
from o1jax.tasks.task import Task
from o1jax.types import Params, StepLabels

Learns = Literal["steps", "goals", "outcome", "pairs", "demonstrations"]
RESAMPLES = 200  # of the interval of the AUC
ROWS_AT_ONCE = 256  # held-out traces scored by a call


@configurable
@dataclass(frozen=True)
class TrainReward:
    """A reward model, trained on traces that the policy samples."""

    name: str = "reward"
    task: Task | None = None  # default: the experiment's
    # steps: is each step right; goals: that, and would it be for the task's other goals
    # (readout goal); outcome: is the answer; pairs: which of two answers is better;
    # demonstrations: is it the expert's or the policy's.
    learns: Learns = "steps"
    model: RewardModelConfig = field(default_factory=RewardModelConfig)
    traces: TraceConfig = field(default_factory=TraceConfig)
    labels: Labels = field(default_factory=Labels)  # of steps
    # Of steps, and of outcomes by log-odds: the stop token is a step too, right if the
    # response is. Where closed steps alone are multiplied, texts that stop too early
    # are preferred: less of them can be wrong.
    ends: bool = True
    # Of steps: solutions with a known first error (Flawed, MarkedFile), to learn from
    # and be judged on; None: samples of the policy, labelled.
    solutions: Solutions | None = field(default=None, metadata={"identity": "if set"})
    pairs_file: str = ""  # a JSONL of pairs; "": right against wrong samples
    pairs_a_question: int = 4  # at most, of samples
    language_weight: float = 0.0  # of next-token prediction on what is right
    goal_weight: float = 10.0  # of all goals beside the question's own
    rows: int = 64  # of a batch
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-3)
    )
    steps: int = 300
    microbatches: int = 1
    probe: Probe = field(default_factory=lambda: Probe(every=100))
    held_out: TraceConfig = field(default_factory=lambda: TraceConfig(256, 2))
    # How often to save changes nothing else, so it may differ when a run is resumed.
    checkpoint_every: int = field(default=200, metadata={"identity": False})
    keep: int = field(default=1, metadata={"identity": False})  # checkpoints

    def __post_init__(self) -> None:
        if self.learns not in get_args(Learns):
            raise ValueError(f"learns must be one of {', '.join(get_args(Learns))}")
        whole = ("pairs_a_question", "rows", "steps", "microbatches", "keep")
        for name in (*whole, "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not self.language_weight >= 0:
            raise ValueError("language_weight must not be negative")
        if self.rows % self.microbatches:
            raise ValueError(
                f"microbatches ({self.microbatches}) must divide rows ({self.rows})"
            )
        if not self.goal_weight >= 0:
            raise ValueError("goal_weight must not be negative")
        if self.learns == "goals" and self.model.readout != "goal":
            raise ValueError("learns 'goals' needs RewardModelConfig.readout 'goal'")
        if self.model.readout == "implicit" and self.learns not in ("pairs", "outcome"):
            raise ValueError(
                f"readout 'implicit' learns 'pairs' or 'outcome', not {self.learns!r}"
            )
        if self.language_weight and self.learns not in ("steps", "outcome"):
            raise ValueError(f"language_weight is not for learns {self.learns!r}")
        if self.pairs_file and self.learns != "pairs":
            raise ValueError(f"pairs_file is for learns 'pairs', not {self.learns!r}")
        if self.solutions is not None and self.learns != "steps":
            raise ValueError(f"solutions are for learns 'steps', not {self.learns!r}")
        samples = self.traces.samples
        if self.learns == "pairs" and not self.pairs_file and samples < 2:
            raise ValueError("learns 'pairs' needs TraceConfig.samples of at least 2")
        if self.probe.stop_at:
            raise ValueError("probe.stop_at is an accuracy, which a reward has not")

    @property
    def judges_ends(self) -> bool:
        """Whether the model has learned what a stop token is worth.

        An outcome read at the last step alone stays there: a search asks of all others,
        and at none but stop tokens would it have learned an answer.
        """
        whole = self.learns == "outcome" and self.model.readout == "logodds"
        return self.ends and (self.learns == "steps" or whole)


def train_reward(run: Workdir, index: int, config: TrainReward) -> StageRecord:
    """Samples, labels, trains, and judges on held-out traces."""
    data = prepare(run, index, config)
    model = run.build_reward_model(config)
    judged = Judge(run, config, model)
    objective, rows = _objective(run, model, config), data.rows
    if reads_rows_once(config):
        reading = read_once(run, run.current_params(), rows, owner=config.name)
        _ = judged.reading  # in front of the loop, whose ledger a resumed run takes
        objective, rows = objective_once(model, config), read_rows_of(rows, reading)
    learner = Learner(
        objective=objective,
        stream=_stream(run, config, rows),
        probe=judged.quick,
        folder=run.rewards(index),
        kind="reward",
        prefix="reward_",
        shown=("loss", "accuracy", "auc"),
        trainable=model.trainable,
    )
    key = jax.random.fold_in(run.key, 6)
    pick = lambda x: {"readout": x["readout"]} if reads_rows_once(config) else x
    # Jitted: op by op, each of them would be compiled.
    params = jax.jit(lambda *given: pick(model.init(*given)))(key, run.current_params())
    at = train(run, config, learner, params)
    steps = int(at.state.step)
    results = {
        "learns": config.learns,
        "readout": config.model.readout,
        "steps": steps,
        **data.facts,
        "judged": judged.full(at.state.params),
    }
    return StageRecord(
        name=config.name,
        kind="reward",
        steps=steps,
        seconds=at.seconds,
        ledger=run.ledger.state(),
        results=results,
        sections=[section(config.name, results)],
    )


def _objective(run: Workdir, model: RewardModel, config: TrainReward) -> Objective:
    if config.learns != "goals":
        return objective_of(model, config)
    ids = goal_ids(run, config)
    return Objective(*goal_objective(model, ids, goal_weight=config.goal_weight))


def objective_of(model: RewardModel, config: TrainReward) -> Objective:
    """The loss that goes with what the model learns from, but for goals."""
    whole = "product" if config.model.readout == "logodds" else "last"
    if config.learns == "pairs":
        return Objective(*preference_objective(model, whole))
    if config.learns == "demonstrations":
        return Objective(*demonstration_objective(model, whole))
    level = "step" if config.learns == "steps" else "outcome"
    weight = config.language_weight
    return Objective(*reward_objective(model, level=level, language_weight=weight))


def reads_rows_once(config: TrainReward) -> bool:
    """Whether the trunk reads each text once, and not again every epoch."""
    return reads_once(config.model) and config.learns in ("steps", "outcome")


def objective_once(model: RewardModel, config: TrainReward) -> Objective:
    """As objective_of, of what the trunk has read."""
    level = "step" if config.learns == "steps" else "outcome"
    return Objective(*linear_objective(model, level=level))


class Judge:
    """How good a reward model is, on traces that all models of the run share."""

    def __init__(self, run: Workdir, config: TrainReward, model: RewardModel) -> None:
        self._run, self._config, self._model = run, config, model
        self._score = jax.jit(model.score)

    def quick(self, params: Params) -> dict[str, float]:
        """Step AUC alone; nothing where all steps are right, or none."""
        probability, truth = self._probability(params), self._truth
        known = truth.weight > 0
        auc = step_auc(probability[known], truth.label[known])
        return {} if math.isnan(auc) else {"auc": auc}

    def full(self, params: Params) -> dict[str, Any]:
        """All that metrics.judge says; None for what is undefined."""
        said = judge(self._probability(params), self._truth, resamples=RESAMPLES)
        return jax.tree.map(lambda x: None if math.isnan(x) else x, said)

    @functools.cached_property
    def _truth(self) -> StepLabels:
        """The oracle's labels, up to the first error of each trace."""
        run, config = self._run, self._config
        if config.solutions is not None:
            return marked_labels(run, config, "valid", config.held_out.problems)[0]
        found = held_out_traces(run, config.held_out, run.task(config))
        traces = found.rows(np.flatnonzero(found.steps))
        known = up_to_first_error(traces.step_end, traces.verdict)
        return StepLabels(
            tokens=traces.tokens,
            prompt_length=traces.prompt_length,
            length=traces.length,
            step_end=traces.step_end,
            label=traces.verdict,
            weight=known.astype(np.float32),
        )

    @functools.cached_property
    def reading(self) -> StepReading:
        """What a trunk that stays says of the steps."""
        run, owner = self._run, self._config.name
        of = run, run.current_params(), self._truth
        return read_once(*of, owner=owner, kind="evaluate")

    def _probability(self, params: Params) -> np.ndarray:
        """f64[R, T]: sigmoid of the scores; the mean over heads."""
        if not reads_rows_once(self._config):
            return self._probability_of_rows(params)
        config, truth = self._config.model, self._truth
        scores = fetch(linear_scores(config, params["readout"], self.reading))
        out = np.zeros(truth.tokens.shape)
        out[truth.step_end] = _sigmoid(scores).mean(axis=0)
        return out

    def _probability_of_rows(self, params: Params) -> np.ndarray:
        truth, found = self._truth, []
        rows = (truth.tokens, truth.prompt_length, truth.length, truth.step_end)
        for start in range(0, len(truth.length), ROWS_AT_ONCE):
            part = [x[start : start + ROWS_AT_ONCE] for x in rows]
            short = ROWS_AT_ONCE - len(part[0])
            part = [np.pad(x, ((0, short), *[(0, 0)] * (x.ndim - 1))) for x in part]
            scores = fetch(self._score(params, *part))
            probability = _sigmoid(scores.reshape(-1, *scores.shape[-2:])).mean(axis=0)
            found.append(probability[: ROWS_AT_ONCE - short])
        if not self._flops:
            self._flops = count_flops(self._model.score, params, *part).flops
        calls = len(found)
        self._run.ledger.add(
            "evaluate",
            tokens=calls * ROWS_AT_ONCE * truth.tokens.shape[1],
            flops=calls * self._flops,
        )
        return np.concatenate(found)

    _flops: int = 0  # of a call


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores.astype(np.float64)))


def _stream(run: Workdir, config: TrainReward, rows: Any) -> RowStream:
    return RowStream(
        rows,
        rows=config.rows,
        seed=run.experiment.seed,
        identity={"kind": f"reward {config.learns}"},
    )

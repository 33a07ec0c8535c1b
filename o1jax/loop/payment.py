"""What the responses of a round are paid, by the verifier or by a reward model.

In: responses with their grades. Out: a worth for each, and f32[R, T] with the shaping
added. The reward model may go on learning beside the policy, from the labels of what
the policy writes now; its train state is then part of the checkpoint. Source of the
shaping: reward/shaping.py.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import configurable
from o1jax.data.replay import shuffled, size, take
from o1jax.learn.kl import KLControl
from o1jax.learn.optimizer import build_optimizer
from o1jax.learn.reduction import overlong_penalty
from o1jax.learn.state import new_state
from o1jax.learn.update import build_update, jit_update
from o1jax.loop.booked import Booked
from o1jax.loop.experience import Collected
from o1jax.loop.labelling import label, label_ends
from o1jax.loop.reward_data import outcome_labels
from o1jax.loop.reward_model import objective_of
from o1jax.loop.searching import trained_aggregate
from o1jax.loop.traces import Traces, verdicts
from o1jax.loop.workdir import Workdir
from o1jax.parallel.hosts import fetch
from o1jax.parallel.mesh import put_batch
from o1jax.parallel.sharding import TRANSFORMER_RULES
from o1jax.reward.aggregate import aggregate
from o1jax.reward.shaping import Shaping, kl_penalty, shape
from o1jax.reward.versions import Weights
from o1jax.tasks.task import Task
from o1jax.types import Params, TrainState, Trajectory

Pay = Literal["outcome", "steps"]


@configurable
@dataclass(frozen=True)
class Payment:
    """Who says what a response is worth, and for what it is paid."""

    reward: str = ""  # the TrainReward stage of that name; "": the task's verifier
    # Whose word on whole answers counts where there is a model: with task, the model is
    # for steps and potentials alone.
    outcome: Literal["model", "task"] = "model"
    pay: Pay = "outcome"  # at the last token, or a chance of being right at each step
    shaping: Shaping = field(default_factory=Shaping)
    kl: KLControl | None = None  # in place of Shaping.kl_coef: one that adapts
    overlong: int = 0  # tokens at the end of the room that cost up to 1 (DAPO); 0: none
    refresh_every: int = 0  # rounds after which the model learns on; 1: co-trained
    refresh_steps: int = 10  # updates of it then, on that round's responses

    def __post_init__(self) -> None:
        if self.pay not in get_args(Pay):
            raise ValueError(f"pay must be one of {', '.join(get_args(Pay))}")
        if self.outcome not in ("model", "task"):
            raise ValueError("outcome must be model or task")
        if self.refresh_every < 0:
            raise ValueError("refresh_every must not be negative")
        if self.overlong < 0:
            raise ValueError("overlong must not be negative")
        if self.kl is not None and self.shaping.kl_coef:
            raise ValueError("kl and shaping.kl_coef are both set: choose one")
        if self.refresh_steps < 1:
            raise ValueError("refresh_steps must be at least 1")
        if self.refresh_every and not self.reward:
            raise ValueError("refresh_every needs a reward model to refresh: reward")
        if self.shaping.potential == "process" and not self.reward:
            raise ValueError("potential 'process' needs a reward model: reward")


class Paymaster:
    """Pays the responses of each round; owns the reward model, if there is one."""

    def __init__(self, run: Workdir, config: Payment, task: Task, rounds: int) -> None:
        self._run, self._config, self._task = run, config, task
        self.state: TrainState | None = None  # of a model that goes on learning
        self._most = run.experiment.sampler.max_new_tokens
        self._shaped = jax.jit(self._shape)
        if not config.reward:
            return
        stages = {stage.name: stage for stage in run.experiment.stages}
        self._model, self._weights = run.reward_model(config.reward)
        self._stage = stages[config.reward]
        self._how = trained_aggregate(run, config.reward)
        self._score = Booked(run, "reward", self._model.score)
        if config.refresh_every:
            self._begin(rounds)

    @property
    def kl_coef(self) -> float:
        """Of the divergence that is paid, in the first round."""
        config = self._config
        return config.shaping.kl_coef if config.kl is None else config.kl.coef

    @property
    def weights(self) -> Weights | None:
        """Of the reward model as it is now; its version counts its own updates."""
        if not self._config.reward:
            return None
        if self.state is None:
            return self._weights
        return Weights(self.state.params, self._weights.version + int(self.state.step))

    def worth(
        self, rows: Trajectory, step_end: np.ndarray, grades: np.ndarray
    ) -> np.ndarray:
        """f64[R]: the grade, or the chance of being right that the model sees."""
        if not self._config.reward or self._config.outcome == "task":
            return grades
        judged = self._judged(rows, step_end)
        worth = aggregate(self._scores(rows, judged), jnp.asarray(judged), self._how)
        return np.asarray(worth.reshape(-1, len(grades)).mean(axis=0), np.float64)

    def tokens(
        self, found: Collected, ref_logprob: np.ndarray, kl_coef: float
    ) -> np.ndarray:
        """f32[R, T]: what each token is paid; kl_coef takes the place of Shaping's."""
        config = self._config
        process = heuristic = None
        if config.pay == "steps" or config.shaping.potential in (
            "process",
            "heuristic",
        ):
            if config.reward:
                scores = self._scores(found.rows, found.step_end)
                process = scores.reshape(-1, *found.step_end.shape).mean(axis=0)
            if not config.reward or config.shaping.potential == "heuristic":
                heuristic = jnp.asarray(self._verdicts(found))
        paid = self._shaped(
            found.rows,
            found.reward.astype(np.float32),
            found.step_end,
            process,
            heuristic,
            ref_logprob,
            np.float32(kl_coef),
        )
        return np.asarray(paid)

    def _shape(
        self,
        rows: Trajectory,
        outcome: jax.Array,
        step_end: jax.Array,
        process: jax.Array | None,
        heuristic: jax.Array | None,
        ref_logprob: jax.Array,
        kl_coef: jax.Array,
    ) -> jax.Array:
        config = self._config
        in_full = config.pay == "outcome"
        paid = shape(
            replace(config.shaping, kl_coef=0.0),
            rows,
            outcome if in_full else jnp.zeros_like(outcome),
            step_end,
            process=process,
            heuristic=heuristic,
        )
        mask = rows.response_mask
        if not in_full:
            chance = heuristic if process is None else jax.nn.sigmoid(process)
            paid += jnp.where(step_end & mask, chance, 0.0)
        if self.kl_coef:
            kind = config.shaping.kl
            paid += kl_penalty(rows.logprob, ref_logprob, mask, kl_coef, kind=kind)
        if config.overlong:
            own, most = rows.length - rows.prompt_length, self._most
            cost = overlong_penalty(own, most, config.overlong)
            t = jnp.arange(mask.shape[1])[None]
            paid += jnp.where(
                mask & (t == rows.length[:, None] - 1), cost[:, None], 0.0
            )
        return paid

    def due(self, round_: int) -> bool:
        """Whether the model learns on after that round."""
        every = self._config.refresh_every
        return every > 0 and round_ % every == 0

    def refresh(
        self, found: Collected, params: Params, key: jax.Array
    ) -> dict[str, float]:
        """Trains the model on, on labels of this round's responses."""
        run, stage = self._run, self._stage
        traces = self._traces(found)
        if stage.learns == "outcome":
            labels = outcome_labels(traces, ends=stage.judges_ends)
        else:
            run.params = params  # of whom rollouts ask for continuations
            labels = label(run, traces, stage.labels, task=self._task, key=key).labels
            run.params = None
            if stage.judges_ends:
                keep = stage.labels.after_error == "keep"
                labels = label_ends(traces, labels, keep=keep)
            (known,) = np.nonzero(np.asarray(labels.weight).any(axis=1))
            labels = take(labels, known)
        if not size(labels):
            return {}
        rng = np.random.default_rng([run.experiment.seed, 6, int(self.state.step)])
        count = self._config.refresh_steps * stage.rows
        order = shuffled(size(labels), count, rng)
        for at in order.reshape(-1, stage.rows):
            batch = put_batch(run.mesh, take(labels, at))
            tokens = batch.tokens.size
            self.state, seen = self._update(self.state, batch, tokens=tokens)
        return {"reward_loss": float(seen["loss"])}

    def _begin(self, rounds: int) -> None:
        run, stage, config = self._run, self._stage, self._config
        sources = ("oracle", "rollouts", "binary")
        if stage.learns not in ("steps", "outcome") or (
            stage.learns == "steps" and stage.labels.source not in sources
        ):
            raise ValueError(
                f"reward model {stage.name!r} can't be refreshed: that needs learns "
                f"'outcome', or 'steps' with labels from {', '.join(sources)}"
            )
        steps = config.refresh_steps * (rounds // config.refresh_every)
        flat = replace(stage.optimizer, schedule="constant")
        trainable = self._model.trainable
        optimizer = build_optimizer(flat, max(steps, 1), trainable, first=1)
        self.state = new_state(
            jax.tree.map(jnp.copy, self._weights.params),
            optimizer,
            jax.random.fold_in(run.key, 9),
            mesh=run.mesh,
            rules=TRANSFORMER_RULES,
        )
        update = build_update(
            objective_of(self._model, stage), optimizer, microbatches=stage.microbatches
        )
        compiled = jit_update(update, self.state)
        self._update = Booked(run, "reward", update, compiled)

    def _judged(self, rows: Trajectory, step_end: np.ndarray) -> np.ndarray:
        """bool[R, T]: what the model judges a whole answer by."""
        if not self._stage.judges_ends:
            return step_end
        place = np.arange(step_end.shape[1])
        stop = (place == rows.length[:, None] - 1) & rows.finished[:, None]
        return step_end | stop

    def _scores(self, rows: Trajectory, step_end: np.ndarray) -> jax.Array:
        text: tuple[Any, ...] = (rows.tokens, rows.prompt_length, rows.length, step_end)
        text = put_batch(self._run.mesh, text)
        scores = self._score(self.weights.params, *text, tokens=rows.tokens.size)
        return jnp.asarray(fetch(scores))

    def _verdicts(self, found: Collected) -> np.ndarray:
        rows = found.rows
        decode = self._run.tokenizer.decode
        return verdicts(
            self._task,
            found.examples,
            rows.tokens,
            rows.prompt_length,
            found.step_end,
            decode,
        )

    def _traces(self, found: Collected) -> Traces:
        rows = found.rows
        return Traces(
            examples=found.examples,
            texts=found.texts,
            grades=found.grades,
            tokens=rows.tokens,
            prompt_length=rows.prompt_length,
            length=rows.length,
            logprob=rows.logprob,
            finished=rows.finished,
            step_end=found.step_end,
            verdict=self._verdicts(found),
        )

"""Who learns from a round, and what it makes of it.

In: the config of a learner. Out: a `Learner`: an objective, and the rows of a round for
it. A policy gradient reads fresh samples (config: learn/policy_objective.py); cloning
takes what was right, sampled or searched; pairs and trees: contrast.py. Rejection
sampling: Yuan et al. 2023, arXiv 2308.01825; STaR: arXiv 2203.14465; ReST-EM: arXiv
2312.06585; expert iteration: Anthony et al. 2017, arXiv 1705.08439.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from o1jax.config import configurable
from o1jax.data.pairs import PairBatch
from o1jax.learn.distil import distillation
from o1jax.learn.objectives import Objective, imitation
from o1jax.learn.policy_objective import (
    PolicyGradient,
    build_experience,
    policy_gradient_objective,
)
from o1jax.learn.preference import (
    PreferenceBatch,
    pair_logprobs,
    preference_objective,
)
from o1jax.loop.booked import Booked
from o1jax.loop.contrast import (
    Prefer,
    answer_pairs,
    distilled,
    no_nodes,
    no_pairs,
    step_pairs,
)
from o1jax.loop.experience import Collected
from o1jax.loop.networks import learning_policy
from o1jax.loop.searching import step_end_ids
from o1jax.loop.workdir import Workdir
from o1jax.policy.policy import Policy
from o1jax.rollout.sampling import sampling_logprobs
from o1jax.types import Params, TokenBatch


@configurable
@dataclass(frozen=True)
class Clone:
    """Imitates its own answers: those that are right, or the best of each question."""

    keep: Literal["right", "best"] = "right"
    most: int = 0  # answers of a question; 0: all
    # From whose weights each round learns: current is expert iteration, first ReST-EM.
    start: Literal["current", "first"] = "current"
    # Put behind a question that nothing right was found for, such as ' {answer}': what
    # is right then is learned without it (STaR). "": such questions are left.
    hint: str = ""

    def __post_init__(self) -> None:
        for name, known in (
            ("keep", ("right", "best")),
            ("start", ("current", "first")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}")
        if self.most < 0:
            raise ValueError("most must not be negative")
        if self.hint and "{answer}" not in self.hint:
            raise ValueError("hint must hold {answer}")


class Known(NamedTuple):
    """What a round knows beside its responses; numpy."""

    paid: np.ndarray  # f32[R, T]  for each token
    ref_logprob: np.ndarray  # f32[R, T]
    value: np.ndarray  # f32[R, T]  the critic's
    kl_coef: float | np.ndarray  # or one for each row, f32[R]


class Learner(NamedTuple):
    """An objective and its rows."""

    objective: Objective
    rows: Callable[[Collected, Known | None], Any]  # pytree of [N, ...], numpy
    blank: Any = None  # rows [0, ...] of the same shapes
    # What an update reads, of some of the rows on the device.
    complete: Callable[[Any], Any] = lambda rows: rows


def build_learner(run: Workdir, config: Any, first: Params, width: int) -> Learner:
    """The learner of an Improve config, for rows of `width` tokens.

    first: parameters of the reference.
    """
    kind = config.learner
    if isinstance(kind, PolicyGradient):
        return _policy_gradient(run, config)
    if isinstance(kind, Clone):
        return _cloning(learning_policy(run, config), kind, width)
    if isinstance(kind, Prefer):
        return _preferring(run, config, first, width)
    distribution = partial(sampling_logprobs, config=config.search.steps.sampling)
    return Learner(
        distillation(
            learning_policy(run, config), kind.loss, distribution=distribution
        ),
        lambda found, known: distilled(found, kind, width),
        no_nodes(kind, width),
    )


def _policy_gradient(run: Workdir, config: Any) -> Learner:
    """Learns from all responses of a round, by how much better each one was."""
    distribution = partial(sampling_logprobs, config=config.sampling)
    policy = learning_policy(run, config)
    objective = policy_gradient_objective(
        policy,
        config.learner,
        distribution=distribution,
        critic=policy if config.critic == "own" else None,
    )
    build = jax.jit(
        partial(
            build_experience,
            config.learner,
            samples=config.samples,
            max_tokens=run.experiment.sampler.max_new_tokens,
        )
    )

    def rows(found: Collected, known: Known | None) -> Any:
        batch = build(
            found.rows,
            known.paid,
            step_end=found.step_end,
            ref_logprob=known.ref_logprob,
            value=known.value,
            keep=found.keep,
            kl_coef=known.kl_coef,
        )
        return jax.device_get(batch)

    return Learner(objective, rows)


def _cloning(policy: Policy, config: Clone, width: int) -> Learner:
    """Learns to write what was right; width: tokens of a row."""

    def rows(found: Collected, known: Known | None) -> TokenBatch:
        return to_imitate(found, chosen(found, config))

    none = np.zeros((0, width), np.int32)
    blank = TokenBatch(
        tokens=none, segment=none, position=none, weight=none.astype(np.float32)
    )
    return Learner(imitation(policy), rows, blank)


def _preferring(run: Workdir, config: Any, first: Params, width: int) -> Learner:
    """Learns from pairs; what the reference says of them is asked at each update."""
    kind = config.learner
    reference = Booked(run, "reference", partial(pair_logprobs, run.policy))

    def rows(found: Collected, known: Known | None) -> PairBatch:
        if kind.level == "step":
            ends, stops = step_end_ids(run), (run.tokenizer.eos_id,)
            return step_pairs(found, kind, width, step_end_ids=ends, stop_ids=stops)
        return answer_pairs(found, kind, [run.experiment.seed, found.position])

    def complete(pairs: PairBatch) -> PreferenceBatch:
        said = reference(first, pairs, tokens=pairs.tokens.size)
        return PreferenceBatch(pairs=pairs, ref_logprob=said)

    objective = preference_objective(learning_policy(run, config), kind.loss)
    return Learner(objective, rows, no_pairs(width), complete)


def chosen(found: Collected, config: Clone) -> np.ndarray:
    """i64[N]: the responses to imitate, in order."""
    if config.keep == "right":
        wanted = found.keep & (found.grades >= 1)
    else:
        wanted = np.zeros(len(found.keep), bool)
        best: dict[str, int] = {}
        for i in np.flatnonzero(found.keep):
            question = found.examples[i].question
            if found.reward[i] > found.reward[best.setdefault(question, i)]:
                best[question] = i
        wanted[list(best.values())] = True
    if config.most:
        count: dict[str, int] = {}
        for i in np.flatnonzero(wanted):
            question = found.examples[i].question
            count[question] = count.get(question, 0) + 1
            wanted[i] = count[question] <= config.most
    return np.flatnonzero(wanted)


def to_imitate(found: Collected, at: np.ndarray) -> TokenBatch:
    """Some of the responses as text to imitate: weight 1 on the response."""
    rows = found.rows
    tokens = np.asarray(rows.tokens)[at]
    t = np.arange(tokens.shape[1])
    there = t < rows.length[at, None]
    response = there & (t >= rows.prompt_length[at, None])
    return TokenBatch(
        tokens=tokens,
        segment=there.astype(np.int32),
        position=np.broadcast_to(t.astype(np.int32), tokens.shape),
        weight=response.astype(np.float32),
    )

"""Step labels of sampled traces, from the source that a config names.

In: traces and a Labels config. Out: StepLabels and what they cost. The exact oracle
costs nothing and knows the answer; Monte-Carlo labels see only how continuations of the
policy end (Wang et al. 2023, arXiv 2312.08935), of every step or, by binary search, of
a few (Luo et al. 2024, arXiv 2406.06592).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from o1jax.config import configurable
from o1jax.loop.guides import Verifier
from o1jax.loop.methods import Search
from o1jax.loop.metrics import progress
from o1jax.loop.rollouts import Continuer, Programs
from o1jax.loop.searching import Searcher
from o1jax.loop.traces import Traces, up_to_first_error
from o1jax.loop.workdir import Workdir
from o1jax.reward.labels import GROUP, by_binary_search, by_rollouts
from o1jax.reward.labels import Labelled as Values
from o1jax.rollout.sampling import SamplingConfig
from o1jax.search.harvest import leaves
from o1jax.search.targets import step_labels
from o1jax.tasks.task import Example, Task
from o1jax.types import StepLabels

Source = Literal["oracle", "rollouts", "binary", "tree"]
# It is told which answers are right, and nothing else.
FOR_ANSWERS = Search("mcts", budget=16, verifier=Verifier(outcome_only=True))
CHUNK = 256  # traces whose keys and values are held at once


@configurable
@dataclass(frozen=True)
class Labels:
    """Who says whether a step is right."""

    # oracle: the task; rollouts: continuations from every step; binary: continuations
    # in search of the first error; tree: mean returns of a search for right answers.
    source: Source = "oracle"
    rollouts: int = 8  # continuations of a step
    hard: bool = False  # rollouts: 1 if any of them is right, not how many are
    # Steps behind the first wrong one: without weight, or labelled like all others.
    after_error: Literal["mask", "keep"] = "mask"
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    search: Search = field(default_factory=lambda: FOR_ANSWERS)  # tree
    min_visits: int = 2  # tree: of a step that is not the last of an answer

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(f"source must be one of {', '.join(get_args(Source))}")
        if self.after_error not in ("mask", "keep"):
            raise ValueError("after_error must be mask or keep")
        for name in ("rollouts", "min_visits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


class Labelled(NamedTuple):
    """Step labels and facts about how they were made."""

    labels: StepLabels  # numpy; a row a trace
    facts: dict[str, Any]  # JSON


def label(
    run: Workdir, traces: Traces, config: Labels, *, task: Task, key: jax.Array
) -> Labelled:
    """Labels of all closed steps; what rollouts cost is booked as reward."""
    if config.source == "oracle":
        value, facts = traces.verdict, {}
    else:
        value, facts = from_rollouts(run, traces, config, task=task, key=key)
    known = traces.step_end
    if config.after_error == "mask":
        # Of rollouts a low value is a hard step, and only 0 is taken for a wrong one.
        known = up_to_first_error(known, (value > 0).astype(np.float32))
    labels = StepLabels(
        tokens=traces.tokens,
        prompt_length=traces.prompt_length,
        length=traces.length,
        step_end=traces.step_end,
        label=np.where(traces.step_end, value, 0).astype(np.float32),
        weight=known.astype(np.float32),
    )
    return Labelled(labels, {"labelled by": config.source, **facts})


def stops(traces: Traces) -> np.ndarray:
    """bool[R, T]: the stop tokens of the traces that have one."""
    place = np.arange(traces.tokens.shape[1])
    return (place == traces.length[:, None] - 1) & traces.finished[:, None]


def label_ends(traces: Traces, labels: StepLabels, *, keep: bool) -> StepLabels:
    """Labels with each stop token as a step, labelled by its trace's grade.

    Behind a step that is wrong, or not known, it has no weight; `keep`: it has.
    """
    stop = stops(traces)
    unknown = labels.step_end & ((labels.label <= 0) | (labels.weight <= 0))
    known = keep | ~unknown.any(axis=1, keepdims=True)
    return labels.replace(
        step_end=labels.step_end | stop,
        label=np.where(stop, traces.grades[:, None], labels.label).astype(np.float32),
        weight=np.where(stop, known, labels.weight).astype(np.float32),
    )


def from_trees(
    run: Workdir,
    examples: Sequence[Example],
    config: Labels,
    *,
    task: Task,
    key: jax.Array,
) -> Labelled:
    """Steps of searches for right answers, with the mean returns of their nodes.

    Every path to a leaf is a row. Zhang et al. 2024 (ReST-MCTS*), arXiv 2406.03816;
    simplified: the value of a step is its own, not weighted by how far the end is.
    """
    search = Searcher(run, examples, task, config.search, graded=False)
    before = run.ledger.state()["accounts"]["reward"]
    rows, found = search.width, []
    trees = search.trees(run.current_params(), key, kind="reward")
    with progress(len(examples), "labels: tree") as bar:
        for nodes, asked in trees:
            at = leaves(nodes)
            found.append(
                step_labels(nodes, asked, at, min_visits=config.min_visits, width=rows)
            )
            bar.advance(int((asked.prompt_id >= 0).sum()))
    labels = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    return Labelled(labels, _spent_since(run, before) | {"leaves": len(labels.length)})


def from_rollouts(
    run: Workdir, traces: Traces, config: Labels, *, task: Task, key: jax.Array
) -> tuple[np.ndarray, dict[str, Any]]:
    """(f32[R, T] values at step ends, facts), chunk by chunk of the traces."""
    programs = Programs(run, config.sampling, traces.tokens.shape[1])
    params = run.policy.unstack(run.current_params())
    before = run.ledger.state()["accounts"]["reward"]
    count, value = len(traces.texts), np.zeros(traces.tokens.shape, np.float32)
    used = queries = 0
    with progress(count, f"labels: {config.source}", show=("rollouts",)) as bar:
        for start in range(0, count, CHUNK):
            index = np.arange(start, min(start + CHUNK, count))
            chunk = traces.rows(index)
            # Its last rows fill the chunk up, so that all have one shape.
            padded = traces.rows(np.minimum(start + np.arange(CHUNK), count - 1))
            succeeds = Continuer(
                run, programs, params, padded, key, task=task, first=start
            )
            found = _ask(chunk, succeeds, config)
            there = np.arange(found.value.shape[1]) < chunk.steps[:, None]
            row, _ = np.nonzero(there)
            value[index[row], chunk.ends[chunk.ends >= 0]] = found.value[there]
            used, queries = (
                used + int(found.used.sum()),
                queries + int(found.queries.sum()),
            )
            bar.advance(len(index), metrics={"rollouts": used})
    return value, {"rollouts": used, "queries": queries} | _spent_since(run, before)


def _spent_since(run: Workdir, before: dict[str, Any]) -> dict[str, Any]:
    """What labels cost since the account of reward stood there."""
    after = run.ledger.state()["accounts"]["reward"]
    return {f"label_{name}": after[name] - before[name] for name in ("tokens", "flops")}


def _ask(chunk: Traces, succeeds: Continuer, config: Labels) -> Values:
    """The values of the steps of a chunk, from as few rollouts as its source needs."""
    shared = {"rollouts": config.rollouts, "complete": chunk.finished}
    right = chunk.grades >= 1
    if config.source == "rollouts":
        kind = "hard" if config.hard else "soft"
        return by_rollouts(chunk.steps, right, succeeds, kind=kind, **shared)
    return by_binary_search(
        chunk.steps, right, succeeds, group=min(GROUP, config.rollouts), **shared
    )

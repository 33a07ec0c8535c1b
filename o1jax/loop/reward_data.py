"""What a reward model learns from: sampled, labelled, kept in the stage's folder.

In: the run so far and a TrainReward config. Out: rows of numpy arrays (StepLabels or a
PairBatch) and facts about them. They are written once, with the ledger as it stands
then, so a run killed while it trains does not sample and label again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.data.pairs import PairBatch, encode_pairs, pairs_of_samples, read_pairs
from o1jax.data.tokenizer import UNKNOWN
from o1jax.loop.goal_data import goal_ids, goal_labels
from o1jax.loop.labelling import Labelled, from_trees, label, label_ends, stops
from o1jax.loop.ledger import Ledger
from o1jax.loop.marked_rows import marked_rows
from o1jax.loop.searching import step_end_ids
from o1jax.loop.traces import TraceConfig, Traces, closing, sample_traces
from o1jax.loop.workdir import Workdir, write_json
from o1jax.parallel.hosts import fetch, once
from o1jax.parallel.sharding import path_name
from o1jax.reward.demonstrations import Demonstrations, demonstrations
from o1jax.reward.goals import GoalLabels
from o1jax.reward.implicit import response_logprob
from o1jax.tasks.task import Example, Task
from o1jax.types import StepLabels

# Questions of the training split that no stage of imitation has come to.
FRESH = 1 << 24

STEPS = StepLabels(**dict.fromkeys(StepLabels.__dataclass_fields__, 0))
BLANKS = {  # of the records that the arrays of a file make
    "steps": STEPS,
    "outcome": STEPS,
    "goals": GoalLabels(labels=STEPS, reach=0),
    "pairs": PairBatch(**dict.fromkeys(PairBatch.__dataclass_fields__, 0)),
    "demonstrations": Demonstrations(labels=STEPS, logprob=0),
}


class Data(NamedTuple):
    """Rows to learn from."""

    rows: Any  # a record of BLANKS, numpy
    facts: dict[str, Any]  # JSON


def prepare(run: Workdir, index: int, config: Any) -> Data:
    """The stage's data: read if it is there, else made and written."""
    folder = run.reward_data(index)
    record = folder / "data.json"
    if record.exists():
        found = json.loads(record.read_text())
        run.ledger = Ledger.from_state(found["ledger"])
        return Data(_read(folder / "data.npz", BLANKS[config.learns]), found["facts"])
    ends = {"ends": True} if config.judges_ends else {}
    data = MAKERS[config.learns](run, config, run.task(config), **ends)
    _write(folder / "data.npz", data.rows)
    write_json(record, {"facts": data.facts, "ledger": run.ledger.state()})
    run.publish()
    return data


def examples_of(run: Workdir, task: Task, split: str, problems: int) -> list[Example]:
    """Questions to sample traces for; those to train on are new ones."""
    first = FRESH if split == "train" else 0
    seed = run.experiment.seed
    return [task.example(seed, split, first + i) for i in range(problems)]


def held_out_traces(run: Workdir, config: TraceConfig, task: Task) -> Traces:
    """Traces that tell how good a reward model is; all models of a run see the same."""
    examples = examples_of(run, task, "valid", config.problems)
    key = jax.random.fold_in(run.key, 4)
    params = run.current_params()
    return sample_traces(run, params, key, examples, config, task=task, kind="evaluate")


def _traces(run: Workdir, config: Any, task: Task) -> Traces:
    examples = examples_of(run, task, "train", config.traces.problems)
    key = jax.random.fold_in(run.key, 3)
    traces = sample_traces(
        run,
        run.current_params(),
        key,
        examples,
        config.traces,
        task=task,
        kind="reward",
    )
    if not traces.step_end.any():
        raise ValueError(
            f"stage {config.name!r}: none of {len(traces.texts)} sampled responses has "
            "a closed step to learn from; train the policy first"
        )
    return traces


def _steps(run: Workdir, config: Any, task: Task, *, ends: bool = False) -> Data:
    if config.solutions is not None:
        rows, facts = marked_labels(run, config, "train", config.traces.problems)
        return Data(rows, facts)
    key = jax.random.fold_in(run.key, 5)
    if config.labels.source == "tree":  # whose ends are nodes like all others
        examples = examples_of(run, task, "train", config.traces.problems)
        found = from_trees(run, examples, config.labels, task=task, key=key)
        return Data(found.labels, _labelled(found))
    traces = _traces(run, config, task)
    found = label(run, traces, config.labels, task=task, key=key)
    if ends:
        keep = config.labels.after_error == "keep"
        found = found._replace(labels=label_ends(traces, found.labels, keep=keep))
    kept = np.asarray(found.labels.weight).any(axis=1)
    rows = jax.tree.map(lambda x: np.asarray(x)[kept], found.labels)
    return Data(rows, _facts(traces) | _labelled(found))


def marked_labels(
    run: Workdir, config: Any, split: str, count: int
) -> tuple[StepLabels, dict[str, Any]]:
    """Labels of solutions that others wrote, whose first wrong step is known; facts."""
    found = config.solutions.marked(run.experiment.seed, split, count)
    rows, kept = marked_rows(run, found)
    right = [found[i].first_error < 0 for i in kept]
    return rows, {
        "traces": len(kept),
        "right": float(np.mean(right)),
        "trace_steps": int(rows.step_end.sum()),
        "labels": int((rows.weight > 0).sum()),
    }


def _labelled(found: Labelled) -> dict[str, Any]:
    return found.facts | {"labels": int((found.labels.weight > 0).sum())}


def _goals(run: Workdir, config: Any, task: Task) -> Data:
    goal_ids(run, config)  # refuses before anything is sampled
    traces = _traces(run, config, task)
    key = jax.random.fold_in(run.key, 5)
    found = label(run, traces, config.labels, task=task, key=key)
    rows = goal_labels(run, traces, found.labels, task)
    return Data(rows, _facts(traces) | _labelled(found))


def _outcome(run: Workdir, config: Any, task: Task, *, ends: bool = False) -> Data:
    traces = _traces(run, config, task)
    rows = outcome_labels(traces, ends=ends)
    return Data(rows, _facts(traces) | {"labels": len(rows.length)})


def outcome_labels(traces: Traces, *, ends: bool = False) -> StepLabels:
    """The grade of each trace at its last step; a trace without steps is left out.

    ends: the stop token of a finished trace is a step, and so its last one.
    """
    step_end = traces.step_end
    if ends:
        step_end = step_end | stops(traces)
    kept = np.flatnonzero(step_end.any(axis=1))
    traces, step_end = traces.rows(kept), step_end[kept]
    place = np.arange(traces.tokens.shape[1])
    last = np.max(np.where(step_end, place, -1), axis=1)
    at_last = place == last[:, None]
    return StepLabels(
        tokens=traces.tokens,
        prompt_length=traces.prompt_length,
        length=traces.length,
        step_end=step_end,
        label=np.where(at_last, traces.grades[:, None], 0).astype(np.float32),
        weight=at_last.astype(np.float32),
    )


def _pairs(run: Workdir, config: Any, task: Task) -> Data:
    encode = lambda pairs: encode_pairs(
        pairs, run.tokenizer, run.experiment.template, 0, step_end_ids(run)
    )
    if config.pairs_file:
        pairs = read_pairs(config.pairs_file)
        return Data(encode(pairs), {"pairs": len(pairs), "labels": len(pairs)})
    traces = _traces(run, config, task)
    samples, rng = config.traces.samples, np.random.default_rng(run.experiment.seed)
    pairs = []
    for start in range(0, len(traces.texts), samples):
        # An unknown token has no spelling: such a text cannot be a user's either.
        of = [
            i for i in range(start, start + samples) if UNKNOWN not in traces.texts[i]
        ]
        pairs += pairs_of_samples(
            traces.examples[start].question,
            [traces.texts[i] for i in of],
            traces.grades[of],
            config.pairs_a_question,
            rng,
        )
    if not pairs:
        raise ValueError(
            f"stage {config.name!r}: no question has both a right and a wrong answer "
            f"among {samples} samples; raise TraceConfig.samples"
        )
    return Data(
        encode(pairs), _facts(traces) | {"pairs": len(pairs), "labels": len(pairs)}
    )


def _facts(traces: Traces) -> dict[str, Any]:
    return {
        "traces": len(traces.texts),
        "right": float((traces.grades >= 1).mean()),
        "trace_steps": int(traces.step_end.sum()),
    }


def _demonstrations(run: Workdir, config: Any, task: Task) -> Data:
    """Worked solutions against what the policy answers to the same questions."""
    traces = _traces(run, config, task)
    sampled, asked = outcome_labels(traces), traces.examples[:: config.traces.samples]
    expert = _worked(run, asked, sampled.tokens.shape[1])
    logprob = lambda rows: fetch(
        response_logprob(
            run.policy,
            run.current_params(),
            jnp.asarray(rows.tokens),
            jnp.asarray(rows.prompt_length),
            jnp.asarray(rows.length),
        ).sum(axis=1)
    )
    rows = demonstrations(expert, logprob(expert), sampled, logprob(sampled))
    return Data(rows, _facts(traces) | {"labels": len(rows.logprob)})


def _worked(run: Workdir, examples: Sequence[Example], width: int) -> StepLabels:
    """The tasks' own solutions as rows."""
    template, tokenizer = run.experiment.template, run.tokenizer
    tokens = np.zeros((len(examples), width), np.int32)
    prompt_length, length = np.zeros((2, len(examples)), np.int32)
    for i, example in enumerate(examples):
        prompt, response = template.encode(tokenizer, example)
        prompt_length[i], length[i] = len(prompt), len(prompt) + len(response)
        if length[i] > width:
            raise ValueError(
                f"the solution of {example.question!r} takes {length[i]} tokens, "
                f"sampled responses at most {width}: raise SamplerConfig.max_new_tokens"
            )
        tokens[i, : length[i]] = prompt + response
    step_end = closing(tokens, prompt_length, length, step_end_ids(run))
    return StepLabels(
        tokens=tokens,
        prompt_length=prompt_length,
        length=length,
        step_end=step_end,
        label=step_end.astype(np.float32),
        weight=step_end.astype(np.float32),
    )


MAKERS = {
    "steps": _steps,
    "goals": _goals,
    "outcome": _outcome,
    "pairs": _pairs,
    "demonstrations": _demonstrations,
}


def _write(file: Path, rows: Any) -> None:
    """Its arrays as an npz, all or nothing."""

    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        with partial.open("wb") as out:
            np.savez(out, **{path_name(path): x for path, x in _leaves(rows)})
        partial.replace(file)

    once(write)


def _read(file: Path, blank: Any) -> Any:
    with np.load(file) as arrays:
        leaves = [arrays[path_name(path)] for path, _ in _leaves(blank)]
    return jax.tree.unflatten(jax.tree.structure(blank), leaves)


def _leaves(rows: Any) -> list[tuple[jax.tree_util.KeyPath, Any]]:
    return jax.tree_util.tree_flatten_with_path(rows)[0]

"""A run's process reward model on solutions whose first wrong step people marked.

In: a workdir and the reward model of one of its stages, or none: then the policy's own
likelihood of the steps. Out: what metrics.judge says (step AUC, first-error F1 with a
threshold chosen on the other half of the problems), in WORKDIR/prm/. First-error F1:
Zheng et al. 2024, ProcessBench, arXiv 2412.06559.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from o1jax.config import load
from o1jax.data.champ import read_champ
from o1jax.data.marked import Marked
from o1jax.loop.marked_rows import KIND, marked_rows
from o1jax.loop.metrics import progress
from o1jax.loop.read_once import read_once
from o1jax.loop.workdir import Workdir, write_json, write_jsonl
from o1jax.models.steps import split_text
from o1jax.parallel.hosts import fetch
from o1jax.reward.frozen import StepReading, linear_scores, reads_once
from o1jax.reward.metrics import judge, step_auc
from o1jax.reward.model import RewardModel, RewardModelConfig, build_reward_model
from o1jax.reward.paired import auc_difference, chance_f1, f1_difference, f1_interval
from o1jax.statistics import Difference, Interval
from o1jax.types import Params, StepLabels

LOGITS = 1 << 26  # numbers that a call makes
RESAMPLES = 1000
LIKELIHOOD = "its likelihood"
UNTRAINED = {"scale": np.float32(1), "bias": np.float32(0)}  # of read-out logodds
BUCKET = 256  # rows are read as long as a multiple of it, unless read once


def judge_workdir(
    workdir: Path, *, reward: str = "", problems: int | None = None
) -> dict[str, Any]:
    """Judges a reward model by its stage's name; "": the last one, or the likelihood.

    ValueError if there is no such stage, or if the tokenizer can't read text.
    """
    run = Workdir(load(workdir / "config.gin").experiment, workdir)
    solutions = read_champ(partial(split_text, kind=KIND))
    return judge_run(run, solutions, reward=reward, problems=problems)


def judge_run(
    run: Workdir,
    solutions: Sequence[Marked],
    *,
    reward: str = "",
    problems: int | None = None,
) -> dict[str, Any]:
    """As judge_workdir, on solutions of the first so many problems."""
    name, model, params = _model(run, reward)
    names = list(dict.fromkeys(solution.problem for solution in solutions))[:problems]
    solutions = _in_halves([x for x in solutions if x.problem in set(names)])
    rows, kept = marked_rows(run, solutions)
    likelihood = None
    if reads_once(model.config):
        reading = read_once(run, params["net"], rows, owner="champ", kind="evaluate")
        probability = _of_reading(model.config, params["readout"], reading, rows)
        likelihood = _of_reading(RewardModelConfig(), UNTRAINED, reading, rows)
    else:
        probability = _probability(model, params, rows, run.policy_config.vocab)
    judged = judge(probability, rows, resamples=RESAMPLES)
    judged = jax.tree.map(_finite, judged)
    kept_ones = [solutions[i] for i in kept]
    wrong = [solution for solution in kept_ones if solution.first_error >= 0]
    facts = {
        "reward": name,
        "problems": len({solution.problem for solution in kept_ones}),
        "solutions": len(kept),
        "with_an_error": len(wrong),
        "left_out": len(solutions) - len(kept),
        # What is known from the lengths of steps alone: a likelihood says little more.
        "auc_of_shortness": _finite(step_auc(*_shortness(rows))),
        "first_error_f1_interval": _ends(f1_interval(probability, rows)),
        "first_error_f1_of_chance": _finite(chance_f1(rows)),
    }
    if likelihood is not None and name != LIKELIHOOD:
        facts |= {
            "auc_over_likelihood": _ends(auc_difference(probability, likelihood, rows)),
            "f1_over_likelihood": _ends(f1_difference(probability, likelihood, rows)),
        }
    folder = run.path / "prm"
    write_json(folder / "champ.json", facts | judged)
    write_jsonl(folder / "champ.jsonl", _scores(kept_ones, rows, probability))
    return facts | judged


def lines(said: dict[str, Any]) -> list[str]:
    """The result, to be printed."""
    number = lambda x: "undefined" if x is None else f"{x:.3f}"
    between = lambda ends: f"[{number(ends[0])}, {number(ends[1])}]"
    found = [
        f"champ, judged by {said['reward']}: {said['solutions']} solutions of "
        f"{said['problems']} problems, {said['with_an_error']} with an error, "
        f"{said['left_out']} left out as too long",
        f"  step AUC         {number(said['step_auc'])}  "
        f"{between(said['step_auc_interval'])}; shorter is "
        f"better: {number(said['auc_of_shortness'])}",
        f"  first-error F1   {number(said['first_error_f1'])}  "
        f"{between(said['first_error_f1_interval'][1:])}; chance: "
        f"{number(said['first_error_f1_of_chance'])}  (found "
        f"{number(said['accuracy_on_wrong'])} of the errors, "
        f"{number(said['accuracy_on_right'])} of the right solutions passed)",
        f"  ECE              {number(said['ece'])}",
    ]
    for name, what in (("auc", "step AUC"), ("f1", "first-error F1")):
        if over := said.get(f"{name}_over_likelihood"):
            found.append(
                f"  over its likelihood, {what}: {number(over[0])}  {between(over[1:])}"
            )
    return found


def _model(run: Workdir, reward: str) -> tuple[str, RewardModel, Params]:
    stages = [s.name for s in run.experiment.stages if hasattr(s, "learns")]
    if reward or stages:
        name = reward or stages[-1]
        model, weights = run.reward_model(name)
        return name, model, weights.params
    model = build_reward_model(RewardModelConfig(trunk="frozen"), run.policy_config)
    net = run.newest_params()
    return LIKELIHOOD, model, {"net": net, "readout": UNTRAINED}


def _in_halves(solutions: Sequence[Marked]) -> list[Marked]:
    """Every other solution is of the same half of the problems.

    judge() chooses its threshold on every other trace; those of one problem are to be
    on one side.
    """
    names = list(dict.fromkeys(solution.problem for solution in solutions))
    half = [[x for x in solutions if names.index(x.problem) % 2 == i] for i in (0, 1)]
    count = min(map(len, half))
    paired = itertools.chain.from_iterable(zip(*half))
    return [*paired, *half[0][count:], *half[1][count:]]


def _of_reading(
    config: RewardModelConfig,
    readout: Params,
    reading: StepReading,
    rows: StepLabels,
) -> np.ndarray:
    """f64[R, T]: as _probability, of what was read."""
    scores = np.asarray(linear_scores(config, readout, reading), np.float64)
    out = np.zeros(rows.tokens.shape)
    out[rows.step_end] = (1 / (1 + np.exp(-scores))).mean(axis=0)
    return out


def _probability(
    model: RewardModel, params: Params, rows: StepLabels, vocab: int
) -> np.ndarray:
    """f64[R, T]: that the step closed by a token is right; rows of a length at once."""
    score = jax.jit(model.score)
    out = np.zeros(rows.tokens.shape)
    width = -(-rows.length // BUCKET) * BUCKET
    with progress(len(width), "solutions") as bar:
        for size in np.unique(width):
            at = np.flatnonzero(width == size)
            together = max(1, min(len(at), LOGITS // (int(size) * vocab)))
            for begin in range(0, len(at), together):
                part = at[begin : begin + together]
                full = np.pad(part, (0, together - len(part)), mode="edge")
                scores = score(
                    params,
                    rows.tokens[full, :size],
                    rows.prompt_length[full],
                    rows.length[full],
                    rows.step_end[full, :size],
                )
                scores = fetch(scores).astype(np.float64)[..., : len(part), :]
                scores = scores.reshape(-1, *scores.shape[-2:])
                out[part, :size] = (1 / (1 + np.exp(-scores))).mean(axis=0)
                bar.advance(len(part))
    return out


def _shortness(rows: StepLabels) -> tuple[np.ndarray, np.ndarray]:
    """Of each labelled step, minus the number of its tokens; and its label."""
    place = np.where(rows.step_end, np.arange(rows.tokens.shape[1]), -1)
    before = np.pad(place[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    before = np.maximum.accumulate(before, axis=1)
    begin = np.maximum(before, rows.prompt_length[:, None] - 1)
    known = rows.weight > 0
    return (begin - place)[known], rows.label[known]


def _ends(interval: Interval | Difference) -> list[float | None]:
    """Value, low end and high end."""
    return [_finite(x) for x in interval[:3]]


def _finite(number: float) -> float | None:
    return None if math.isnan(number) else number


def _scores(
    solutions: Sequence[Marked], rows: StepLabels, probability: np.ndarray
) -> list[dict[str, Any]]:
    """A line a solution: what was said of each step."""
    return [
        {
            "problem": solution.problem,
            "author": solution.author,
            "first_error": solution.first_error,
            "probability": [
                float(f"{p:.6g}") for p in probability[i, rows.step_end[i]]
            ],
        }
        for i, solution in enumerate(solutions)
    ]

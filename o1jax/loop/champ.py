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
from o1jax.data.champ import Annotated, read_champ
from o1jax.loop.metrics import progress
from o1jax.loop.workdir import Workdir, write_json, write_jsonl
from o1jax.models.steps import split_text, step_ends
from o1jax.parallel.hosts import fetch
from o1jax.reward.metrics import judge, step_auc
from o1jax.reward.model import RewardModel, RewardModelConfig, build_reward_model
from o1jax.types import Params, StepLabels

KIND = "blank"  # what ends a step: the solutions are written in paragraphs
LONGEST = 2048  # tokens of a question with its solution
BUCKET = 256  # rows are as long as a multiple of it
LOGITS = 1 << 26  # numbers that a call makes
RESAMPLES = 1000


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
    solutions: Sequence[Annotated],
    *,
    reward: str = "",
    problems: int | None = None,
) -> dict[str, Any]:
    """As judge_workdir, on solutions of the first so many problems."""
    name, model, params = _model(run, reward)
    names = list(dict.fromkeys(solution.problem for solution in solutions))[:problems]
    solutions = _in_halves([x for x in solutions if x.problem in set(names)])
    rows, kept = _rows(run, solutions)
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
    }
    folder = run.path / "prm"
    write_json(folder / "champ.json", facts | judged)
    write_jsonl(folder / "champ.jsonl", _scores(kept_ones, rows, probability))
    return facts | judged


def lines(said: dict[str, Any]) -> list[str]:
    """The result, to be printed."""
    number = lambda x: "undefined" if x is None else f"{x:.3f}"
    low, high = map(number, said["step_auc_interval"])
    return [
        f"champ, judged by {said['reward']}: {said['solutions']} solutions of "
        f"{said['problems']} problems, {said['with_an_error']} with an error, "
        f"{said['left_out']} left out as too long",
        f"  step AUC         {number(said['step_auc'])}  [{low}, {high}]; shorter is "
        f"better: {number(said['auc_of_shortness'])}",
        f"  first-error F1   {number(said['first_error_f1'])}  (found "
        f"{number(said['accuracy_on_wrong'])} of the errors, "
        f"{number(said['accuracy_on_right'])} of the right solutions passed)",
        f"  ECE              {number(said['ece'])}",
    ]


def _model(run: Workdir, reward: str) -> tuple[str, RewardModel, Params]:
    stages = [s.name for s in run.experiment.stages if hasattr(s, "learns")]
    if reward or stages:
        name = reward or stages[-1]
        model, weights = run.reward_model(name)
        return name, model, weights.params
    model = build_reward_model(RewardModelConfig(trunk="frozen"), run.policy_config)
    net = run.newest_params()
    readout = {"scale": np.float32(1), "bias": np.float32(0)}
    return "its likelihood", model, {"net": net, "readout": readout}


def _in_halves(solutions: Sequence[Annotated]) -> list[Annotated]:
    """Every other solution is of the same half of the problems.

    judge() chooses its threshold on every other trace; those of one problem are to be
    on one side.
    """
    names = list(dict.fromkeys(solution.problem for solution in solutions))
    half = [[x for x in solutions if names.index(x.problem) % 2 == i] for i in (0, 1)]
    count = min(map(len, half))
    paired = itertools.chain.from_iterable(zip(*half))
    return [*paired, *half[0][count:], *half[1][count:]]


def _rows(run: Workdir, solutions: Sequence[Annotated]) -> tuple[StepLabels, list[int]]:
    """The solutions as tokens with a label a step, and which ones are short enough.

    Steps behind the first wrong one have weight 0.
    """
    ends, template = step_ends(run.tokenizer, KIND), run.experiment.template
    texts, kept = [], []
    for i, solution in enumerate(solutions):
        prompt = template.encode_prompt(run.tokenizer, solution.question)
        response = run.tokenizer.encode("".join(solution.steps))
        if len(prompt) + len(response) <= LONGEST:
            texts.append((prompt, response))
            kept.append(i)
    if not kept:
        raise ValueError(f"no solution has at most {LONGEST} tokens")
    longest = max(len(prompt) + len(response) for prompt, response in texts)
    shape = (len(texts), -(-longest // BUCKET) * BUCKET)
    tokens = np.zeros(shape, np.int32)
    prompt_length = np.array([len(prompt) for prompt, _ in texts], np.int32)
    length = np.array([sum(map(len, text)) for text in texts], np.int32)
    for row, (prompt, response) in zip(tokens, texts):
        row[: len(prompt) + len(response)] = prompt + response
    step_end = ends.closing(tokens, prompt_length, length)
    step_end[np.arange(len(texts)), length - 1] = True  # the last is closed by the end
    label, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for row, i in enumerate(kept):
        places = np.flatnonzero(step_end[row])
        wrong = solutions[i].first_error
        if len(places) != len(solutions[i].steps):
            raise ValueError(f"{solutions[i].problem}: its steps are not its tokens'")
        weight[row, places[: wrong + 1] if wrong >= 0 else places] = 1.0
        label[row, places[:wrong] if wrong >= 0 else places] = 1.0
    rows = StepLabels(
        tokens=tokens,
        prompt_length=prompt_length,
        length=length,
        step_end=step_end,
        label=label,
        weight=weight,
    )
    return rows, kept


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


def _finite(number: float) -> float | None:
    return None if math.isnan(number) else number


def _scores(
    solutions: Sequence[Annotated], rows: StepLabels, probability: np.ndarray
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

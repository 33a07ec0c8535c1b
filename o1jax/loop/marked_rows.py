"""Solutions with a known first wrong step as rows of tokens, with a label a step.

In: a run and marked solutions in paragraphs. Out: StepLabels. Steps behind the first
wrong one have weight 0, for whether they are right is not known.
"""

from collections.abc import Sequence

import numpy as np

from o1jax.data.marked import Marked
from o1jax.loop.workdir import Workdir
from o1jax.models.steps import step_ends
from o1jax.types import StepLabels

KIND = "blank"  # what ends a step
LONGEST = 2048  # tokens of a question with its solution
BUCKET = 256  # rows are as long as a multiple of it


def marked_rows(
    run: Workdir, solutions: Sequence[Marked]
) -> tuple[StepLabels, list[int]]:
    """The rows, numpy, and which solutions they are: those that are short enough.

    ValueError if none is, or if the tokenizer can't read them.
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

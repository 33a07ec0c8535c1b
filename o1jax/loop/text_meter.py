"""What a task finds in sampled texts besides right and wrong, for a log.

In: a task, questions and the responses to them. Out: shares by name, of a task that has
a `measure`, such as how often a text corrects itself (data/behaviours) or how many of
its searches are sound (data/search_text), and of a template that has one (data/
behaviours/prompts.py); of others nothing.
"""

from collections.abc import Sequence
from typing import Any

from o1jax.tasks.task import Example, Task

MOST = 1000  # texts that are read, in 0.03 to 0.1 s


def text_shares(
    task: Task,
    examples: Sequence[Example],
    texts: Sequence[Sequence[str]],
    *,
    template: Any = None,
) -> dict[str, float]:
    """{"text_analysis": 0.9, ...}; of each question's responses the first few."""
    of_task = getattr(task, "measure", None)
    of_template = getattr(template, "measure", None)
    if not (of_task or of_template) or not len(examples):
        return {}
    each = max(1, MOST // len(examples))
    read = [(e, text) for e, own in zip(examples, texts) for text in own[:each]]
    asked, read_texts = zip(*read[:MOST])
    shares = of_template(read_texts) if of_template else {}
    shares |= of_task(asked, read_texts) if of_task else {}
    return {f"text_{name}": value for name, value in shares.items()}

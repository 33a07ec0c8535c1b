"""What a task finds in sampled texts besides right and wrong, for a log.

In: a task, questions and the responses to them. Out: shares by name, of a task that has
a `measure`, such as how often a text corrects itself (data/behaviours) or how many of
its searches are sound (data/search_text); of other tasks nothing.
"""

from collections.abc import Sequence

from o1jax.tasks.task import Example, Task

MOST = 1000  # texts that are read, in 0.03 to 0.1 s


def text_shares(
    task: Task, examples: Sequence[Example], texts: Sequence[Sequence[str]]
) -> dict[str, float]:
    """{"text_analysis": 0.9, ...}; of each question's responses the first few."""
    if (measure := getattr(task, "measure", None)) is None or not len(examples):
        return {}
    each = max(1, MOST // len(examples))
    read = [(e, text) for e, own in zip(examples, texts) for text in own[:each]]
    asked, texts = zip(*read[:MOST])
    return {f"text_{name}": value for name, value in measure(asked, texts).items()}

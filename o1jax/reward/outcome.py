"""Outcome reward by verifier: each response graded by its task, on the host.

Only the verifier sees the answer, and nothing here runs during a search.
"""

from collections.abc import Sequence

import numpy as np

from o1jax.tasks.task import Example, Task


def grade(task: Task, examples: Sequence[Example], texts: Sequence[str]) -> np.ndarray:
    """f64[B] in [0, 1]: the grade of texts[i] as an answer to examples[i]."""
    return np.array([task.grade(e, t) for e, t in zip(examples, texts, strict=True)])

"""Which tokens of a text are read but not learned.

In: an example whose text has silent segments, such as mistakes that are taken back.
Out: a mask over its tokens. Masking mistakes: Ye et al. 2024, arXiv 2408.16293.
"""

from dataclasses import replace

import numpy as np

from o1jax.data.behaviours.draft import Text
from o1jax.data.template import Template
from o1jax.data.tokenizer import Tokenizer
from o1jax.tasks.task import Example


def silent_tokens(
    tokenizer: Tokenizer,
    template: Template,
    example: Example,
    prompt_length: int,
    length: int,
) -> np.ndarray | None:
    """bool[length]: tokens of silent segments and of the marks that close them.

    None where the example has none. The tokens of a text's first segments must be those
    of that part alone, as where each segment is closed by a token of its own.
    """
    if not isinstance(example.hidden, Text) or not example.hidden.silent:
        return None

    def tokens(segments: int) -> int:
        """Of the first segments."""
        part = replace(example, steps=example.steps[:segments])
        return len(tokenizer.encode(template.response(part))) if segments else 0

    silent = np.zeros(length, bool)
    for i in example.hidden.silent:
        silent[prompt_length + tokens(i) : prompt_length + tokens(i + 1)] = True
    return silent

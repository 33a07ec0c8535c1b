"""Where a step ends, as an automaton over tokens.

In: the tokens of a step, one by one, in jitted code or on the host. Out: whether one of
them ends it. `at_tokens` knows a few tokens and nothing else; models/steps.py makes
those that read plain text, however a tokenizer cuts it.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

# Of steps in plain text: at a newline; at a blank line; at a number that begins a line
# (`2.`, `2)`, `Step 2:`); at either of the last two.
Kind = Literal["line", "blank", "numbered", "any"]
START = 0  # the state in front of a step


class StepEnds(NamedTuple):
    """The automaton. Its states are numbers from 0, START; the last one is the end."""

    table: np.ndarray  # i8[states, V]  the state behind a token

    def after(self, state: Any, token: Any) -> Any:
        """i32[...]: the state behind a token; in jitted code or on the host."""
        if isinstance(token, np.ndarray | int):
            return self.table[state, token].astype(np.int32)
        return jnp.asarray(self.table)[state, token].astype(jnp.int32)

    def ended(self, state: Any) -> Any:
        """bool[...]: whether a step ends with the token that led here."""
        return state == self.table.shape[0] - 1

    def or_tokens(self, ids: Sequence[int]) -> "StepEnds":
        """One that ends at these tokens too, whatever stands before them.

        Ids that are no token's (such as -1) change nothing.
        """
        table = self.table.copy()
        table[:, [i for i in ids if 0 <= i < table.shape[1]]] = len(table) - 1
        return StepEnds(table)

    def closing(
        self, tokens: np.ndarray, prompt_length: np.ndarray, length: np.ndarray
    ) -> np.ndarray:
        """bool[R, T]: the tokens i32[R, T] of responses that close a step; numpy."""
        place = np.arange(tokens.shape[1])
        response = (place >= prompt_length[:, None]) & (place < length[:, None])
        closed = np.zeros(tokens.shape, bool)
        state = np.zeros(len(tokens), np.int32)
        for t in place:
            state = np.where(response[:, t], self.after(state, tokens[:, t]), state)
            closed[:, t] = response[:, t] & self.ended(state)
            state = np.where(closed[:, t], START, state)
        return closed


def at_tokens(ids: Sequence[int], vocab: int) -> StepEnds:
    """The automaton that ends a step at any of some tokens, and knows nothing else."""
    table = np.zeros((2, vocab), np.int8)
    table[1] = 1
    return StepEnds(table).or_tokens(ids)

"""Batches until a number of tokens is used up, so that arms train on equally many.

In: a stream of batches and a budget. Out: the same batches, the last one cut so that
the tokens of all, without padding, are the budget exactly. Texts with searches or
mistakes are several times as long as solutions: at equal steps they would win or lose
by their length alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from o1jax.config import configurable
from o1jax.data.stream import BatchConfig, BatchStream, State
from o1jax.types import TokenBatch


@configurable
@dataclass(frozen=True)
class BudgetBatch(BatchConfig):
    """Batches that end when `tokens` are used: bind it in place of BatchConfig.

    A stage must have steps enough for them, and packed rows are best: then equal tokens
    are as many updates.
    """

    tokens: int = 1_000_000  # of prompts and responses, those without weight as well

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens < 1:
            raise ValueError("tokens must be at least 1")


class TokenBudget:
    """A stream that ends when the tokens are used up. One that ends before is an error.

    The state is that of the stream, and what is used.
    """

    def __init__(self, stream: BatchStream, tokens: int) -> None:
        if tokens < 1:
            raise ValueError(f"the token budget is {tokens}; it must be at least 1")
        self._stream, self._tokens = stream, tokens
        self.used = 0

    def __iter__(self) -> Iterator[TokenBatch]:
        return self

    def __next__(self) -> TokenBatch:
        """The next batch; StopIteration once the budget is used up."""
        left = self._tokens - self.used
        if not left:
            raise StopIteration
        batch = next(self._stream, None)
        if batch is None:
            raise ValueError(
                f"the data ended after {self.used} of {self._tokens} tokens: set "
                "BatchConfig.epochs to 0"
            )
        real = batch.segment > 0
        keep = (np.cumsum(real).reshape(real.shape) <= left) & real
        self.used += int(keep.sum())
        return TokenBatch(
            tokens=np.where(keep, batch.tokens, 0),
            segment=np.where(keep, batch.segment, 0),
            position=np.where(keep, batch.position, 0),
            weight=np.where(keep, batch.weight, np.float32(0)),
        )

    def get_state(self) -> State:
        """The position behind the last batch, and what is used."""
        return {"used": self.used, "budget": self._tokens} | self._stream.get_state()

    def set_state(self, state: State) -> None:
        """Go on from `get_state()`; ValueError if that was of another stream."""
        if state.get("budget") != self._tokens:
            raise ValueError(
                "the saved data position is of another stream: its token budget was "
                f"{state.get('budget')!r} and is {self._tokens!r}"
            )
        self._stream.set_state(state)
        self.used = state["used"]


def within_budget(
    stream: BatchStream, config: BatchConfig, *, steps: int
) -> BatchStream | TokenBudget:
    """The stream, ended by its config's budget if it has one.

    ValueError if so many steps cannot use it up.
    """
    if not isinstance(config, BudgetBatch):
        return stream
    if (most := steps * config.rows * config.length) < config.tokens:
        raise ValueError(
            f"BudgetBatch.tokens is {config.tokens}, but {steps} steps read at most "
            f"{most}"
        )
    return TokenBudget(stream, config.tokens)

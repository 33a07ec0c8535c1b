"""A task small enough to know every example of it by heart."""

import importlib.util
from dataclasses import dataclass

import pytest

from o1jax.data.tokenizer import Tokenizer, from_symbols
from o1jax.tasks.task import Example

# A test of a package that may be missing.
HERE = importlib.util.find_spec("champ_dataset")
collect_ignore = [] if HERE else ["test_champ_package.py"]


@dataclass(frozen=True)
class CountUp:
    """Example i counts from 0 to i % 5, one step a number; splits and seeds agree."""

    def example(self, seed: int, split: str, index: int) -> Example:
        last = index % 5
        steps = tuple(str(i) for i in range(last + 1))
        return Example(f"{last} =", steps, str(last), last + 1)

    def symbols(self) -> list[str]:
        return [";", "=", *map(str, range(10))]


@pytest.fixture
def task() -> CountUp:
    return CountUp()


@pytest.fixture
def tokenizer() -> Tokenizer:
    """Ids: ; 4, = 5, then digit d is 6 + d."""
    return from_symbols(CountUp().symbols())

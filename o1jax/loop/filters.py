"""What of a round is not learned from.

In: the rewards and facts of Q questions with G responses each, or with the answers of a
search tree. Out: which questions and which responses count. Groups of equal rewards
carry no policy gradient: DAPO draws others in their place (Yu et al. 2025, arXiv
2503.14476).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from o1jax.config import configurable


@configurable
@dataclass(frozen=True)
class Filters:
    """Nothing is left out by default."""

    zero_variance: bool = False  # questions whose responses earned exactly the same
    hardest: float = 0.0  # mean grade of a question, at least
    easiest: float = 1.0  # at most
    draws: int = 1  # rounds of drawing at most, to replace questions left out
    duplicates: bool = False  # a response that the question has already
    overlong: bool = False  # responses that ran out of room

    def __post_init__(self) -> None:
        if not 0 <= self.hardest <= self.easiest <= 1:
            raise ValueError("hardest and easiest must be in order, in [0, 1]")
        if self.draws < 1:
            raise ValueError("draws must be at least 1")

    @property
    def of_questions(self) -> bool:
        """Whether questions may be left out at all."""
        return self.zero_variance or self.hardest > 0 or self.easiest < 1


def questions_kept(
    config: Filters, reward: np.ndarray, grade: np.ndarray
) -> np.ndarray:
    """bool[Q] from f64[Q, G] each. Equality is exact: there is no tolerance."""
    mean = grade.mean(axis=1)
    kept = (mean >= config.hardest) & (mean <= config.easiest)
    if config.zero_variance:
        kept &= (reward != reward[:, :1]).any(axis=1)
    return kept


def responses_kept(
    config: Filters, texts: Sequence[Sequence[str]], finished: np.ndarray
) -> np.ndarray:
    """bool[Q, G]; finished: bool[Q, G]."""
    kept = np.ones(finished.shape, bool)
    if config.overlong:
        kept &= finished
    if config.duplicates:
        Q, G = finished.shape
        each = [text for group in texts for text in group]
        kept &= distinct(np.repeat(np.arange(Q), G), each).reshape(Q, G)
    return kept


def distinct(question: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """bool[R]: the first response with its text to its question, of i64[R] and R."""
    seen: set[tuple[int, str]] = set()
    first = []
    for own in zip(question.tolist(), texts):
        first.append(own not in seen)
        seen.add(own)
    return np.array(first, bool)


def trees_kept(
    config: Filters, tree: np.ndarray, grade: np.ndarray, count: int
) -> np.ndarray:
    """bool[count] of trees, from f64[R] of their answers and the tree of each, i64[R].

    A question is as hard as few of its tree's answers are right; without an answer,
    none is.
    """
    answers = np.bincount(tree, minlength=count)
    mean = np.bincount(tree, grade, minlength=count) / np.maximum(answers, 1)
    kept = (mean >= config.hardest) & (mean <= config.easiest)
    if config.zero_variance:
        low, high = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(low, tree, grade)
        np.maximum.at(high, tree, grade)
        kept &= low < high
    return kept

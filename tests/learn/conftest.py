"""Four documents to learn from, one a row or packed."""

import numpy as np
import pytest

from o1jax.types import TokenBatch

# Four documents and how many of their tokens are given (weight 0).
DOCUMENTS = [
    ([3, 9, 5, 11, 7, 1], 2),
    ([4, 8, 1], 1),
    ([10, 2, 6, 6, 1], 3),
    ([5, 3, 9, 1], 1),
]
ALONE = ((0,), (1,), (2,), (3,))


def pack(layout=ALONE, *, length=6):
    """A TokenBatch whose row r holds the documents layout[r], one behind the other."""
    shape = (len(layout), length)
    batch = {
        name: np.zeros(shape, np.int32) for name in ("tokens", "segment", "position")
    }
    weight = np.zeros(shape, np.float32)
    for row, documents in enumerate(layout):
        start = 0
        for number, (tokens, given) in enumerate((DOCUMENTS[d] for d in documents), 1):
            here = slice(start, start + len(tokens))
            batch["tokens"][row, here] = tokens
            batch["segment"][row, here] = number
            batch["position"][row, here] = np.arange(len(tokens))
            weight[row, start + given : here.stop] = 1
            start = here.stop
    return TokenBatch(weight=weight, **batch)


@pytest.fixture(scope="session")
def batch_of():
    return pack

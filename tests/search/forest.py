"""Three trees over text made by hand: of 7 nodes, of 3, and a root that is padding.

tree 0:  0 - 1 - 3*        tree 1:  0 - 1 - 2*        tree 2:  0
         |   ` 4*
         |-- 2 - 5*        * a whole answer
         ` 6
"""

import numpy as np

from o1jax.search.harvest import StepText
from o1jax.search.nodes import Nodes

JUNK = 77  # what lies behind the nodes in use


def column(rows, fill, dtype):
    """[3, 7] from rows of 7, 3 and 1 entries."""
    out = np.full((3, 7), fill, dtype)
    for row, entries in zip(out, rows, strict=True):
        row[: len(entries)] = entries
    return out


STEPS = [
    [[], [1, 2], [3], [4, 5, 6], [7], [8, 9], [9, 9, 9]],
    [[], [5], [6, 11]],
    [[]],
]


def _store() -> StepText:
    tokens = np.full((3, 7, 3), JUNK, np.int32)
    for b, steps in enumerate(STEPS):
        tokens[b, : len(steps)] = 0
        for n, step in enumerate(steps):
            tokens[b, n, : len(step)] = step
    lengths = [[len(step) for step in steps] for steps in STEPS]
    f, t = False, True
    return StepText(
        tokens=tokens,
        logprob=(-tokens / 8).astype(np.float32),
        length=column(lengths, 3, np.int32),
        # A row of padding has a root that is called finished.
        finished=column([[f, f, f, t, t, t, f], [f, f, t], [t]], True, bool),
    )


# Visits of a node: its own, and those of its children.
FOREST = Nodes(
    parent=column([[-1, 0, 0, 1, 1, 2, 0], [-1, 0, 1], [-1]], -1, np.int32),
    action=column([[-1, 0, 2, 0, 1, 1, 1], [-1, 3, 0], [-1]], -1, np.int32),
    logprior=column(
        [np.log([1, 0.5, 0.25, 0.5, 0.5, 1, 0.25]), [0, 0, 0], [0]], JUNK, np.float32
    ),
    visits=column([[8, 4, 2, 2, 1, 1, 1], [3, 2, 1], [1]], JUNK, np.int32),
    value=column(
        [[0.5, 0.6, 0.2, 1.0, 0.0, 0.25, 0.5], [0.6, 0.75, 1.0], [0.3]],
        JUNK,
        np.float32,
    ),
    raw_value=column(
        [[0.5, 0.5, 0.1, 1.0, 0.0, 0.25, 0.5], [0.6, 0.5, 0.5], [0.3]],
        JUNK,
        np.float32,
    ),
    finished=column(
        [[False, False, False, True, True, True, False], [False, False, True], [True]],
        True,
        bool,
    ),
    used=np.array([7, 3, 1], np.int32),
    cost=np.array([14.0, 3.0, 0.0], np.float32),
    reward_tokens=np.zeros(3, np.float32),
    reread_tokens=np.zeros(3, np.float32),
    exhausted=np.array([True, False, False]),
    store=_store(),
)

# One tree of a root alone.
NOTHING = Nodes(
    parent=np.array([[-1, -1]]),
    action=np.array([[-1, -1]]),
    logprior=np.zeros((1, 2), np.float32),
    visits=np.array([[1, 0]]),
    value=np.zeros((1, 2), np.float32),
    raw_value=np.zeros((1, 2), np.float32),
    finished=np.zeros((1, 2), bool),
    used=np.array([1]),
    cost=np.zeros(1, np.float32),
    reward_tokens=np.zeros(1, np.float32),
    reread_tokens=np.zeros(1, np.float32),
    exhausted=np.zeros(1, bool),
    store=StepText(
        tokens=np.zeros((1, 2, 3), np.int32),
        logprob=np.zeros((1, 2, 3), np.float32),
        length=np.zeros((1, 2), np.int32),
        finished=np.zeros((1, 2), bool),
    ),
)

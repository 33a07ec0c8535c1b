"""Which of the answers that a search finished is given.

In: the nodes of each tree, those that may be the answer, and how to choose. Out: an
answer a problem, with all the others. Nothing here knows which of them is right. Votes:
Wang et al. 2022, arXiv 2203.11171; Borda counts of pairwise comparisons: LLaMA-Berry,
Zhang et al. 2024, arXiv 2410.02884.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from o1jax.loop.methods import Select
from o1jax.reward.preference import borda, win_probability
from o1jax.search.harvest import NONE, finished_paths, read, trajectories
from o1jax.search.nodes import Nodes


class Answer(NamedTuple):
    """Of one problem."""

    text: str  # "" where nothing was finished
    node: int  # that it ends at; 0 likewise
    all: list[str]  # finished answers, best first


def answers(
    nodes: Nodes,
    allowed: np.ndarray | None,
    how: Select,
    *,
    decode: Callable[[list[int]], str],
    vote: Callable[[str], str | None],
    heads: np.ndarray | None = None,
    alone: bool = False,
) -> list[Answer]:
    """One for each problem.

    Args:
      nodes: on the host. allowed: i32[B, W], those that may answer; None: all.
      vote: what an answer says, None if it can't be read.
      heads: f32[B, N, K], scores of each node by the heads of a reward model.
      alone: each node is an answer by itself (Search.attempts).
    """
    done = finished_paths(nodes)
    at = done.at
    if allowed is not None:
        survives = np.any(at[:, :, None] == allowed[:, None], axis=-1)
        at = np.where(survives, at, NONE)
    rows, scores = trajectories(nodes, at, alone=alone), done.score
    if how == "borda":
        own = scores[..., None] if heads is None else read(heads, _trees(at), at)
        scores = preferred(own, at != NONE)
    found = []
    for b, ids in enumerate(at):
        (there,) = np.nonzero(ids != NONE)
        texts = [decode(rows.tokens[b, c, : rows.length[b, c]].tolist()) for c in there]
        if not texts:
            found.append(Answer("", 0, []))
            continue
        votes = [vote(text) for text in texts]
        best = select(how, votes, scores[b, there], done.visits[b, there])
        found.append(Answer(texts[best], int(ids[there[best]]), texts))
    return found


def select(
    how: Select, votes: Sequence[str | None], score: np.ndarray, visits: np.ndarray
) -> int:
    """Which of the finished answers, best first, to give; see Search.select.

    A vote counts as often as its node was visited; an answer that could not be read
    has none. Of equals the first wins.
    """
    if how in ("max", "borda") or not any(votes):
        return int(np.argmax(score))
    weight = visits * score if how == "weighted" else visits
    sums: dict[str, float] = {}
    for vote, w in zip(votes, weight):
        if vote:
            sums[vote] = sums.get(vote, 0.0) + float(w)
    return votes.index(max(sums, key=sums.get))


def preferred(scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """f32[B, C]: Borda counts of the valid ones of C answers, by K heads' [B, C, K].

    A head prefers i to j with probability sigmoid(s_i - s_j). The heads' mean may have
    cycles, which the transitive closure settles; one head's is the order of its scores.
    """
    wins = win_probability(jnp.moveaxis(jnp.asarray(scores, jnp.float32), -1, 0))
    return np.asarray(borda(wins.mean(axis=0), valid=valid, transitive=True))


def _trees(at: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(len(at))[:, None], at.shape)

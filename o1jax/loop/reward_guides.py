"""Guides that read the text so far with a learned reward model.

In: a reward model and the prompts of all problems. Out: a Guide whose params are the
model's, given at every call, so that a program compiled once never holds old weights.
Its value in [0, 1] is that of the steps closed so far, aggregated; best-of-N asks once,
about whole answers. Sources: Lightman et al. 2023, arXiv 2305.20050 (scores of steps);
Uesato et al. 2022, arXiv 2211.14275. Simplified: each state is read anew, prompt and
all, and that is counted.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.loop.path_rows import Rows, path_rows, wanted
from o1jax.reward.aggregate import Aggregate, aggregate
from o1jax.reward.ensemble import Combine, combine
from o1jax.reward.model import RewardModel
from o1jax.search.nodes import Nodes
from o1jax.search.pages import node_state, of_nodes
from o1jax.search.recipe import write
from o1jax.types import Guidance, Guide, NodeState, Params

ROWS_AT_ONCE = 256  # that the model reads, so that memory does not grow with the search


def reward_guide(
    model: RewardModel,
    prompts_tokens: np.ndarray,
    prompts_length: np.ndarray,
    *,
    step_end_ids: Sequence[int],
    how: Aggregate = "product",
    heads: Combine = "mean",
    lam: float = 1.0,
) -> Guide:
    """A guide for problems whose prompt_id is their row in the prompts.

    Args:
      prompts_tokens: i32[Q, P], right-padded; prompts_length: i32[Q], at least 1.
      step_end_ids: tokens that close a step.
      how: aggregates the probabilities that the steps are right.
      heads: combines what the heads of an ensemble say of the path; lam as there.

    A state that is not finished and does not end with a closed step has an open one,
    which counts as a step of probability 1/2 in front of the others: nothing is known
    of it. So the prompt alone is worth 1/2, and a step that ran out of tokens is no
    better than one that was closed. A finished state without any closed step is worth
    0. What follows the last closed step is not read, nor is a text without one.
    """

    def guide(params: Params, state: NodeState) -> Guidance:
        rows = path_rows(prompts_tokens, prompts_length, state)
        t = jnp.arange(rows.tokens.shape[1])[None]
        step_end = jnp.isin(rows.tokens, jnp.asarray(step_end_ids))
        step_end &= (t >= rows.prompt_length[:, None]) & (t < rows.length[:, None])
        end = jnp.max(jnp.where(step_end, t + 1, 0), axis=1)  # of the last closed step
        open_ = ~state.finished.reshape(-1) & (end < rows.length)
        shape = state.finished.shape
        read = jnp.where(wanted(state), end.reshape(shape), 0)
        length = jnp.maximum(end, rows.prompt_length)

        def value(rows: Rows, step_end: jax.Array, open_: jax.Array) -> jax.Array:
            scores = model.score(params, *rows, step_end)
            before = jnp.zeros((*scores.shape[:-1], 1))
            scores = jnp.concatenate([before, scores], axis=-1)
            closed = jnp.concatenate([open_[:, None], step_end], axis=-1)
            if scores.ndim > closed.ndim:
                each = aggregate(scores, closed[None], how)
                return combine(each, heads, lam)
            return aggregate(scores, closed, how)

        read_rows = (rows._replace(length=length), step_end, open_)
        return Guidance(_in_pieces(value, read_rows).reshape(shape), read)

    return guide


def _in_pieces(fn: Callable[..., jax.Array], rows: tuple) -> jax.Array:
    """fn of a pytree of rows [R, ...], ROWS_AT_ONCE of them at a time: f32[R]."""
    (R, *_) = jax.tree.leaves(rows)[0].shape
    if R <= ROWS_AT_ONCE:
        return fn(*rows)
    pieces = -(-R // ROWS_AT_ONCE)
    size = -(-R // pieces)

    def cut(x: jax.Array) -> jax.Array:
        # Rows that fill up the last piece are copies: every row stays a valid one.
        x = x[jnp.minimum(jnp.arange(pieces * size), R - 1)]
        return x.reshape(pieces, size, *x.shape[1:])

    values = jax.lax.map(lambda piece: fn(*piece), jax.tree.map(cut, rows))
    return values.reshape(-1)[:R]


def unjudged(params: Params, state: NodeState) -> Guidance:
    """The guide of a search whose answers are judged at its end."""
    return Guidance(jnp.full_like(state.value, 0.5))


def judge_answers(
    guide: Guide,
    params: Params,
    nodes: Nodes,
    survivors: jax.Array,
    prompt_id: jax.Array,
    *,
    depth: int,
) -> Nodes:
    """The nodes with the guide's values of those survivors that are finished.

    Each answer is read once, at the end: for best-of-N, where nothing else is asked of
    a guide. survivors i32[B, W], -1: none; depth: steps of an answer at most.
    """
    finished = of_nodes(nodes.finished, jnp.maximum(survivors, 0)) & (survivors > 0)
    answer = jnp.where(finished, survivors, -1)
    above, at = [], answer
    for _ in range(depth):
        at = jnp.where(at >= 0, of_nodes(nodes.parent, jnp.maximum(at, 0)), -1)
        above.append(at)
    path = jnp.stack(above[::-1], axis=-1)
    store = nodes.store.replace(k=(), v=())
    page = jax.tree.map(lambda x: of_nodes(x, jnp.maximum(answer, 0)), store)
    page = page.replace(length=jnp.where(finished, page.length, 0))
    guidance = guide(params, node_state(prompt_id, store, path, page))
    read = jnp.where(finished, guidance.tokens, 0)
    return nodes.replace(
        value=write(nodes.value, answer, guidance.value),
        raw_value=write(nodes.raw_value, answer, guidance.value),
        reward_tokens=nodes.reward_tokens + jnp.sum(read, axis=-1, dtype=jnp.float32),
    )

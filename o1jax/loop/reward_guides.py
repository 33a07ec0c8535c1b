"""Guides that read the text of a search step by step with a learned reward model.

In: a reward model and its params, given at every call, so that a program compiled once
never holds old weights. Out: a Reader, whose keys and values lie in the nodes' pages: a
prompt is read once a problem, a step once a node. Its value in [0, 1] is that of the
steps closed so far, aggregated. Sources: Lightman et al. 2023, arXiv 2305.20050 (scores
of steps); Uesato et al. 2022, arXiv 2211.14275.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from o1jax.policy.context import Context
from o1jax.reward.aggregate import (
    SMALLEST,
    Aggregate,
    aggregate,
    at_last,
    log_product,
)
from o1jax.reward.ensemble import Combine, combine
from o1jax.reward.interface import Pieces, RewardModel
from o1jax.reward.readout import goal_token
from o1jax.search.expand import last_node
from o1jax.search.pages import (
    Reader,
    ReaderPage,
    ReaderPrompt,
    StepPage,
    along,
    of_nodes,
    path_pages,
    pick,
)
from o1jax.search.problems import Problems
from o1jax.types import Guidance, Params, Prompts

# Tokens whose logits the model makes at once: memory must not grow with the search.
TOKENS_AT_ONCE = 16_384


def reward_reader(
    model: RewardModel,
    params: Params,
    *,
    step_end_ids: Sequence[int],
    ends: bool = False,
    how: Aggregate = "product",
    heads: Combine = "mean",
    lam: float = 1.0,
) -> Reader:
    """A reader of the texts of steps.StepSearch.

    Args:
      step_end_ids: tokens that close a step.
      ends: the stop token closes one too, as the model has learned.
      how: aggregates the probabilities that the steps are right.
      heads: combines what the heads of an ensemble say of the path; lam as there.

    A state that is not finished and does not end with a closed step has an open one,
    which counts as a step of probability 1/2 in front of the others: nothing is known
    of it. So the prompt alone is worth 1/2, and a step that ran out of tokens is no
    better than one that was closed. A finished state without any closed step is worth
    0. Of a finished state what follows its last closed step is not read.
    """
    text = _Text(
        model.pieces,
        params,
        networks=tuple(map(model.pieces.policy.unstack, model.pieces.networks(params))),
        heads=model.config.heads,
    )

    def start(prompts: Prompts, room: int) -> tuple[Guidance, ReaderPrompt, ReaderPage]:
        there = prompts.prompt_id[:, None] >= 0
        shared, page = text.start(prompts, room)
        worth = jnp.where(there, 0.5, 0.0)
        read = jnp.where(there, prompts.length[:, None], 0)
        return Guidance(worth, read), shared, page

    def read(
        problems: Problems, store: StepPage, path: jax.Array, page: StepPage
    ) -> tuple[Guidance, ReaderPage]:
        B, M, S = page.tokens.shape
        own = text.extend(problems, store, path, page)
        below = lambda rows, own: jnp.concatenate(
            [along(rows, path), own[:, :, None]], 2
        )
        tokens = below(store.tokens, page.tokens)
        closed = jnp.isin(tokens, jnp.asarray(step_end_ids, jnp.int32))
        closed &= _first(below(store.length, page.length), S)
        if ends:
            stop = _first(page.length, S) & ~_first(page.length - 1, S)
            stop &= page.finished[..., None]
            closed = closed.at[:, :, -1].set(closed[:, :, -1] | stop)
        _, _, depth, _ = closed.shape
        rows = lambda x: x.reshape(B * M, depth * S, *x.shape[4:])
        numbers = rows(below(store.reader.number, own.number))
        scores = model.pieces.scores(params, numbers, rows(closed))
        end = jnp.max(jnp.where(closed[:, :, -1], _places(S, 3) + 1, 0), axis=-1)
        open_ = ~page.finished & (end < page.length)
        rated = jnp.pad(scores, ((0, 0), (0, 0), (1, 0)))
        steps = jnp.concatenate([open_.reshape(-1, 1), rows(closed)], axis=1)[None]
        each = aggregate(rated, steps, how).reshape(-1, B, M)
        score = _text_score(rated, steps, how).reshape(-1, B, M)
        own = own._replace(score=jnp.moveaxis(score, 0, -1))
        tokens_read = jnp.where(page.finished, end, page.length)
        there = problems.prompt_id[:, None] >= 0
        return Guidance(
            combine(each, heads, lam), jnp.where(there, tokens_read, 0)
        ), own

    return Reader(start, read)


def _text_score(scores: jax.Array, step_end: jax.Array, how: Aggregate) -> jax.Array:
    """f32[K, R]: the scale on which a Bradley-Terry model compares two texts.

    What preference_objective compares: log-odds of the last step, or log of the product
    of all. Of min and mean, which no pairs are trained with, the log.
    """
    if how == "last":
        score = at_last(scores, jnp.broadcast_to(step_end, scores.shape))
    elif how == "product":
        score = log_product(scores, jnp.broadcast_to(step_end, scores.shape))
    else:
        score = jnp.log(jnp.maximum(aggregate(scores, step_end, how), SMALLEST))
    return jnp.where(step_end.any(-1), score, jnp.log(SMALLEST))


@dataclass(frozen=True)
class _Text:
    """Reads prompts, and steps behind what lies in pages.

    A model that judges a token from what is before it reads, for each step, the token
    in front of it and all of its own but the last: as many as the step has, and no
    logits need to be kept for what may follow.
    """

    pieces: Pieces
    params: Params
    networks: tuple[Params, ...]  # layers unstacked
    heads: int

    @property
    def early(self) -> int:
        """How far in front of a token is the one whose reading gives its number."""
        return int(self.pieces.reads == "before")

    def start(self, prompts: Prompts, room: int) -> tuple[ReaderPrompt, ReaderPage]:
        """What nodes share, and root pages [B, 1, ...] of `room` tokens, all 0."""
        B, P = prompts.tokens.shape
        rows, start = (prompts.tokens, prompts.length), self.pieces.policy.start
        caches = [start(net, *rows, capacity=P)[1] for net in self.networks]
        whole = lambda layers: tuple(jnp.concatenate(x, axis=2) for x in layers)
        shared = ReaderPrompt(
            k=tuple(whole(cache.k) for cache in caches),
            v=tuple(whole(cache.v) for cache in caches),
            seen=_first(prompts.length - self.early, P),
            last=goal_token(*rows, 1),
            goal=goal_token(*rows, self.pieces.goal),
        )
        empty = lambda x: jnp.zeros((B, 1, x.shape[1], room, x.shape[3]), x.dtype)
        page = ReaderPage(
            k=jax.tree.map(empty, shared.k),
            v=jax.tree.map(empty, shared.v),
            number=jnp.zeros((B, 1, room, self.heads)),
            score=jnp.zeros((B, 1, self.heads)),
        )
        return shared, page

    def extend(
        self, problems: Problems, store: StepPage, path: jax.Array, page: StepPage
    ) -> ReaderPage:
        """Pages of new nodes [B, M, ...] below paths i32[B, M, D], without a score."""
        B, M, D = path.shape
        S = page.tokens.shape[-1]
        lengths = along(store.length, path)
        before = jnp.broadcast_to(problems.reader.last[:, None], (B, M))
        if D:  # else each step is an attempt, right behind the prompt
            parent = last_node(path)
            length = of_nodes(store.length, parent)
            last = pick(of_nodes(store.tokens, parent), jnp.maximum(length - 1, 0))
            before = jnp.where(length > 0, last, before)
        gather = lambda x: path_pages(x, path).reshape(
            B, M, x.shape[2], D * S, x.shape[4]
        )
        new = (
            page.tokens,
            page.length,
            before,
            problems.length[:, None] + jnp.sum(lengths, axis=-1),
            _first(lengths, S).reshape(B, M, D * S),
            jax.tree.map(gather, (store.reader.k, store.reader.v)),
        )
        number, k, v = _in_pieces(self._numbers, (problems.reader, *new), M * S)
        return ReaderPage(k=k, v=v, number=number, score=())

    def _numbers(
        self,
        shared: ReaderPrompt,
        tokens: jax.Array,
        length: jax.Array,
        before: jax.Array,
        begin: jax.Array,
        seen: jax.Array,
        above: tuple[Any, Any],
    ) -> tuple[jax.Array, Any, Any]:
        """f32[B, M, S, K] of tokens i32[B, M, S], and their keys and values.

        before i32[B, M]: the token in front of the first, which is at `begin`. above:
        keys and values of the path, [B, M, H, D S, E]; seen bool[B, M, D S].
        """
        B, M, S = tokens.shape
        flat = lambda x: x.reshape(B * M, *x.shape[2:])
        inputs, own = flat(tokens), flat(tokens)
        if self.early:
            inputs = jnp.concatenate([flat(before)[:, None], own[:, :-1]], axis=1)
        position = flat(begin)[:, None] - self.early + _places(S, 2)
        of_prompt = jnp.repeat(shared.seen, M, axis=0)[:, None]
        above = jax.tree.map(flat, above)
        every = jnp.broadcast_to(_places(S, 2), (B * M, S))
        outputs, keys, values = [], [], []
        for i, net in enumerate(self.networks):
            contexts = [Context(shared.k[i], shared.v[i], of_prompt)]
            if seen.shape[-1]:
                mask = flat(seen)[:, None]
                contexts.append(Context(above[0][i], above[1][i], mask))
            output, k, v = self.pieces.policy.extend(
                net, inputs, position, contexts, at=every
            )
            outputs.append(output)
            keys.append(k)
            values.append(v)
        goal = jnp.repeat(shared.goal, M)
        number = self.pieces.number(self.params, tuple(outputs), own, goal)
        number = jnp.where(_first(flat(length), S)[..., None], number, 0.0)
        of_trees = lambda x: x.reshape(B, M, *x.shape[1:])
        return jax.tree.map(of_trees, (number, tuple(keys), tuple(values)))


def _places(size: int, rank: int) -> jax.Array:
    """0, 1, ... along the last of so many axes."""
    return jnp.arange(size).reshape(*[1] * (rank - 1), size)


def _first(length: jax.Array, size: int) -> jax.Array:
    """bool[..., size]: the first `length` places."""
    return _places(size, length.ndim + 1) < length[..., None]


def _in_pieces(fn: Callable[..., Any], arguments: tuple, tokens: int) -> Any:
    """fn of pytrees [B, ...] of `tokens` tokens each, some trees at a time."""
    (B, *_) = jax.tree.leaves(arguments)[0].shape
    size = max(1, TOKENS_AT_ONCE // tokens)
    if size >= B:
        return fn(*arguments)
    pieces = -(-B // size)

    def cut(x: jax.Array) -> jax.Array:
        # Trees that fill up the last piece are copies: each stays a valid one.
        x = x[jnp.minimum(jnp.arange(pieces * size), B - 1)]
        return x.reshape(pieces, size, *x.shape[1:])

    found = jax.lax.map(lambda piece: fn(*piece), jax.tree.map(cut, arguments))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:B], found)

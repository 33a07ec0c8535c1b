"""What all nodes of a tree over text share, and moving on in it.

In: trees of StepPages and the prompts they stand behind. Out: the same one step on:
what the old root's page holds is moved behind the prompt.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from o1jax.policy.context import Context
from o1jax.search.pages import ReaderPrompt, StepPage
from o1jax.search.reuse import advance
from o1jax.search.tree import Tree


class Problems(NamedTuple):
    """What all nodes of a tree share: the prompt, read once."""

    k: tuple[jax.Array, ...]  # L x [B, Hkv, P, E]
    v: tuple[jax.Array, ...]
    seen: jax.Array  # bool[B, P]  where a token lies
    length: jax.Array  # i32[B]  tokens
    prompt_id: jax.Array  # i32[B]
    next: jax.Array  # f32[B, V]  log-probs behind the prompt, as sampled
    reader: ReaderPrompt | None = None
    draft: Any = ()  # keys and values (k, v), where a draft has its own

    def context(self, leaves: int = 1) -> Context:
        """The prompts, for `leaves` rows of queries each."""
        return Context(self.k, self.v, jnp.repeat(self.seen, leaves, axis=0)[:, None])

    def draft_context(self, leaves: int = 1) -> Context:
        """The same, as a draft of its own has read them."""
        return Context(*self.draft, self.context(leaves).mask)


def move(problems: Problems, tree: Tree, action: jax.Array) -> tuple[Problems, Tree]:
    """Takes the step `action` i32[B] at each root; the trees below it are kept.

    reuse.advance, and what the old root's page holds is moved behind the prompt, where
    it takes S places. A guide sees the path from the new root on. To search on: grow().
    """
    root: StepPage = jax.tree.map(lambda x: x[:, 0], tree.store)
    slot = jnp.arange(root.tokens.shape[1])
    own = slot[None] < root.length[:, None]

    def join(held: Any, page: Any) -> Any:
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis=2), held, page)

    def behind(held: Any, page: Any) -> Any:
        """A prompt's keys, values and mask with those of the page behind them."""
        seen = jnp.concatenate([held.seen, own], axis=1)
        return held._replace(k=join(held.k, page.k), v=join(held.v, page.v), seen=seen)

    problems = behind(problems, root)._replace(
        length=problems.length + root.length, draft=join(problems.draft, root.draft)
    )
    if problems.reader is not None:
        problems = problems._replace(reader=behind(problems.reader, root.reader))
    return problems, advance(tree, action)

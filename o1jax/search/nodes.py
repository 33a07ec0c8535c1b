"""The nodes of finished trees, whatever search made them.

Every recipe, a beam as well as a tree search, leaves its nodes in this one form, which
is what harvesting, saving and drawing read. Node 0 is the root; a parent's id is below
its children's; what lies at ids of `used` and above is meaningless.
"""

import flax.struct
import jax

from o1jax.search.tree import Store, Tree


@flax.struct.dataclass(kw_only=True)
class Nodes:
    """B trees of at most N nodes."""

    parent: jax.Array  # i32[B, N]  -1 for the root and for unused nodes
    action: jax.Array  # i32[B, N]  which child of its parent; -1 likewise
    logprior: jax.Array  # f32[B, N]  of that action under the search's prior
    visits: jax.Array  # i32[B, N]  1 for a node that was made and not searched below
    value: jax.Array  # f32[B, N]   mean return of the visits
    raw_value: jax.Array  # f32[B, N]  the network's or the guide's value of the node
    finished: jax.Array  # bool[B, N]  nothing follows the node
    used: jax.Array  # i32[B]   nodes in use, the root included
    cost: jax.Array  # f32[B]   sum of NodeEval.cost
    reward_tokens: jax.Array  # f32[B]  sum of NodeEval.reward_tokens
    reread_tokens: jax.Array  # f32[B]  sum of NodeEval.reread_tokens
    exhausted: jax.Array  # bool[B]  the search ended early because the pool was full
    store: Store  # [B, N, ...]


def nodes_of(tree: Tree) -> Nodes:
    """The nodes of a tree search."""
    return Nodes(
        parent=tree.parent,
        action=tree.action,
        logprior=tree.logprior,
        visits=tree.visits,
        value=tree.value,
        raw_value=tree.raw_value,
        finished=tree.finished,
        used=tree.used,
        cost=tree.cost,
        reward_tokens=tree.reward_tokens,
        reread_tokens=tree.reread_tokens,
        exhausted=tree.exhausted,
        store=tree.store,
    )

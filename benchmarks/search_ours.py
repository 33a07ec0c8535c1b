"""Tree search with o1jax: the engine on a trivial network, and over the 1m policy.

Over the policy an expansion draws its tokens behind pages of keys and values, so it
reads no token twice. search/memory measures nothing but sizes.
"""

import worker  # isort: skip  (pins the process first)

import jax
import jax.numpy as jnp
import numpy as np
import searches
import sizes

from o1jax.search.expand import last_node
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.steps import Steps, StepSearch
from o1jax.search.tree import SearchResult
from o1jax.types import NodeEval


def overhead(rule: str, trees: int, simulations: int) -> worker.Run:
    """The engine alone."""

    def expand_fn(params, key, store, path, action):
        at = last_node(path)
        parent = jax.tree.map(lambda x: jnp.take_along_axis(x, at, axis=1), store)
        state, prior, value = searches.step(parent, jnp.maximum(action, 0))
        zero = jnp.zeros_like(value)
        return NodeEval(prior, value, zero, zero + searches.DISCOUNT), state

    config = Mcts(simulations=simulations, rule=rule, max_depth=searches.DEPTH)

    @jax.jit
    def search(key, roots):
        state, prior, value = roots
        root = NodeEval(prior, value, jnp.zeros_like(value), jnp.ones_like(value))
        result = mcts((), key, root, state, expand_fn, config)
        return result.tree.child_visits[:, 0]

    return searches.overhead_run(search, trees, simulations)


def over_text(text: sizes.Search, leaves: int) -> tuple:
    """(the search as a function of params, key and prompts; its arguments)."""
    policy, params, prompts = searches.policy_and_prompts(text)
    by_token = text.tokens == 1
    steps = Steps(
        children=text.children,
        tokens=text.tokens,
        level="token" if by_token else "step",
        first="top" if by_token else "draw",
    )
    # No token ends a step or an answer: every step has its full length.
    adaptor = StepSearch(policy, steps, step_end_ids=(), stop_ids=(-1,))
    config = Mcts(simulations=text.simulations, leaves=leaves, max_depth=text.depth)

    def search(params, key, prompts) -> SearchResult:
        return adaptor.search(params, key, prompts, config)

    return search, (params, jax.random.key(2), prompts)


def text_search(kind: str, leaves: int) -> worker.Run:
    """Simulations of the token search, nodes of the step search."""
    text = sizes.SEARCHES[kind]
    search, arguments = over_text(text, leaves)

    def counts(*arguments) -> tuple:
        result = search(*arguments)
        return result.counts.simulations, result.counts.rows

    found: dict[str, int] = {}
    counts = jax.jit(counts)

    def run() -> None:
        simulations, rows = jax.device_get(counts(*arguments))
        if (simulations != text.simulations).any():
            raise RuntimeError("a tree stopped early")
        found["work"] = int(np.sum(simulations if kind == "tokens" else rows))

    run.note = lambda: found
    return run


def memory() -> worker.Run:
    """Bytes of a node of the step search, from the shapes of the arrays it leaves."""
    text = sizes.SEARCHES["steps"]
    search, arguments = over_text(text, leaves=8)

    def run() -> None:
        tree = jax.eval_shape(search, *arguments).tree
        nodes = tree.edges.packed.shape[0] * tree.edges.packed.shape[1]
        size = lambda x: sum(
            a.size * a.dtype.itemsize // nodes for a in jax.tree.leaves(x)
        )
        kept = (tree.store.k, tree.store.v)
        run.note = lambda: {
            "step": text.step_bytes,
            "keys_values": size(kept),
            "page": size(tree.store) - size(kept),
            "edges": size(tree.edges),
        }

    return run


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`search/overhead/RULE/TREES/SIMULATIONS`, `search/KIND/LEAVES` or memory."""
    _, kind, *rest = case.split("/")
    if kind == "overhead":
        run = overhead(rest[0], int(rest[1]), int(rest[2]))
    elif kind == "memory":
        run = memory()
    else:
        run = text_search(kind, int(rest[0]))
    return run, run


if __name__ == "__main__":
    worker.serve(build, worker.versions("o1jax", "jax"))

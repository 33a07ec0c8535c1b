"""What the tree search itself costs, beside mctx: the network is a few integer hashes.

Cases are `SIDE/NETWORK/RULE/TREES/SIMULATIONS`: SIDE o1jax or mctx, RULE puct or
gumbel. Both search the same trees. NETWORK walk: a child's value is its parent's plus a
hash, as values of real networks hang together, so the trees are deep; noise: a hash
alone, so they are bushy. Without arguments this is a worker; `--rounds 5` measures both
sides in turn in this one process, prints the table, and checks that they agree.
"""

import worker  # isort: skip  (pins the process first)

import argparse
import sys
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.search.expand import last_node
from o1jax.search.mcts import Mcts, mcts
from o1jax.types import NodeEval

CHILDREN = 4
DEPTH = 64  # mctx has no limit; that both agree shows that this one is not met
DISCOUNT = 0.95
# TREES, SIMULATIONS; growth is from the second to the last
SIZES = [(16, 32), (128, 32), (128, 128), (128, 512)]


def mix(x: jax.Array) -> jax.Array:
    """A hash of u32 to u32."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def uniform(x: jax.Array) -> jax.Array:
    """A hash of u32 to f32 in [0, 1)."""
    return (mix(x) >> 8).astype(jnp.float32) / 2**24


def step(network: str, state: tuple, action: jax.Array) -> tuple:
    """The next state (u32[...], f32[...]), logits of its children, value."""
    code, value = state
    code = mix(code * jnp.uint32(2654435761) + action.astype(jnp.uint32) + 1)
    child = jnp.stack([code + k for k in range(CHILDREN)], axis=-1)
    noise = uniform(code + 77) - 0.5
    value = value + noise if network == "walk" else noise
    return (code, value), 2 * uniform(child), value


def ours(network: str, rule: str, simulations: int):
    """roots -> (visits, best)"""

    def expand_fn(params, key, store, path, action):
        at = last_node(path)
        parent = jax.tree.map(lambda x: jnp.take_along_axis(x, at, axis=1), store)
        state, prior, value = step(network, parent, jnp.maximum(action, 0))
        zero = jnp.zeros_like(value)
        return NodeEval(prior, value, zero, zero + DISCOUNT), state

    config = Mcts(simulations=simulations, rule=rule, max_depth=DEPTH)

    def run(key, roots):
        state, prior, value = roots
        root = NodeEval(prior, value, jnp.zeros_like(value), jnp.ones_like(value))
        result = mcts((), key, root, state, expand_fn, config)
        return result.tree.child_visits[:, 0], result.best

    return jax.jit(run)


def theirs(network: str, rule: str, simulations: int):
    """roots -> (visits, action)"""
    import mctx

    def recurrent_fn(params, key, action, state):
        state, prior, value = step(network, state, action)
        output = mctx.RecurrentFnOutput(
            reward=jnp.zeros_like(value),
            discount=jnp.full_like(value, DISCOUNT),
            prior_logits=prior,
            value=value,
        )
        return output, state

    def run(key, roots):
        state, prior, value = roots
        root = mctx.RootFnOutput(prior_logits=prior, value=value, embedding=state)
        if rule == "puct":
            output = mctx.muzero_policy(
                (), key, root, recurrent_fn, simulations, dirichlet_fraction=0.0
            )
        else:
            output = mctx.gumbel_muzero_policy((), key, root, recurrent_fn, simulations)
        return output.search_tree.summary().visit_counts, output.action

    return jax.jit(run)


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`SIDE/NETWORK/RULE/TREES/SIMULATIONS`."""
    side, network, rule, trees, simulations = case.split("/")
    search = {"o1jax": ours, "mctx": theirs}[side](network, rule, int(simulations))
    start = jnp.arange(int(trees), dtype=jnp.uint32), jnp.zeros(int(trees))
    roots = step(network, start, jnp.zeros(int(trees), jnp.int32))
    key = jax.random.key(0)

    def run() -> tuple:
        return jax.device_get(search(key, roots))

    run.note = lambda: {"searches": int(trees) * int(simulations)}
    return run, run


def compare(rounds: int) -> None:
    """Prints microseconds per simulation and tree, and the ratio inside a round."""
    print(f"Medians of {rounds} rounds; microseconds per simulation of one tree.")
    print("network  rule    trees  simulations   o1jax    mctx   ratio (least of both)")
    for network in ("walk", "noise"):
        for rule in ("puct", "gumbel"):
            least = {}
            for trees, simulations in SIZES:
                case = f"{network}/{rule}/{trees}/{simulations}"
                runs = [build(f"{side}/{case}")[0] for side in ("o1jax", "mctx")]
                (visits, best), (peer_visits, action) = (run() for run in runs)
                np.testing.assert_array_equal(visits, peer_visits)
                if rule == "gumbel":
                    np.testing.assert_array_equal(best, action)
                per = 1e6 / (trees * simulations)
                turns = [
                    [worker.measure(run)["seconds"] * per for run in runs]
                    for _ in range(rounds)
                ]
                own, peer = zip(*turns)
                least[trees, simulations] = min(own)
                ratio = median(b / a for a, b in turns)
                print(
                    f"{network:7}  {rule:6}  {trees:5}  {simulations:11}  "
                    f"{median(own):6.2f}  {median(peer):6.2f}  {ratio:6.1f} "
                    f"({min(peer) / min(own):.1f})",
                    flush=True,
                )
            growth = least[128, 512] / least[128, 32]
            print(f"{network} {rule}: at 512 over at 32, 128 trees: {growth:.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--rounds", type=int, default=5)
        compare(parser.parse_args().rounds)
    else:
        worker.serve(build, worker.versions("o1jax", "jax", "mctx"))

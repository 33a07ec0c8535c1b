"""Step search as a Python loop over jitted calls, the way it is usually written.

One call expands a leaf (or LEAVES) of all trees together: it reads prompt and path of
each row in one pass into a cache and decodes the step behind it. Rows are padded to the
shortest of a few compiled widths. Selecting and backing up is numpy over all trees at
once. The policy, the cache and the rule are o1jax's, so the loop and the reading again
are what differs, and with 8 leaves that it draws all 128 rows at once.
"""

import worker  # isort: skip  (pins the process first)

from dataclasses import dataclass

import jax
import numpy as np
import searches
import sizes

STEPS = sizes.SEARCHES["steps"]
B, K, S = STEPS.trees, STEPS.children, STEPS.tokens
BUCKET = 16  # the widths compiled are multiples of it
INIT, BASE, VIRTUAL_LOSS = 1.25, 19652.0, 1.0  # of o1jax's PUCT


@dataclass
class Trees:
    """B trees of N nodes; node 0 is the root."""

    visits: np.ndarray  # [B, N, K] of the edge to a child, so are the next three
    pending: np.ndarray
    value: np.ndarray
    child: np.ndarray  # -1: none yet
    raw_value: np.ndarray  # [B, N]
    tokens: np.ndarray  # i32[B, N, window]  prompt and path
    length: np.ndarray  # i32[B, N]
    root_visits: np.ndarray  # [B]
    root_value: np.ndarray
    used: np.ndarray


def plant(prompts: np.ndarray, value: np.ndarray) -> Trees:
    """Trees of their roots."""
    nodes = STEPS.simulations + 1
    zeros = lambda: np.zeros((B, nodes, K), np.float32)
    tokens = np.zeros((B, nodes, STEPS.window), np.int32)
    tokens[:, 0, : STEPS.prompt] = prompts
    raw_value = np.zeros((B, nodes), np.float32)
    raw_value[:, 0] = value
    return Trees(
        visits=zeros(),
        pending=zeros(),
        value=zeros(),
        child=np.full((B, nodes, K), -1),
        raw_value=raw_value,
        tokens=tokens,
        length=np.full((B, nodes), STEPS.prompt, np.int32),
        root_visits=np.ones(B, np.float32),
        root_value=value.copy(),
        used=np.ones(B, np.int64),
    )


def walk(trees: Trees, m: int) -> list[tuple]:
    """Down all trees at once: (going bool[B], node i[B], action i[B]) a level."""
    row = np.arange(B)
    node, going = np.zeros(B, np.int64), np.ones(B, bool)
    total, value = trees.root_visits + m, trees.root_value
    path = []
    for _ in range(STEPS.depth):
        n, q, p = (x[row, node] for x in (trees.visits, trees.value, trees.pending))
        seen, both = n > 0, n + p
        known = np.where(seen, q, value[:, None])
        low = np.minimum(known.min(1), value)[:, None]
        high = np.maximum(known.max(1), value)[:, None]
        score = (np.where(seen, q, low) - low) / np.maximum(high - low, 1e-8)
        score -= VIRTUAL_LOSS * p / np.maximum(both, 1)
        weight = np.sqrt(total) * (INIT + np.log((total + BASE + 1) / BASE)) / K
        action = (score + weight[:, None] / (both + 1)).argmax(1)
        trees.pending[row, node, action] += going
        path.append((going, node, action))
        total, value = both[row, action], q[row, action]
        child = trees.child[row, node, action]
        going = going & (child >= 0)
        node = np.where(going, child, node)
        if not going.any():
            break
    return path


def back_up(trees: Trees, path: list[tuple], value: np.ndarray) -> None:
    """The means along a path; rewards are 0 and nothing is discounted."""
    row = np.arange(B)
    for going, node, action in reversed(path):
        at = row[going], node[going], action[going]
        trees.pending[at] -= 1
        n = trees.visits[at]
        trees.value[at] = (trees.value[at] * n + value[going]) / (n + 1)
        trees.visits[at] = n + 1
    n = trees.root_visits
    trees.root_value = (trees.root_value * n + value) / (n + 1)
    trees.root_visits = n + 1


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`search/steps/LEAVES`."""
    leaves = int(case.split("/")[2])
    policy, params, prompts = searches.policy_and_prompts(STEPS)
    params = policy.unstack(params)
    start = jax.jit(policy.start, static_argnames="capacity")
    roots = np.asarray(prompts.tokens)

    @jax.jit
    def draw(params, key, tokens, length):
        """A step behind each row: (tokens, value behind it)."""
        output, cache = policy.start(
            params, tokens, length, capacity=tokens.shape[1] + S
        )

        def one(carry, key):
            output, cache = carry
            token = jax.random.categorical(key, output.logits)
            return policy.step(params, cache, token), token

        (output, _), step = jax.lax.scan(one, (output, cache), jax.random.split(key, S))
        return step.T, output.value

    def expand(trees: Trees, key: jax.Array, paths: list) -> list[np.ndarray]:
        """The new leaves in one call; what each walk is to back up, by tree."""
        wanted: dict[tuple, int] = {}  # edge -> row
        values = np.zeros((leaves, B), np.float32)
        tokens = np.ones((B * leaves, STEPS.window), np.int32)
        length = np.ones(B * leaves, np.int32)
        asks = []
        for m, path in enumerate(paths):
            for b in range(B):
                _, node, action = next(x for x in reversed(path) if x[0][b])
                edge = b, int(node[b]), int(action[b])
                if trees.child[edge] >= 0:
                    values[m, b] = trees.raw_value[b, trees.child[edge]]
                    continue
                row = wanted.setdefault(edge, len(wanted))
                tokens[row] = trees.tokens[b, node[b]]
                length[row] = trees.length[b, node[b]]
                asks.append((m, b, row))
        if not wanted:
            return values
        width = max(STEPS.prompt, -(-int(length.max()) // BUCKET) * BUCKET)
        drawn, value = jax.device_get(draw(params, key, tokens[:, :width], length))
        for edge, row in wanted.items():
            b = edge[0]
            new = trees.used[b]
            end = length[row] + S
            trees.used[b] += 1
            trees.child[edge] = new
            trees.raw_value[b, new] = value[row]
            trees.tokens[b, new] = tokens[row]
            trees.tokens[b, new, length[row] : end] = drawn[row]
            trees.length[b, new] = end
        for m, b, row in asks:
            values[m, b] = value[row]
        return values

    found: dict[str, int] = {}

    def run() -> None:
        output, _ = start(params, roots, prompts.length, capacity=STEPS.prompt)
        trees = plant(roots, np.asarray(output.value))
        for i in range(STEPS.simulations // leaves):
            paths = [walk(trees, m) for m in range(leaves)]
            values = expand(trees, jax.random.key(i), paths)
            for path, value in zip(paths, values):
                back_up(trees, path, value)
        found["work"] = int(trees.used.sum()) - B

    run.note = lambda: found
    return run, run


if __name__ == "__main__":
    worker.serve(build, worker.versions("o1jax", "jax"))

"""A train step of o1jax: next-token loss, gradient, clip to norm 1, AdamW, donated.

The batch is what the loop feeds: packed rows with segments, positions and weights.
`train/SIZE` takes the number of microbatches that is best here, `train/SIZE/N` takes N;
`ppo-update/SIZE` is the same, to be held against the update of PPO. `products/SIZE`
are the matrix products of the step and nothing else: what could be reached at most.
"""

import worker  # isort: skip  (pins the process first)

import jax
import jax.numpy as jnp
import ours_decode
import sizes

from o1jax.learn.objectives import imitation
from o1jax.learn.optimizer import OptimizerConfig, build_optimizer
from o1jax.learn.update import build_update
from o1jax.loop.ledger import count_flops
from o1jax.policy.products import matmul
from o1jax.types import TokenBatch, TrainState

MICROBATCHES = {"1m": 16, "20m": 1}


def some_batch(size: sizes.Size) -> TokenBatch:
    """Random text, one document a row."""
    shape = (size.train_rows, size.length)
    return TokenBatch(
        tokens=jax.random.randint(jax.random.key(1), shape, 1, size.vocab),
        segment=jnp.ones(shape, jnp.int32),
        position=jnp.tile(jnp.arange(size.length), (size.train_rows, 1)),
        weight=jnp.ones(shape),
    )


def products(size: sizes.Size, microbatches: int) -> worker.Run:
    """All matrix products of a microbatch, forward and backward, in one program."""
    B, T, D = size.train_rows // microbatches, size.length, size.width
    n, heads, wide = B * T, (B, size.heads, T), D // size.heads
    weights = [(D, 3 * D), (D, D), (D, 2 * size.ff), (size.ff, D)] * size.layers
    weights.append((D, size.vocab))
    draw = lambda *shape: jax.random.normal(jax.random.key(0), shape)
    # [x, w, what comes back from behind]: the product and its two gradients.
    plain = [(draw(n, i), draw(i, o), draw(n, o)) for i, o in weights]
    scores = (draw(*heads, wide), draw(*heads, wide), draw(*heads, T))
    mixed = (draw(*heads, T), draw(*heads, wide), draw(*heads, wide))

    def three(x, w, back):
        y, pull = jax.vjp(matmul, x, w)
        return [y, *pull(back)]

    @jax.jit
    def run_once(plain, attention):
        out = [three(*operands) for operands in plain]
        for (q, k, back), mix in attention:
            out += [three(q, k.swapaxes(2, 3), back), three(*mix)]
        return out

    copies = [(scores, mixed) for _ in range(size.layers)]
    copies = jax.tree.map(jnp.copy, copies)  # or they are computed once

    def run() -> None:
        jax.block_until_ready(run_once(plain, copies))

    run.note = lambda: {"flops": size.train_flops / microbatches}
    return run


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`train/SIZE`, `train/SIZE/MICROBATCHES` or `products/SIZE`."""
    kind, name, *pieces = sizes.parse(case)
    size = sizes.SIZES[name]
    if kind == "products":
        run = products(size, MICROBATCHES[name])
        return run, run
    policy = ours_decode.load(size, unroll=size.layers)
    optimizer = build_optimizer(OptimizerConfig(learning_rate=3e-4), steps=10_000)
    microbatches = int(pieces[0]) if pieces else MICROBATCHES[name]
    update = build_update(imitation(policy), optimizer, microbatches=microbatches)
    update = jax.jit(update, donate_argnums=0)
    params = policy.init(jax.random.key(0))
    opt_state = optimizer.init(params)
    state = TrainState(jnp.int32(0), params, opt_state, jax.random.key(2))
    batch = some_batch(size)
    losses: list[float] = []
    flops = count_flops(update, state, batch).flops

    def run() -> None:
        nonlocal state
        state, metrics = jax.block_until_ready(update(state, batch))
        losses.append(float(metrics["loss"]))
        if len(losses) > 2 and not losses[-1] < losses[0]:
            raise RuntimeError(f"the step does not learn: {losses[0]} -> {losses[-1]}")

    run.note = lambda: {"flops": flops}  # as the ledger counts them
    return run, run


if __name__ == "__main__":
    worker.serve(build, worker.versions("o1jax", "jax", "flax", "optax"))

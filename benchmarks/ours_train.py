"""A train step of o1jax: next-token loss, gradient, clip to norm 1, AdamW, donated.

The batch is what the loop feeds: packed rows with segments, positions and weights.
`train/SIZE` takes the number of microbatches that is best here, `train/SIZE/N` takes N;
`ppo-update/SIZE` is the same, to be held against the update of PPO.
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
from o1jax.types import TokenBatch, TrainState

MICROBATCHES = {"1m": 16, "20m": 4}


def some_batch(size: sizes.Size) -> TokenBatch:
    """Random text, one document a row."""
    shape = (size.train_rows, size.length)
    return TokenBatch(
        tokens=jax.random.randint(jax.random.key(1), shape, 1, size.vocab),
        segment=jnp.ones(shape, jnp.int32),
        position=jnp.tile(jnp.arange(size.length), (size.train_rows, 1)),
        weight=jnp.ones(shape),
    )


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`train/SIZE` or `train/SIZE/MICROBATCHES`."""
    _, name, *pieces = sizes.parse(case)
    size = sizes.SIZES[name]
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

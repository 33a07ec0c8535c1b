"""Decoding with o1jax's sampler: random weights, fixed length, no stop token.

It records the log-prob and the value of every token as it does in a real rollout; the
peers are asked for tokens only. Rows at once and the cache's first chunk are what is
best here; `decode/SIZE/ROWS/MODE/AT_ONCE` takes that many rows.
"""

import worker  # isort: skip  (pins the process first)

import jax
import jax.numpy as jnp
import sizes

from o1jax.policy.policy import Policy, PolicyConfig, build_policy
from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.rollout.sampling import SamplingConfig
from o1jax.types import Prompts

# 128 caches of the 1m model don't fit the processor's own: 16 rows are refilled.
AT_ONCE = {("1m", 128): 16}
ONE_CHUNK = 128  # a single row has fewer kernels if all of its cache is one chunk


def load(size: sizes.Size, unroll: int = 1, **more: int) -> Policy:
    """The policy of a size; `unroll` layers at once in training."""
    return build_policy(
        PolicyConfig(
            vocab=size.vocab,
            width=size.width,
            layers=size.layers,
            heads=size.heads,
            ff=size.ff,
            unroll=unroll,
            **more,
        )
    )


def some_prompts(size: sizes.Size, rows: int) -> Prompts:
    """Random prompts, all of full length."""
    key = jax.random.key(1)
    return Prompts(
        tokens=jax.random.randint(key, (rows, size.prompt), 1, size.vocab),
        length=jnp.full(rows, size.prompt),
        prompt_id=jnp.arange(rows),
    )


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`decode/SIZE/ROWS/MODE` or `decode/SIZE/ROWS/MODE/AT_ONCE`."""
    _, name, rows, mode, *at_once = sizes.parse(case)
    size = sizes.SIZES[name]
    policy = load(size, **({"cache_chunk": ONE_CHUNK} if rows == "1" else {}))
    best = AT_ONCE.get((name, int(rows)), int(rows))
    config = SamplerConfig(
        rows=int(at_once[0]) if at_once else best,
        max_new_tokens=size.new_tokens,
        sampling=SamplingConfig(temperature=1.0 if mode == "sample" else 0.0),
    )
    sampler = jax.jit(build_sampler(policy, config))
    params = policy.init(jax.random.key(0))
    prompts = some_prompts(size, int(rows))
    key = jax.random.key(2)

    def run() -> None:
        trajectory, _ = jax.device_get(sampler(params, key, prompts))
        if (trajectory.length != size.length).any():
            raise RuntimeError("a row stopped early")

    return run, run


if __name__ == "__main__":
    worker.serve(build, worker.versions("o1jax", "jax", "flax"))

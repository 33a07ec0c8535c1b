"""Continuous refill on a geometric mix of lengths: how much decoding was somebody's.

At a very high temperature every token is equally likely, so with S stop tokens among V
the lengths are geometric with mean V / S. `refill/SIZE` gives all requests to one call;
`batches/SIZE` cuts the same prompts into batches of as many rows as decode at once,
each of which lasts until its longest row is done.
"""

import worker  # isort: skip  (pins the process first)

import jax
import ours_decode
import sizes

from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.rollout.sampling import SamplingConfig

REQUESTS, ROWS = 2048, 32
MEAN = 16  # new tokens; the longest is cut at seven times as many


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`refill/SIZE` or `batches/SIZE`."""
    how, name = case.split("/")
    size = sizes.SIZES[name]
    policy = ours_decode.load(size)
    config = SamplerConfig(
        rows=ROWS,
        max_new_tokens=size.new_tokens,
        stop_ids=tuple(range(size.vocab // MEAN)),
        sampling=SamplingConfig(temperature=1e6),
    )
    sampler = jax.jit(build_sampler(policy, config))
    params = policy.init(jax.random.key(0))
    prompts = ours_decode.some_prompts(size, REQUESTS)
    key = jax.random.key(2)
    at_once = REQUESTS if how == "refill" else ROWS
    found: dict[str, float] = {}

    def run() -> None:
        useful = computed = prefill = 0
        for i in range(0, REQUESTS, at_once):
            part = jax.tree.map(lambda x: x[i : i + at_once], prompts)  # noqa: B023
            part_key = jax.random.fold_in(key, i)
            _, stats = jax.device_get(sampler(params, part_key, part))
            useful += int(stats.useful)
            computed += int(stats.computed)
            prefill += int(stats.prefill)
        found.update(
            requests=REQUESTS,
            useful=useful,
            computed=computed,
            occupancy=useful / computed,
            prompt_share=REQUESTS * size.prompt / prefill,
        )

    run.note = lambda: found
    return run, run


if __name__ == "__main__":
    worker.serve(build, worker.versions("o1jax", "jax", "flax"))

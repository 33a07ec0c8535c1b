"""Decoding SmolLM2 with o1jax's sampler: greedy, fixed length, no stop token.

Case `smollm/ROWS`; the weights are those of an imported workdir, $SMOLLM/policy.
"""

import worker  # isort: skip  (pins the process first)

import os
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import sizes

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.loop.workdir import Workdir
from o1jax.policy.policy import Policy
from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.rollout.sampling import SamplingConfig
from o1jax.types import Params, Prompts


@cache
def imported() -> tuple[Policy, Params]:
    """The policy and its parameters, f32."""
    folder = Path(os.environ["SMOLLM"]) / "policy"
    run = Workdir(load(folder / "config.gin").experiment, folder)
    return run.policy, run.policy.unstack(run.newest_params())


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`smollm/ROWS`."""
    rows = int(case.split("/")[1])
    policy, params = imported()
    config = SamplerConfig(
        rows=rows,
        max_new_tokens=sizes.SMOLLM_NEW,
        stop_ids=(-1,),
        sampling=SamplingConfig(temperature=0.0),
    )
    sampler = jax.jit(build_sampler(policy, config))
    prompts = Prompts(
        tokens=jnp.array(sizes.smollm_prompts(rows), jnp.int32),
        length=jnp.full(rows, sizes.SMOLLM_PROMPT),
        prompt_id=jnp.arange(rows),
    )
    key, last = jax.random.key(0), {}

    def run() -> None:
        trajectory, _ = jax.device_get(sampler(params, key, prompts))
        last["text"] = trajectory.tokens[0, sizes.SMOLLM_PROMPT :].tolist()

    run.note = lambda: {"useful": rows * sizes.SMOLLM_NEW, "text": last["text"]}
    return run, run


if __name__ == "__main__":
    worker.serve(build, worker.versions("o1jax", "jax", "flax"))

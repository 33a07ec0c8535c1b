"""The cache of a single row is written in place: XLA copies none of it for a token."""

import re

import jax
import jax.numpy as jnp

from o1jax.policy.policy import PolicyConfig, build_policy
from o1jax.rollout.decode import SamplerConfig, build_sampler
from o1jax.types import Prompts

PROMPT, NEW = 5, 8


def test_one_row_with_a_cache_of_one_chunk_does_not_copy_it():
    policy = build_policy(PolicyConfig(vocab=11, width=16, layers=2, heads=2, ff=24))
    prompts = Prompts(
        tokens=jnp.ones((1, PROMPT), jnp.int32),
        length=jnp.full(1, PROMPT),
        prompt_id=jnp.arange(1),
    )
    sampler = jax.jit(build_sampler(policy, SamplerConfig(max_new_tokens=NEW)))
    params = policy.init(jax.random.key(0))
    program = sampler.lower(params, jax.random.key(1), prompts).compile().as_text()
    cache = rf"f32\[1,2,{PROMPT + NEW},8\]"
    assert re.search(cache, program)
    assert not re.search(rf"= {cache}\S* copy\(", program)

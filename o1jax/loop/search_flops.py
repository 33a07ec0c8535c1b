"""What a search pays: FLOPs of a token drawn, of a prompt, of a token that is judged.

In: the networks and the shapes of a search. Out: prices, each counted once from the
program that reads such a token, over all that the token may attend to. What a search
cost is the number of tokens times these.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from o1jax.loop.ledger import count_flops
from o1jax.loop.methods import Search
from o1jax.policy.context import Context
from o1jax.policy.policy import Policy
from o1jax.reward.interface import RewardModel
from o1jax.types import Params


def draw_flops(
    policy: Policy, config: Search, prompt_length: int
) -> tuple[float, float]:
    """FLOPs of a drawn token, and of a prompt."""
    # A revision sees all attempts before it, each as long as an answer may be.
    answers = 1 + config.revisions if config.method == "revision" else 1
    steps = config.depth * answers + 1
    return read_flops(
        policy, prompt_length, prompt_length + steps * config.steps.tokens
    )


def read_flops(policy: Policy, prompt_length: int, places: int) -> tuple[float, float]:
    """FLOPs of a token that may attend to so many places, and of a prompt."""
    params = jax.eval_shape(policy.init, jax.random.key(0))
    prompt = jax.ShapeDtypeStruct((1, prompt_length), jnp.int32)
    row = jax.ShapeDtypeStruct((1,), jnp.int32)
    start = functools.partial(policy.start, capacity=prompt_length)
    return (
        _token_flops(policy, params, places),
        count_flops(start, params, prompt, row).flops,
    )


def judge_flops(
    model: RewardModel, params: Params, config: Search, prompt_length: int
) -> float:
    """FLOPs of a token that a reward model reads, by all of its networks."""
    places = prompt_length + (config.depth + 1) * config.steps.tokens
    nets = jax.eval_shape(model.pieces.networks, params)
    return sum(_token_flops(model.pieces.policy, net, places) for net in nets)


def _token_flops(policy: Policy, params: Params, places: int) -> float:
    """FLOPs of a token that may attend to so many places."""

    def read(params: Params, token: jax.Array, k: tuple, v: tuple) -> Any:
        context = Context(k, v, jnp.ones((1, 1, k[0].shape[2]), bool))
        return policy.extend(policy.unstack(params), token, token, [context], at=token)

    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    row = jax.ShapeDtypeStruct((1,), jnp.int32)
    start = functools.partial(policy.start, capacity=1)
    _, cache = jax.eval_shape(start, params, token, row)
    (layer,) = cache.k[0]  # a cache of one place has one chunk
    shape = (*layer.shape[:2], places, layer.shape[3])
    held = tuple(jax.ShapeDtypeStruct(shape, layer.dtype) for _ in cache.k)
    return count_flops(read, params, token, held, held).flops

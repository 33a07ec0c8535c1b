"""What a policy says now about responses that were sampled before.

In: a policy and rows of prompt and response. Out: for each token of the response its
log-prob under the distribution that is sampled from, that distribution's entropy, and
the critic's value. The same function reads the learner, the reference and the critic.
Or, of two sets of parameters, how far the one is from the other along the response.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from o1jax.policy.functions import Policy, read_rows
from o1jax.types import Params

# logits f32[..., V] -> log-probs f32[..., V] of what the sampler draws from, such as
# partial(rollout.sampling.sampling_logprobs, config=sampling). -inf: left out.
Distribution = Callable[[jax.Array], jax.Array]

# The log-prob of a token that is left out now, though it was sampled once.
LOWEST = -50.0


class Reading(NamedTuple):
    """f32[B, T] each, 0 off the response."""

    logprob: jax.Array
    entropy: jax.Array  # nats
    value: jax.Array  # before token t is emitted


def in_response(
    prompt_length: jax.Array, length: jax.Array, tokens: int
) -> jax.Array:  # bool[B, T]
    """Where rows of `tokens` tokens hold their response."""
    t = jnp.arange(tokens)[None]
    return (t >= prompt_length[:, None]) & (t < length[:, None])


def read_responses(
    policy: Policy,
    params: Params,
    tokens: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
    *,
    distribution: Distribution = jax.nn.log_softmax,
    critic: Policy | None = None,
) -> Reading:
    """Reads rows i32[B, T].

    critic: where it is a network of its own, params are {"policy": ..., "critic": ...};
    otherwise values are those of the policy's own head. What is not used afterwards,
    XLA does not compute.

    A token that top-k or top-p leaves out now has the log-prob LOWEST and passes no
    gradient: its ratio is 0.
    """
    chex.assert_rank(tokens, 2)
    chex.assert_shape([prompt_length, length], tokens.shape[:1])
    own = params if critic is None else params["policy"]

    def said(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        logprobs = distribution(logits)
        chosen = jnp.take_along_axis(logprobs, tokens[..., None], axis=-1)[..., 0]
        inside = logprobs > -jnp.inf
        nats = jnp.exp(logprobs) * jnp.where(inside, logprobs, 0.0)
        return chosen, -jnp.sum(nats, axis=-1)

    (chosen, entropy), value = read_rows(policy, own, tokens, said)
    if critic is not None:
        value = critic.forward(params["critic"], tokens).value
    response = in_response(prompt_length, length, tokens.shape[1])
    on = lambda x: jnp.where(response, x, 0.0)
    return Reading(on(jnp.maximum(chosen, LOWEST)), on(entropy), on(value))


def read_divergence(
    policy: Policy,
    params: Params,
    reference: Params,
    tokens: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """f32[B]: KL(policy || reference) along responses that anyone wrote, in nats.

        sum_t sum_v p_t(v) (log p_t(v) - log q_t(v))

    Exact at each token, at temperature 1. Of responses that the policy drew, its mean
    is the divergence of whole responses; of others it tells how far the policy has
    strayed on that text.
    """
    chex.assert_shape([prompt_length, length], tokens.shape[:1])
    logp, logq = (
        jax.nn.log_softmax(policy.forward(own, tokens).logits)
        for own in (params, reference)
    )
    kl = jnp.sum(jnp.exp(logp) * (logp - logq), axis=-1)
    response = in_response(prompt_length, length, tokens.shape[1])
    return jnp.sum(kl, axis=1, where=response)

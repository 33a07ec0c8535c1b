"""What a network's outputs say of each step: the read-outs of a reward model.

In: logits f32[B, T, V] about token t, the tokens, where steps end. Out: f32[B, T],
log-odds at step ends. "logodds" reads how likely the network finds the step itself; it
generalises where a scalar head on the same trunk learns its traces by heart. "label" is
the generative verifier of Zhang et al. 2024, arXiv 2408.15240. "goal" reads the logit
of what the question asks for (Schaul et al. 2015, values of many goals).
"""

import chex
import jax
import jax.numpy as jnp

from o1jax.reward.aggregate import log_odds


def in_response(
    prompt_length: jax.Array, length: jax.Array, tokens: int
) -> jax.Array:  # bool[B, T]
    """Where rows of `tokens` tokens hold their response."""
    t = jnp.arange(tokens)[None]
    return (t >= prompt_length[:, None]) & (t < length[:, None])


def token_log_odds(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """f32[B, T]: log(p / (1 - p)) of each token.

        x_c - log sum_{v != c} exp(x_v)

    From log p alone the digits of 1 - p are lost where p is near 1, and with them the
    gradient of the step's log-odds.
    """
    chex.assert_equal_shape_prefix([logits, tokens], 2)
    other = jnp.arange(logits.shape[-1])[None, None] != tokens[..., None]
    chosen = jnp.sum(logits, axis=-1, where=~other)
    return chosen - jax.nn.logsumexp(logits, axis=-1, where=other)


def step_log_odds(token_logprob: jax.Array, step_end: jax.Array) -> jax.Array:
    """f32[B, T]: log(P / (1 - P)) of the step that token t closes, or is inside of.

    P(step) is the product of its tokens' probabilities, from the token behind the
    previous step end (or the prompt) up to and with t: a sum of logs that begins anew
    behind each step end,
        s_t = log p_t + s_{t-1},   s_t = log p_t where t - 1 closes a step
    Places that are no tokens of the response, such as the prompt's, have log p = 0.
    """
    chex.assert_equal_shape([token_logprob, step_end])
    first = jnp.pad(step_end[:, :-1], ((0, 0), (1, 0)))

    def join(a: tuple, b: tuple) -> tuple:
        return a[0] | b[0], b[1] + jnp.where(b[0], 0.0, a[1])

    # Not differences of one running sum: behind an unlikely step they round away what
    # a likely one adds.
    _, logprob = jax.lax.associative_scan(join, (first, token_logprob), axis=1)
    return log_odds(logprob)


def goal_token(
    tokens: jax.Array, prompt_length: jax.Array, from_end: int
) -> jax.Array:  # i32[B]
    """What the question asks for: the prompt's last token but from_end - 1."""
    at = jnp.maximum(prompt_length - from_end, 0)[:, None]
    return jnp.take_along_axis(tokens, at, axis=1)[:, 0]


def goal_logit(logits: jax.Array, goal: jax.Array) -> jax.Array:
    """f32[B, T] of logits [B, T, V]: those of the goal i32[B]."""
    return jnp.take_along_axis(logits, goal[:, None, None], axis=-1)[..., 0]

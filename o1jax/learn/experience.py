"""What a policy-gradient update reads: responses, and what was known of each token.

In: nothing; this is the record. Rows are responses of the policy as it was when it
sampled. Reduction and truncation are data here: the loss of a batch is

    sum_{b,t} weight[b, t] * loss[b, t] / sum_b share[b]

with the sum of shares taken over the whole batch, before it is cut into microbatches.
"""

import flax.struct
import jax


@flax.struct.dataclass(kw_only=True)
class Experience:
    """One row a response. Everything f32[B, T] is 0 off the response."""

    tokens: jax.Array  # i32[B, T]       prompt then response, right-padded with 0
    prompt_length: jax.Array  # i32[B]
    length: jax.Array  # i32[B]          prompt and response together
    logprob: jax.Array  # f32[B, T]      of the distribution that sampled the token
    ref_logprob: jax.Array  # f32[B, T]  of the reference; 0 where there is none
    value: jax.Array  # f32[B, T]        of the critic as it was; 0 where there is none
    advantage: jax.Array  # f32[B, T]
    target: jax.Array  # f32[B, T]       the return that the critic should foretell
    weight: jax.Array  # f32[B, T]       of token t in the loss; 0: it does not count
    share: jax.Array  # f32[B]           of the row in the denominator; 0: likewise
    kl_coef: jax.Array  # f32[B]         an array, so that a new one compiles nothing

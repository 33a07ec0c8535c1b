"""Records that cross a module boundary, and the letters of their axes.

B rows, T tokens of a row, P tokens of a prompt, N nodes, K children of a node, S tokens
of a step, D depth, G samples a question, V vocabulary, L layers, H heads, E head width.

One time convention holds everywhere: index t is about token t. logprob[t] is that of
token t given the tokens before it, value[t] the value before token t is emitted,
reward[t] is paid for token t. The shift happens once, inside `Policy.forward`. Rows are
right-padded; masks are derived from lengths and never stored.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

Params = Any  # pytree of f32 or bf16 arrays, as linen's init returns it


@flax.struct.dataclass(kw_only=True)
class Prompts:
    """Questions to answer, tokenized."""

    tokens: jax.Array  # i32[B, P]  right-padded with 0
    length: jax.Array  # i32[B]     tokens of the prompt, at least 1
    prompt_id: jax.Array  # i32[B]  which question; -1 marks a row of padding


@flax.struct.dataclass(kw_only=True)
class Trajectory:
    """A prompt and the response sampled for it."""

    tokens: jax.Array  # i32[B, T]      prompt then response, right-padded with 0
    prompt_length: jax.Array  # i32[B]
    length: jax.Array  # i32[B]         prompt and response together
    logprob: jax.Array  # f32[B, T]     of the sampling distribution; 0 off the response
    value: jax.Array  # f32[B, T]       value head before token t; 0 off the response
    finished: jax.Array  # bool[B]      a stop token was sampled (it is the last token)
    prompt_id: jax.Array  # i32[B]

    @property
    def response_mask(self) -> jax.Array:  # bool[B, T]
        """True where a token was sampled from the policy."""
        t = jnp.broadcast_to(jnp.arange(self.tokens.shape[-1]), self.tokens.shape)
        after_prompt = t >= self.prompt_length[..., None]
        return after_prompt & (t < self.length[..., None])


@flax.struct.dataclass(kw_only=True)
class TokenBatch:
    """Text to imitate. Several documents may share a row (packing)."""

    tokens: jax.Array  # i32[B, T]
    segment: jax.Array  # i32[B, T]   1, 2, ... per document of the row; 0 is padding
    position: jax.Array  # i32[B, T]  position inside its own document
    weight: jax.Array  # f32[B, T]    weight of token t in the loss; 0 for a prompt


@flax.struct.dataclass(kw_only=True)
class PolicyOutput:
    """What the policy says about token t."""

    logits: jax.Array  # f32[..., V]  of token t given the tokens before it
    value: jax.Array  # f32[...]      expected return before token t is emitted
    process: jax.Array  # f32[...]    score (a logit) of the text up to and with token t


@flax.struct.dataclass(kw_only=True)
class KVCache:
    """Keys and values of the tokens read so far: per layer, in chunks."""

    k: tuple[tuple[jax.Array, ...], ...]  # L x chunks x [B, Hkv, S_i, E]
    v: tuple[tuple[jax.Array, ...], ...]
    length: jax.Array  # i32[B]  tokens held, which is the next token's position


@flax.struct.dataclass(kw_only=True)
class Reward:
    """What a response earned. `valid` is False where grading was impossible."""

    outcome: jax.Array  # f32[B]     of the finished response
    process: jax.Array  # f32[B, T]  of the step that token t closes; 0 elsewhere
    token: jax.Array  # f32[B, T]    what the learner is paid for token t
    valid: jax.Array  # bool[B]


@flax.struct.dataclass(kw_only=True)
class StepLabels:
    """Supervision of a reward model, whatever made the labels.

    One for outcomes has a single step_end a row, at its last step, so that process and
    outcome reward are trained from the same record.
    """

    tokens: jax.Array  # i32[B, T]  prompt then response, right-padded with 0
    prompt_length: jax.Array  # i32[B]
    length: jax.Array  # i32[B]     prompt and response together
    step_end: jax.Array  # bool[B, T]  token t closes a step
    label: jax.Array  # f32[B, T]      in [0, 1] where step_end; 0 elsewhere
    weight: jax.Array  # f32[B, T]     0 where not step_end


class NodeEval(NamedTuple):
    """What expanding a leaf returns: DESIGN's search contract."""

    prior: jax.Array  # f32[B, K]    logits over the node's children; -inf is invalid
    value: jax.Array  # f32[B]       of the state the node stands for
    reward: jax.Array  # f32[B]      paid on the edge into the node
    discount: jax.Array  # f32[B]    0 at a terminal node
    # The action of a sibling that is the same child, -1 if there is none. The network
    # finds out when it has drawn the child; such a leaf becomes a visit of its twin.
    twin: jax.Array | None = None  # i32[B]
    cost: jax.Array | None = None  # f32[B]  of this row, e.g. tokens drawn
    reward_tokens: jax.Array | None = None  # f32[B]  read to judge it, besides
    reread_tokens: jax.Array | None = None  # f32[B]  that a draft proposed in vain


class NodeState(NamedTuple):
    """What a guide may look at: M new nodes of each of B problems.

    The path's steps come in order, the node's own last; a step of length 0 is none
    (the root's, and places behind the path). Where a step is a whole attempt
    (Steps.level), D is 0: a guide judges the last attempt alone, as if it were the
    first, and `finished` says that it is complete, though the search may go on.
    """

    prompt_id: jax.Array  # i32[B]  Prompts' own; -1 marks a problem that is none
    tokens: jax.Array  # i32[B, M, D + 1, S]
    logprob: jax.Array  # f32[B, M, D + 1, S]
    length: jax.Array  # i32[B, M, D + 1]
    entropy: jax.Array  # f32[B, M, D + 1]
    finished: jax.Array  # bool[B, M]
    value: jax.Array  # f32[B, M]    of the heads, as in search.pages.StepPage
    process: jax.Array  # f32[B, M]


class Guidance(NamedTuple):
    """A guide's answer."""

    value: jax.Array  # f32[B, M]
    tokens: jax.Array | int = 0  # i32[B, M]  read by a model other than the policy


Guide = Callable[[Params, NodeState], Guidance]


class TrainState(NamedTuple):
    """Arrays only, so that it can be sharded, donated and saved as it is."""

    step: jax.Array  # i32[]
    params: Params
    opt_state: Any
    key: jax.Array  # a typed PRNG key; step keys are fold_in(key, step)


class Spent(NamedTuple):
    """Compute used, in units that every method shares."""

    generated_tokens: jax.Array | float = 0.0
    # Prompt and prefix tokens run through again, and what a draft proposed in vain.
    reread_tokens: jax.Array | float = 0.0
    reward_tokens: jax.Array | float = 0.0  # tokens read by a reward model
    flops: jax.Array | float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        """Elementwise sum of two accounts."""
        return Spent(*(a + b for a, b in zip(self, other)))

"""How the steps behind a node are begun: their first tokens, and the prior over them.

In: the distribution of the token behind a node, and the node's key. Out: the first
tokens of its K children. The rest of a step is drawn when a walk takes it, so all that
is known of it before is here. Prior: Hubert et al. 2021 (Sampled MuZero), where K draws
from the policy weigh 1 / K each.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.rollout.branch import First, drawn_first, likeliest_first
from o1jax.rollout.decode import Draft
from o1jax.rollout.ends import Kind
from o1jax.rollout.sampling import SamplingConfig, draw
from o1jax.search.pages import GUIDES, fold_keys, of_nodes, pick

Level = Literal["step", "token", "solution"]
FirstRule = Literal["draw", "top"]
# Folded into a node's key for the draws of its own step; its children have 0, 1, ...
STEP, PROPOSED = 2**31 - 1, 2**31 - 2


@configurable
@dataclass(frozen=True)
class Steps:
    """How steps are drawn and judged."""

    children: int = 4  # steps that may follow a node
    tokens: int = 16  # a step ends at a step-end or stop token, or when it is so long
    # token: a step is one token, whatever `tokens` says. solution: only a stop token
    # ends it, and the steps behind it are further attempts that see those before.
    level: Level = "step"
    # draw: K independent draws, of prior 1 / K each; top: the K likeliest first tokens
    # with their log-probs, the rest of a step is drawn.
    first: FirstRule = "draw"
    # Where a step of plain text ends, however its tokenizer cuts it; None: at the
    # template's mark.
    ends: Kind | None = field(default=None, metadata={"identity": "if set"})
    # Proposes tokens that the policy checks: the same trees' distribution, sooner where
    # reading a few tokens costs little more than one.
    draft: Draft | None = field(default=None, metadata={"identity": "if set"})
    guide: str = "value"  # value, process, likelihood, certainty or constant
    discount: float = 1.0  # a step
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        for name in ("children", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name, known in (("level", Level), ("first", FirstRule)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}")
        if self.guide not in GUIDES:
            raise ValueError(f"guide must be one of {', '.join(GUIDES)}")
        if self.ends is not None and self.ends not in get_args(Kind):
            raise ValueError(f"ends must be one of {', '.join(get_args(Kind))}")
        if not 0 < self.discount <= 1:
            raise ValueError("discount must be in (0, 1]")

        if self.draft is not None and self.draft.tokens >= self.room:
            raise ValueError(
                f"draft proposes {self.draft.tokens} tokens, but a step has at most "
                f"{self.room}"
            )

    @property
    def room(self) -> int:
        """Tokens of a page."""
        return 1 if self.level == "token" else self.tokens


def step_uniforms(keys: jax.Array, count: int) -> jax.Array:
    """f32[B, M, count]: what the steps of nodes of keys u32[B, M, 2] are drawn with."""
    own = fold_keys(keys, jnp.full(keys.shape[:2], STEP))
    return _uniforms(own, (count,))


def draft_uniforms(keys: jax.Array, count: int) -> jax.Array:
    """f32[B, M, count, 3]: the same where a draft proposes, see rollout/drafted.py."""
    return _uniforms(fold_keys(keys, jnp.full(keys.shape[:2], PROPOSED)), (count, 3))


def _uniforms(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    uniform = lambda key: jax.random.uniform(jax.random.wrap_key_data(key), shape)
    return jax.vmap(jax.vmap(uniform))(keys)


def beginnings(config: Steps, keys: jax.Array, logprobs: jax.Array) -> First:
    """[B, M, K]: of the steps behind nodes of keys u32[B, M, 2].

    logprobs: f32[B * M, V] of the token behind them.
    """
    B, M, _ = keys.shape
    K = config.children
    if config.first == "top":
        first = likeliest_first(logprobs, K)
    else:
        # A child's key gives its first token here, the others when it is taken.
        number = jnp.tile(jnp.arange(K), (B, M))
        below = fold_keys(jnp.repeat(keys, K, axis=1), number)
        uniform = step_uniforms(below, config.room)[..., 0]
        first = drawn_first(logprobs, uniform.reshape(B * M, K), config.sampling)
    return jax.tree.map(lambda x: x.reshape(B, M, *x.shape[1:]), first)


def begun(
    config: Steps,
    prompt_next: jax.Array,
    held: First,
    parent: jax.Array,
    child: jax.Array,
    uniform: jax.Array,
) -> First:
    """[B, M]: first tokens of children [B, M] of nodes `parent`.

    held: of all nodes, [B, N, K]. Further draws at the root (child >= K) are made here,
    from prompt_next f32[B, V] with uniform f32[B, M].
    """
    K = config.children
    held = jax.tree.map(lambda rows: of_nodes(rows, parent), held)
    at = jnp.minimum(child, K - 1)
    token, logprob = pick(held.token, at), pick(held.logprob, at)
    if config.first == "draw":
        further = (parent == 0) & (child >= K)
        draw_one = lambda u: draw(u, prompt_next, config.sampling)
        new = jax.vmap(draw_one, in_axes=1, out_axes=1)(uniform)
        token = jnp.where(further, new, token)
        new_logprob = jnp.take_along_axis(prompt_next, new, axis=-1)
        logprob = jnp.where(further, new_logprob, logprob)
    return First(token, logprob, held.entropy)


def beginnings_prior(config: Steps, first: First) -> jax.Array:
    """f32[B, M, K]: logits over the steps that may follow."""
    if config.first == "top":
        return first.logprob
    if config.room > 1 and config.sampling.temperature > 0:
        return jnp.zeros_like(first.logprob)
    # The first token tells the step, so twins are known before they are drawn.
    same = first.token[..., :, None] == first.token[..., None, :]
    earlier = jnp.any(jnp.tril(same, -1), axis=-1)
    return jnp.where(earlier, -jnp.inf, jnp.log(jnp.sum(same, axis=-1)))

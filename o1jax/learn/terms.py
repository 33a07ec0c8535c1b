"""The terms of a policy-gradient loss: each one a config and a function of tokens.

In: what the policy says now (learn/reading.py) and what was known (Experience). Out:
losses f32[B, T] and metrics f32[B, T], 0 off the response; no mean is taken here. A new
term is a dataclass with a `loss`, and its name in an experiment file.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.learn import kl
from o1jax.learn.experience import Experience
from o1jax.learn.reading import Reading

Loss = tuple[jax.Array, dict[str, jax.Array]]


class Term(Protocol):
    def loss(self, now: Reading, batch: Experience) -> Loss: ...


@configurable
@dataclass(frozen=True)
class Reinforce:
    """-A_t log p_t: the gradient of the expected return, on-policy. Williams 1992.

    With advantages that are never negative it is cloning weighted by them.
    """

    def loss(self, now: Reading, batch: Experience) -> Loss:
        return -batch.advantage * now.logprob, {}


@configurable
@dataclass(frozen=True)
class Surrogate:
    """PPO's clipped surrogate, with q the policy that sampled.

        -min(s_t A_t, clip(s_t, 1 - clip_low, 1 + clip_high) A_t),   s_t = p_t / q_t

    Schulman et al. 2017, arXiv 1707.06347. On-policy its gradient is Reinforce's;
    afterwards the states are still those of q, a bias that the clipping bounds.
    clip_high > clip_low: DAPO, arXiv 2503.14476. dual_clip c > 1: where A_t < 0 the
    loss is at most -c A_t (arXiv 1912.09729). ratio "response": s is the geometric mean
    over the response, as in GSPO (arXiv 2507.18071), with much narrower clips.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0  # 0: none
    ratio: Literal["token", "response"] = "token"

    def __post_init__(self) -> None:
        if not 0 < self.clip_low <= 1:
            raise ValueError("clip_low must be above 0 and at most 1")
        if not self.clip_high > 0:
            raise ValueError("clip_high must be above 0")
        if self.dual_clip and not self.dual_clip > 1:
            raise ValueError("dual_clip must be 0 or above 1")
        if self.ratio not in ("token", "response"):
            raise ValueError("ratio must be token or response")

    def loss(self, now: Reading, batch: Experience) -> Loss:
        A, log_ratio = batch.advantage, now.logprob - batch.logprob
        if self.ratio == "response":
            # 0 off the response, so the sum is that of its tokens. The value is the
            # mean's; the gradient comes through token t, once for each token.
            tokens = jnp.maximum(batch.length - batch.prompt_length, 1)[:, None]
            mean = jnp.sum(log_ratio, axis=1, keepdims=True) / tokens
            log_ratio = jax.lax.stop_gradient(mean - now.logprob) + now.logprob
        ratio = jnp.exp(log_ratio)
        clipped = jnp.clip(ratio, 1 - self.clip_low, 1 + self.clip_high)
        loss = jnp.maximum(-A * ratio, -A * clipped)
        cut = -A * clipped > -A * ratio
        if self.dual_clip:
            most = -A * self.dual_clip
            cut = cut | ((A < 0) & (loss > most))
            loss = jnp.where(A < 0, jnp.minimum(loss, most), loss)
        return loss, {"clip_fraction": cut.astype(jnp.float32), "ratio": ratio}


@configurable
@dataclass(frozen=True)
class Divergence:
    """batch.kl_coef times an estimate of KL(policy || reference), see learn/kl.py."""

    kind: kl.Kind = "k3"

    def __post_init__(self) -> None:
        if self.kind not in get_args(kl.Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(kl.Kind))}")

    def loss(self, now: Reading, batch: Experience) -> Loss:
        estimate = kl.divergence(now.logprob, batch.ref_logprob, self.kind)
        seen = kl.divergence(now.logprob, batch.ref_logprob, "k3")
        return batch.kl_coef[:, None] * estimate, {"kl_reference": seen}


@configurable
@dataclass(frozen=True)
class Entropy:
    """-coef H(p_t): keeps the policy undecided, at the states that it visits."""

    coef: float = 0.01

    def __post_init__(self) -> None:
        if not abs(self.coef) < float("inf"):
            raise ValueError("coef must be finite")

    def loss(self, now: Reading, batch: Experience) -> Loss:
        return -self.coef * now.entropy, {}


@configurable
@dataclass(frozen=True)
class Critic:
    """coef (v_t - target_t)^2 / 2, so that the critic foretells the return.

    clip > 0: the larger of this and the loss of v kept within `clip` of what the critic
    said before the round, as PPO's reference code does.
    """

    coef: float = 0.5
    clip: float = 0.0  # 0: none

    def __post_init__(self) -> None:
        if not 0 < self.coef < float("inf"):
            raise ValueError("coef must be finite and above 0")
        if not self.clip >= 0:
            raise ValueError("clip must be at least 0")

    def loss(self, now: Reading, batch: Experience) -> Loss:
        error = (now.value - batch.target) ** 2
        loss = error
        if self.clip:
            near = batch.value + jnp.clip(
                now.value - batch.value, -self.clip, self.clip
            )
            loss = jnp.maximum(error, (near - batch.target) ** 2)
        return self.coef * loss / 2, {"value_error": error}

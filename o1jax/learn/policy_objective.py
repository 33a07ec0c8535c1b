"""Policy gradients: an objective is a signal, terms, a reduction and a truncation.

In: a policy, the four choices as one config. Out: an Objective for learn/update.py, and
`build_experience`, which makes the batch that it reads from graded trajectories. A
paper is a line in RECIPES; an experiment file names the choices itself.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

import chex
import jax
import jax.numpy as jnp

from o1jax.config import configurable
from o1jax.learn.advantage import SIGNALS, SignalInput, whitened
from o1jax.learn.experience import Experience
from o1jax.learn.kl import KLControl, divergence
from o1jax.learn.objectives import Objective, Ratio, Sums
from o1jax.learn.reading import LOWEST, Distribution, read_responses
from o1jax.learn.reduction import REDUCTIONS, TRUNCATIONS
from o1jax.learn.terms import Critic, Divergence, Reinforce, Surrogate, Term
from o1jax.policy.policy import Policy
from o1jax.types import Params, Trajectory


@configurable
@dataclass(frozen=True)
class PolicyGradient:
    """The four choices of an objective, and their numbers."""

    signal: str = "leave_one_out"  # of advantage.SIGNALS
    terms: tuple[Term, ...] = (Reinforce(),)
    reduction: str = "sum"  # of reduction.REDUCTIONS
    truncation: str = "keep"  # of reduction.TRUNCATIONS
    gamma: float = 1.0  # discount a token
    lam: float = 1.0  # of signal "gae"
    whiten: bool = False  # advantages to mean 0 and deviation 1 over the batch's tokens
    kl: KLControl = field(default_factory=KLControl)

    def __post_init__(self) -> None:
        _one_of("signal", self.signal, SIGNALS)
        _one_of("reduction", self.reduction, REDUCTIONS)
        _one_of("truncation", self.truncation, TRUNCATIONS)
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1")
        if not self.terms:
            raise ValueError("terms must not be empty")
        if self.signal == "gae" and not self.has_critic:
            raise ValueError('signal "gae" needs a Critic among the terms')

    @property
    def has_critic(self) -> bool:
        return any(isinstance(term, Critic) for term in self.terms)

    @property
    def has_divergence(self) -> bool:
        return any(isinstance(term, Divergence) for term in self.terms)

    @property
    def has_reference(self) -> bool:
        """Whether log-probs of a reference are read, in the loss or the reward."""
        return self.has_divergence or self.kl.coef > 0


def policy_gradient_objective(
    policy: Policy,
    config: PolicyGradient,
    *,
    distribution: Distribution = jax.nn.log_softmax,
    critic: Policy | None = None,
) -> Objective:
    """The loss over `Experience`.

    distribution: the one that the responses were sampled from, see learn/reading.py.
    critic: a network of its own; then params are {"policy": ..., "critic": ...}.

    Metrics are means over the tokens that count: entropy; kl_sampler,
    KL(sampler || policy) by k3; logprob_gap, |log p - log q|, which before the first
    update of a round is the gap between sampler and trainer; advantage; value; and the
    terms' own. `loss` is what is minimised.
    """

    def weight(batch: Experience) -> jax.Array:
        return jnp.sum(batch.share)

    def total(params: Params, batch: Experience) -> tuple[jax.Array, Sums]:
        B, T = batch.tokens.shape
        chex.assert_shape([batch.logprob, batch.advantage, batch.weight], (B, T))
        read = read_responses(
            policy,
            params,
            batch.tokens,
            batch.prompt_length,
            batch.length,
            distribution=distribution,
            critic=critic,
        )
        gap = read.logprob - batch.logprob
        seen = {
            "entropy": read.entropy,
            "kl_sampler": jnp.expm1(gap) - gap,
            "logprob_gap": jnp.abs(gap),
            "advantage": batch.advantage,
            "value": read.value,
        }
        loss = jnp.float32(0)
        for term in config.terms:
            of_token, more = term.loss(read, batch)
            loss += jnp.sum(batch.weight * of_token)
            seen |= more
        counts = batch.weight > 0
        tokens = jnp.sum(counts, dtype=jnp.float32)
        mean = lambda x: Ratio(jnp.sum(x, where=counts), tokens)
        return loss, {"loss": loss} | {name: mean(x) for name, x in seen.items()}

    return Objective(weight, total)


def build_experience(
    config: PolicyGradient,
    trajectory: Trajectory,
    reward: jax.Array,
    *,
    samples: int,
    max_tokens: int,
    step_end: jax.Array | None = None,
    ref_logprob: jax.Array | None = None,
    value: jax.Array | None = None,
    keep: jax.Array | None = None,
    kl_coef: float | jax.Array | None = None,
) -> Experience:
    """The batch of graded responses; jittable.

    Args:
      trajectory: B = Q * samples rows, the responses to a question one behind the
        other. A row without a response is padding.
      reward: f32[B, T], paid for token t.
      samples: responses a question.
      max_tokens: the most that a response may have, of reduction "constant".
      step_end: bool[B, T], of signal "process".
      ref_logprob: f32[B, T], if config.has_reference.
      value: f32[B, T], the critic's; default trajectory.value.
      keep: bool[B], rows that count in the loss, such as those that filters left. The
        others still count in their group's baseline. Default: all.
      kl_coef: now; default config.kl.coef.
    """
    B, T = trajectory.tokens.shape
    chex.assert_shape(reward, (B, T))
    chex.assert_type(reward, jnp.float32)
    if B % samples:
        raise ValueError(f"samples ({samples}) must divide the rows ({B})")
    if config.has_reference and ref_logprob is None:
        raise ValueError("ref_logprob must be given: the config holds a reference")
    mask = trajectory.response_mask
    on = lambda x: jnp.where(mask, x, 0.0)
    none = jnp.zeros((B, T), jnp.float32)
    value = on(trajectory.value if value is None else value)
    step_end = jnp.zeros((B, T), bool) if step_end is None else step_end
    kl_coef = config.kl.coef if kl_coef is None else kl_coef
    logprob = on(jnp.maximum(trajectory.logprob, LOWEST))
    reference = on(none if ref_logprob is None else jnp.maximum(ref_logprob, LOWEST))
    if config.has_reference and not config.has_divergence:
        reward = reward - kl_coef * divergence(logprob, reference, "k1")
    grouped = lambda x: x.reshape(-1, samples, T)
    arrays = map(grouped, (on(reward), value, mask, step_end))
    signal = SignalInput(*arrays, config.gamma, config.lam)
    advantage = SIGNALS[config.signal](signal).reshape(B, T)
    counts = TRUNCATIONS[config.truncation](trajectory.finished)
    counts = counts if keep is None else counts & keep
    counted = mask & counts[:, None]
    weight, share = REDUCTIONS[config.reduction](counted, max_tokens)
    target = none
    if config.has_critic:  # the lambda return, whatever the signal
        target = SIGNALS["gae"](signal).reshape(B, T) + value
    if config.whiten:
        advantage = whitened(advantage, counted)
    batch = Experience(
        tokens=trajectory.tokens,
        prompt_length=trajectory.prompt_length,
        length=trajectory.length,
        logprob=logprob,
        ref_logprob=reference,
        value=value,
        advantage=advantage,
        target=target,
        weight=weight,
        share=share,
        kl_coef=jnp.full(B, kl_coef, jnp.float32),
    )
    return jax.lax.stop_gradient(batch)


def _one_of(field: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        remark = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{field} must be one of {', '.join(known)}, not {name!r}{remark}"
        )


# What the papers chose; their clips and coefficients, not their learning rates.
RECIPES: dict[str, PolicyGradient] = {
    "reinforce": PolicyGradient("batch_mean"),
    "rloo": PolicyGradient("leave_one_out"),
    "ppo": PolicyGradient("gae", (Surrogate(), Critic(0.5, 0.2)), "token", lam=0.95),
    "grpo": PolicyGradient(
        "group", (Surrogate(), Divergence("k3")), "response", kl=KLControl(0.04)
    ),
    "dr_grpo": PolicyGradient("centred", (Surrogate(),), "constant"),
    "dapo": PolicyGradient("group", (Surrogate(0.2, 0.28),), "token", "mask"),
    "gspo": PolicyGradient(
        "group", (Surrogate(3e-4, 4e-4, ratio="response"),), "response"
    ),
}

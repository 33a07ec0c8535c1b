"""Teaching the policy what a tree search made of it.

In: for each node of a tree the text in front of it, its children's steps and the share
of each in the search's policy (search.targets.PolicyTargets). Out: an Objective, the
cross-entropy of a node's target w with the policy p over its steps:

    everything   -sum_c w_c log p(c) - rest log(1 - sum_c p(c))
    children     -sum_c w_c log(p(c) / sum_c' p(c'))

The first has its minimum where the policy is the target; without a `rest` it is the
weighted log-likelihood of expert iteration (Anthony et al. 2017, arXiv 1705.08439). The
second compares the children only, as Sampled MuZero does (arXiv 2104.06303), and leaves
it open what else the policy writes. The value head may learn the node's worth besides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.config import configurable
from o1jax.learn.objectives import Objective, Ratio, Sums
from o1jax.learn.reading import Distribution, read_responses
from o1jax.policy.policy import Policy
from o1jax.types import Params

ALL = 1 - 1e-6  # a larger part of the policy's mass is no longer told from all of it


@flax.struct.dataclass(kw_only=True)
class DistilBatch:
    """M nodes with at most K children; build it with `distil_batch`."""

    tokens: jax.Array  # i32[M, K, T]  prompt, steps up to the node, the child's step
    prefix_length: jax.Array  # i32[M]  tokens in front of the children's steps
    length: jax.Array  # i32[M, K]     with the step; prefix_length where no child is
    target: jax.Array  # f32[M, K]     of the child's step; 0 where no child is
    rest: jax.Array  # f32[M]          of steps that are no child
    value: jax.Array  # f32[M]         of the node, for the value head
    weight: jax.Array  # f32[M]


@configurable
@dataclass(frozen=True)
class DistilConfig:
    """Over what the policy is compared with the target."""

    over: Literal["everything", "children"] = "everything"
    value_coef: float = 0.0  # of (v - value)^2 / 2 in front of the children

    def __post_init__(self) -> None:
        if self.over not in ("everything", "children"):
            raise ValueError("over must be everything or children")
        if not 0 <= self.value_coef < float("inf"):
            raise ValueError("value_coef must be finite and at least 0")


def distil_batch(
    prefixes: Sequence[Sequence[int]],
    steps: Sequence[Sequence[Sequence[int]]],
    target: np.ndarray,
    rest: np.ndarray,
    *,
    value: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    length: int = 0,
) -> DistilBatch:
    """The batch of M nodes as numpy arrays.

    Args:
      prefixes: the tokens of each node's text, its prompt included.
      steps: those of each of its children, as many as the node has.
      target: f32[M, K]; rest: f32[M]. PolicyTargets.weight and .rest.
      value: f32[M], 0 if left out; weight: f32[M], 1 if left out.
      length: of a row; 0: as long as the longest needs.
    """
    M, K = target.shape
    sizes = np.repeat(np.array([[len(p)] for p in prefixes], np.int32), K, axis=1)
    for i, children in enumerate(steps):
        if not 0 < len(children) <= K:
            raise ValueError(f"node {i} has {len(children)} children, not 1 to {K}")
        if not all(map(len, children)):
            raise ValueError(f"node {i} has a child without a token")
        sizes[i, : len(children)] += [len(step) for step in children]
    T = length or int(sizes.max())
    tokens = np.zeros((M, K, T), np.int32)
    for i, (prefix, children) in enumerate(zip(prefixes, steps, strict=True)):
        if sizes[i].max() > T:
            raise ValueError(f"node {i} takes {sizes[i].max()} tokens of {T}")
        tokens[i, :, : len(prefix)] = prefix
        for j, step in enumerate(children):
            tokens[i, j, len(prefix) : sizes[i, j]] = step
    array = lambda x, default: np.asarray(
        np.full(M, default) if x is None else x, np.float32
    )
    return DistilBatch(
        tokens=tokens,
        prefix_length=np.array([len(prefix) for prefix in prefixes], np.int32),
        length=sizes,
        target=np.asarray(target, np.float32),
        rest=np.asarray(rest, np.float32),
        value=array(value, 0.0),
        weight=array(weight, 1.0),
    )


def distillation(
    policy: Policy,
    config: DistilConfig,
    *,
    distribution: Distribution = jax.nn.log_softmax,
) -> Objective:
    """The loss over `DistilBatch`, a mean over nodes by their weight.

    Metrics: target_kl, the part of the loss that learning can remove; covered, the
    policy's probability of all children; value_error if the value head learns.
    """

    def weight(batch: DistilBatch) -> jax.Array:
        return jnp.sum(batch.weight)

    def total(params: Params, batch: DistilBatch) -> tuple[jax.Array, Sums]:
        M, K, T = batch.tokens.shape
        chex.assert_shape([batch.length, batch.target], (M, K))
        chex.assert_shape([batch.rest, batch.weight, batch.prefix_length], (M,))
        first = jnp.repeat(batch.prefix_length, K)
        rows = (batch.tokens.reshape(M * K, T), first, batch.length.reshape(M * K))
        read = read_responses(policy, params, *rows, distribution=distribution)
        step = jnp.sum(read.logprob, axis=1).reshape(M, K)
        child = batch.length > batch.prefix_length[:, None]
        covered = jax.nn.logsumexp(step, axis=1, where=child)
        if config.over == "children":
            known = jnp.maximum(jnp.sum(batch.target, axis=1), 1e-9)
            target = batch.target / known[:, None]
            rest = jnp.zeros_like(batch.rest)
            logp = step - covered[:, None]
            uncovered = jnp.zeros_like(covered)
        else:
            target, rest, logp = batch.target, batch.rest, step
            uncovered = jnp.log1p(-jnp.minimum(jnp.exp(covered), ALL))
        loss = -jnp.sum(target * logp, axis=1, where=child) - rest * uncovered
        entropy = -jnp.sum(_xlogx(target), axis=1) - _xlogx(rest)
        metrics = {"target_kl": loss - entropy, "covered": jnp.exp(covered)}
        if config.value_coef:
            at = batch.prefix_length[:, None]
            value = read.value.reshape(M, K, T)[:, 0]
            error = (jnp.take_along_axis(value, at, axis=1)[:, 0] - batch.value) ** 2
            loss += config.value_coef * error / 2
            metrics["value_error"] = error
        loss = jnp.sum(batch.weight * loss)
        mean = lambda x: Ratio(jnp.sum(batch.weight * x), jnp.sum(batch.weight))
        return loss, {"loss": loss} | {name: mean(x) for name, x in metrics.items()}

    return Objective(weight, total)


def _xlogx(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x * jnp.log(jnp.maximum(x, 1e-30)), 0.0)

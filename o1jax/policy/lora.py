"""Low-rank adapters: a policy of which only a small part learns.

In: a policy. Out: a Policy again, of params {"base": the first one's, "lora": factors}.
Each adapted kernel, seen as a matrix, is W + alpha / rank * A B, and no gradient goes
to W. It is the reference too: `policy.forward(params["base"], ...)` of the first policy
needs no second copy. Hu et al. 2021, arXiv 2106.09685. (Libraries for linen find a
kernel by being handed it itself, and ours are reshaped first.)
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from o1jax.config import configurable
from o1jax.parallel.sharding import TRANSFORMER_RULES, Rules
from o1jax.policy.policy import Policy
from o1jax.types import Params

# Kernel of a block -> how many of its axes, behind that of the layers, are inputs.
KERNELS = {
    "attention/qkv": 1,  # [D, K, G + 2, E]
    "attention/o": 3,  # [K, G, E, D]
    "mlp/gate_up": 1,  # [D, 2, F]
    "mlp/down": 1,  # [F, D]
}

# The factors are small: every device has them whole.
LORA_RULES: Rules = ((r"(^|/)lora/", PartitionSpec()), *TRANSFORMER_RULES)


@configurable
@dataclass(frozen=True)
class LoraConfig:
    """Which kernels are adapted, and how strongly."""

    rank: int = 8
    alpha: float = 16.0
    kernels: tuple[str, ...] = tuple(KERNELS)
    value: bool = False  # the value head learns too, the whole of it

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError("rank must be at least 1")
        if not 0 < self.alpha < float("inf"):
            raise ValueError("alpha must be finite and above 0")
        for name in self.kernels:
            if name not in KERNELS:
                raise ValueError(
                    f"kernels must be of {', '.join(KERNELS)}, not {name!r}"
                )
        if not self.kernels:
            raise ValueError("kernels must not be empty")


def lora_policy(policy: Policy, config: LoraConfig) -> Policy:
    """The policy with adapters; jit `init`, or make params from old ones by `adapt`.

    In front of a decoding loop `unstack` merges once. Every function also takes params
    that are merged already.
    """

    def init(key: jax.Array) -> Params:
        base, factors = jax.random.split(key)
        return adapt(policy.init(base), factors, config)

    whole = lambda params: merge(params, config)
    extend, read = policy.extend, policy.read
    return Policy(
        init=init,
        unstack=lambda params: policy.unstack(whole(params)),
        forward=lambda params, *a, **k: policy.forward(whole(params), *a, **k),
        start=lambda params, *a, **k: policy.start(whole(params), *a, **k),
        step=lambda params, *a, **k: policy.step(whole(params), *a, **k),
        extend=extend and (lambda params, *a, **k: extend(whole(params), *a, **k)),
        read=read and (lambda params, *a, **k: read(whole(params), *a, **k)),
    )


def adapt(base: Params, key: jax.Array, config: LoraConfig) -> Params:
    """Params of `lora_policy` around a policy's own (layers stacked)."""
    return {"base": base, "lora": adapters(base, key, config)}


def adapters(base: Params, key: jax.Array, config: LoraConfig) -> Params:
    """What learns. B is 0, so that the policy is the same at first."""
    lora: Params = {}
    if config.value:  # a copy: what learns is donated, and the base is not
        lora["value"] = jax.tree.map(jnp.copy, base["value"])
    for i, name in enumerate(config.kernels):
        part, kernel = name.split("/")
        shape = base["layers"][part][kernel].shape
        layers, inputs = shape[0], math.prod(shape[1 : 1 + KERNELS[name]])
        outputs = math.prod(shape) // layers // inputs
        own = jax.random.fold_in(key, i)
        A = jax.random.normal(own, (layers, inputs, config.rank)) * inputs**-0.5
        B = jnp.zeros((layers, config.rank, outputs))
        lora.setdefault(part, {})[kernel] = {"a": A, "b": B}
    return lora


def merge(params: Params, config: LoraConfig) -> Params:
    """Plain params of the first policy, such as to export; merged ones as they are."""
    if "lora" not in params:
        return params
    base = jax.lax.stop_gradient(params["base"])
    layers, lora = dict(base["layers"]), dict(params["lora"])
    value = lora.pop("value", base["value"])
    for part, kernels in lora.items():
        layers[part] = dict(layers[part])
        for name, of in kernels.items():
            W = layers[part][name]
            change = config.alpha / config.rank * (of["a"] @ of["b"])
            layers[part][name] = W + change.reshape(W.shape).astype(W.dtype)
    return base | {"layers": layers, "value": value}


def trainable(params: Params) -> Params:
    """bools for learn.optimizer.build_optimizer: the adapters only."""
    of_part = lambda part: jax.tree.map(lambda _: part == "lora", params[part])
    return {part: of_part(part) for part in params}

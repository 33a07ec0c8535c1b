"""The config.json of a published model as a PolicyConfig, and back for plain ones.

In: the JSON as transformers writes it, of version 5 (`rope_parameters`, `layer_types`)
or before (`rope_theta`, `rope_scaling`, patterns of windows). Out: a PolicyConfig, or a
ValueError that names the key which asks for something that o1jax does not compute.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from o1jax.policy.family import Family, RopeScaling
from o1jax.policy.policy import PolicyConfig

Json = Mapping[str, Any]
Windowed = Callable[[Json, int], bool]  # (config, layer) -> whether it has a window


class Kind(NamedTuple):
    """What a model_type means where the config itself does not say."""

    tied: bool = False
    head_width: int = 0  # 0: hidden_size / num_attention_heads
    qk_norm: bool = False
    biases: tuple[bool, bool] | None = None  # of qkv and o; None: attention_bias
    gemma: bool = False  # norms by 1 + w and behind, scaled embeddings, query scale
    window: Windowed = lambda config, layer: False
    theta: float = 10_000.0
    window_theta: float = 0.0


def _qwen_window(config: Json, layer: int) -> bool:
    used = config.get("use_sliding_window", False)
    return used and layer >= config.get("max_window_layers", 28)


def _gemma3_window(config: Json, layer: int) -> bool:
    return bool((layer + 1) % config.get("sliding_window_pattern", 6))


KINDS = {
    "llama": Kind(),
    "mistral": Kind(biases=(False, False), window=lambda config, layer: True),
    "qwen2": Kind(biases=(True, False), window=_qwen_window),
    "qwen3": Kind(qk_norm=True, head_width=128, window=_qwen_window),
    "gemma2": Kind(
        tied=True,
        head_width=256,
        gemma=True,
        window=lambda config, layer: layer % 2 == 0,
    ),
    "gemma3_text": Kind(
        tied=True,
        head_width=256,
        qk_norm=True,
        gemma=True,
        window=_gemma3_window,
        theta=1e6,
        window_theta=1e4,
    ),
}
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu"}

# Keys that change what is computed, and the one value with which o1jax computes it.
ONLY = {
    "mlp_bias": False,
    "quantization_config": None,
    "use_bidirectional_attention": False,
    "partial_rotary_factor": 1.0,
}


def policy_config(config: Json) -> PolicyConfig:
    """The policy of a config.json. ValueError names the key that stands against it."""
    kind = KINDS[model_type(config)]
    for key, value in ONLY.items():
        if config.get(key, value) not in (value, None):
            raise ValueError(f"{key} = {config[key]!r} is not supported")
    layers, heads = (
        _whole(config, "num_hidden_layers"),
        _whole(config, "num_attention_heads"),
    )
    width = _whole(config, "hidden_size")
    head_width = config.get("head_dim") or kind.head_width or width // heads
    windows = _windows(config, kind, layers)
    theta, scaling, window_theta = _rope(config, kind, any(windows))
    bias = config.get("attention_bias", False)
    family = Family(
        qkv_bias=kind.biases[0] if kind.biases else bias,
        o_bias=kind.biases[1] if kind.biases else bias,
        activation=_activation(config, kind),
        unit_norms=kind.gemma,
        post_norms=kind.gemma,
        embed_scale=kind.gemma,
        query_scale=_query_scale(config, kind, head_width),
        score_cap=config.get("attn_logit_softcapping") or 0.0,
        logit_cap=config.get("final_logit_softcapping") or 0.0,
        windows=windows if any(windows) else (),
        window_theta=window_theta,
        rope=scaling,
    )
    return PolicyConfig(
        vocab=_whole(config, "vocab_size"),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=head_width,
        ff=_whole(config, "intermediate_size"),
        rope_theta=theta,
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        qk_norm=kind.qk_norm,
        tied=config.get("tie_word_embeddings", kind.tied),
        family=None if family == Family() else family,
    )


def model_type(config: Json) -> str:
    """The key of KINDS that a config.json is of."""
    named = config.get("model_type")
    if named is None and config.get("architectures"):
        named = config["architectures"][0].removesuffix("ForCausalLM").lower()
        named = {"gemma3": "gemma3_text"}.get(named, named)
    if named not in KINDS:
        raise ValueError(
            f"model_type {named!r} is none that o1jax knows: {', '.join(KINDS)}"
        )
    return named


def plain_config(policy: PolicyConfig) -> dict[str, Any]:
    """The config.json of a policy made here: Llama's, or Qwen3's with query norms."""
    if policy.family is not None:
        raise ValueError("family is set: the config.json of its model is needed")
    kind = "qwen3" if policy.qk_norm else "llama"
    return {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "attention_bias": False,
        "hidden_act": "silu",
        "head_dim": policy.head_width or policy.width // policy.heads,
        "hidden_size": policy.width,
        "intermediate_size": policy.ff,
        "num_attention_heads": policy.heads,
        "num_hidden_layers": policy.layers,
        "num_key_value_heads": policy.kv_heads or policy.heads,
        "rms_norm_eps": policy.norm_eps,
        "rope_theta": policy.rope_theta,
        "tie_word_embeddings": policy.tied,
        "vocab_size": policy.vocab,
    }


def _whole(config: Json, key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} = {value!r} is not a positive number")
    return value


def _activation(config: Json, kind: Kind) -> str:
    # Gemma's old hidden_act says gelu and was read as its tanh form.
    key = "hidden_activation" if kind.gemma else "hidden_act"
    name = config.get(key) or ("gelu_pytorch_tanh" if kind.gemma else "silu")
    if name not in ACTIVATIONS:
        raise ValueError(f"{key} = {name!r} is not supported")
    return ACTIVATIONS[name]


def _query_scale(config: Json, kind: Kind, head_width: int) -> float:
    scalar = config.get("query_pre_attn_scalar", 256) if kind.gemma else head_width
    return 0.0 if scalar == head_width else scalar**-0.5


def _windows(config: Json, kind: Kind, layers: int) -> tuple[int, ...]:
    size = config.get("sliding_window", 4096 if kind.gemma else None) or 0
    if types := config.get("layer_types"):
        known = {"full_attention": 0, "sliding_attention": size}
        for name in types:
            if name not in known:
                raise ValueError(f"layer_types: {name!r} is not supported")
        if len(types) != layers:
            raise ValueError(
                f"layer_types has {len(types)} entries for {layers} layers"
            )
        return tuple(known[name] for name in types)
    return tuple(size if kind.window(config, i) else 0 for i in range(layers))


def _rope(
    config: Json, kind: Kind, windowed: bool
) -> tuple[float, RopeScaling | None, float]:
    """(theta, scaling, theta of layers with a window or 0)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    near = {}
    if "full_attention" in rope or "sliding_attention" in rope:
        near, rope = (
            rope.get("sliding_attention") or {},
            rope.get("full_attention") or {},
        )
    theta = rope.get("rope_theta") or config.get("rope_theta") or kind.theta
    if not kind.window_theta or not windowed:
        return float(theta), _scaling(rope, config, theta), 0.0
    if _scaling(near, config, theta):
        raise ValueError("rope_parameters: layers with a window have a scaling too")
    own = near.get("rope_theta") or config.get("rope_local_base_freq")
    return float(theta), _scaling(rope, config, theta), float(own or kind.window_theta)


def _scaling(rope: Json, config: Json, theta: float) -> RopeScaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("partial_rotary_factor is not supported")
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise ValueError(f"rope_type {kind!r} is not supported")
    longest = config.get("max_position_embeddings")
    original = rope.get("original_max_position_embeddings") or longest
    factor = rope.get("factor") or longest / original
    if kind == "linear":
        return RopeScaling("linear", float(factor))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            float(factor),
            original,
            low=float(rope["low_freq_factor"]),
            high=float(rope["high_freq_factor"]),
        )
    return RopeScaling(
        "yarn",
        float(factor),
        original,
        fast=float(rope.get("beta_fast") or 32),
        slow=float(rope.get("beta_slow") or 1),
        whole=rope.get("truncate", True),
        amplitude=_amplitude(rope, factor),
    )


def _amplitude(rope: Json, factor: float) -> float:
    """What yarn multiplies cosines and sines by."""
    if (given := rope.get("attention_factor")) is not None:
        return float(given)
    growth = lambda by: 0.1 * by * math.log(factor) + 1 if factor > 1 else 1.0
    by, all_by = rope.get("mscale"), rope.get("mscale_all_dim")
    return growth(by) / growth(all_by) if by and all_by else growth(1.0)

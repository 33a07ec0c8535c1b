"""What published families of decoders do otherwise than the plain one.

In: a Family, the one field of a PolicyConfig that a policy made here leaves empty. Out:
options that attention and the blocks read. Rotary angles stretched to longer text:
linear (Chen et al. 2023, arXiv 2306.15595), yarn (Peng et al. 2023, arXiv 2309.00071),
llama3 (Grattafiori et al. 2024, arXiv 2407.21783). Soft caps, windows and norms behind
the parts: Gemma 2 (arXiv 2408.00118) and 3 (arXiv 2503.19786).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from o1jax.config import configurable


@configurable
@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are changed for text longer than was first trained on."""

    kind: Literal["linear", "llama3", "yarn"] = "linear"
    factor: float = 1.0
    original: int = 0  # tokens of the first training: llama3 and yarn
    low: float = 1.0  # turns within these: slower ones are divided (llama3)
    high: float = 4.0  # and faster ones left (llama3)
    fast: float = 32.0  # the same for yarn
    slow: float = 1.0
    whole: bool = True  # the dimensions between which yarn blends are rounded
    amplitude: float = 1.0  # of cosines and sines (yarn's attention factor)

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3", "yarn"):
            raise ValueError(f"kind is {self.kind!r}; choose linear, llama3 or yarn")
        if self.factor < 1:
            raise ValueError("factor must be at least 1")
        if self.kind != "linear" and self.original < 1:
            raise ValueError(f"original must be positive for kind {self.kind!r}")
        if not 0 < self.low < self.high:
            raise ValueError("low must be above 0 and below high")
        if not 0 < self.slow < self.fast:
            raise ValueError("slow must be above 0 and below fast")
        if self.amplitude <= 0:
            raise ValueError("amplitude must be positive")


@configurable
@dataclass(frozen=True)
class Family:
    """Options of published decoders. With none of them set, it is the plain one."""

    qkv_bias: bool = False
    o_bias: bool = False
    activation: Literal["silu", "gelu"] = "silu"  # gelu is the one by tanh
    unit_norms: bool = False  # norms scale by 1 + w instead of w
    post_norms: bool = False  # attention and feed-forward have a norm behind them too
    embed_scale: bool = False  # embeddings are multiplied by sqrt(width)
    query_scale: float = 0.0  # 0: head_width ** -0.5
    score_cap: float = 0.0  # scores s of attention become cap * tanh(s / cap); 0: not
    logit_cap: float = 0.0
    windows: tuple[int, ...] = ()  # tokens each layer sees, 0: all; (): all layers all
    window_theta: float = 0.0  # rope_theta, unscaled, of layers with a window; 0: same
    rope: RopeScaling | None = None

    def __post_init__(self) -> None:
        if self.activation not in ("silu", "gelu"):
            raise ValueError(f"activation is {self.activation!r}; choose silu or gelu")
        for name in ("query_scale", "score_cap", "logit_cap", "window_theta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if any(window < 0 for window in self.windows):
            raise ValueError("windows must not be negative")


def frequencies(
    width: int, theta: float, scaling: RopeScaling | None = None
) -> np.ndarray:
    """Angles f32[width / 2] that a token's pairs are turned by at each position."""
    half = width // 2
    plain = theta ** (-np.arange(half) / half)
    if scaling is None:
        return plain.astype(np.float32)
    slowed = plain / scaling.factor
    if scaling.kind == "linear":
        keep = np.zeros(half)
    elif scaling.kind == "llama3":
        turns = scaling.original * plain / (2 * math.pi)  # in the first training's text
        keep = (turns - scaling.low) / (scaling.high - scaling.low)
    else:
        keep = 1 - _ramp(half, theta, scaling)
    keep = np.clip(keep, 0, 1)
    return (keep * plain + (1 - keep) * slowed).astype(np.float32)


def _ramp(half: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """0 where a pair turns at least `fast` times in the first text, 1 from `slow` on.

    Linear in the pair's number between, as yarn's code has it (its paper: in turns).
    """

    def pair(turns: float) -> float:
        """The pair that makes so many turns in the first training's text."""
        wave = scaling.original / (turns * 2 * math.pi)
        return half * math.log(wave) / math.log(theta)

    low, high = pair(scaling.fast), pair(scaling.slow)
    if scaling.whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    return (np.arange(half) - low) / (high - low if high != low else 1e-3)

"""The size and numerics of a policy, as an experiment file sets them.

In: fields. Out: a frozen record, checked: bad values are named in one line.
"""

from dataclasses import dataclass, field
from typing import Literal

from o1jax.config import configurable
from o1jax.policy.family import Family


@configurable
@dataclass(frozen=True)
class PolicyConfig:
    """Size and numerics of a decoder-only transformer."""

    vocab: int = 0  # 0: as many as the tokenizer has pieces
    width: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 0  # 0: as many as heads
    head_width: int = 0  # 0: width / heads
    ff: int = 256
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    qk_norm: bool = False
    tied: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Literal["none", "dots", "full"] = "none"
    unroll: int = 1  # layers per iteration of the scan
    cache_chunk: int = 64  # slots of the cache's first chunk; the next ones double
    # While these are None, they are not part of a config's identity.
    # flash: rows are read by jax's TPU kernel; None: on a TPU.
    flash: bool | None = field(default=None, metadata={"identity": "if set"})
    # Positions whose logits a loss makes at once; None: all.
    logit_chunk: int | None = field(default=None, metadata={"identity": "if set"})
    # Matrices to sample and search with; None: as the network computes.
    decode_weights: Literal["int8"] | None = field(
        default=None, metadata={"identity": "if set"}
    )
    # Of a published model.
    family: Family | None = field(default=None, metadata={"identity": "if set"})

    def __post_init__(self) -> None:
        whole = ("width", "layers", "heads", "ff", "unroll", "cache_chunk")
        for name in (*whole, "rope_theta", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        for name in ("vocab", "kv_heads", "head_width"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.decode_weights not in (None, "int8"):
            raise ValueError(
                f"decode_weights is {self.decode_weights!r}; choose int8 or None"
            )
        if self.logit_chunk is not None and self.logit_chunk < 1:
            raise ValueError("logit_chunk must be positive")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(
                f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})"
            )
        if not self.head_width and self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        if (self.head_width or self.width // self.heads) % 2:
            raise ValueError("head_width must be even: rotary pairs its halves")
        windows = len(self.family.windows) if self.family else 0
        if windows not in (0, self.layers):
            raise ValueError(f"family has {windows} windows for {self.layers} layers")

"""What a TPU chip has: memory, compute, bandwidths; and the names of slices.

Peaks are the vendor's (`source`). `hbm_bytes` is what the compiler lets a program have:
libtpu's own limit, as it says when a program is too large; the rest is its own.
"""

import math
import re
from dataclasses import dataclass

from o1jax.config import ConfigError, nearest

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One chip. All rates are per second."""

    name: str
    hbm_bytes: float  # of a device, that a program may use
    flops: float  # dense bf16
    hbm_rate: float  # bytes
    links: int  # to neighbours; two along each dimension of the torus
    link_rate: float  # bytes one way over one link
    dimensions: int  # of the torus
    largest: int  # chips of a slice
    source: str
    devices: int = 1  # that libtpu makes of a chip; they share what it has


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v4",
            hbm_bytes=15.25 * GIB,
            flops=275e12,
            hbm_rate=1.2e12,
            links=6,
            link_rate=50e9,  # Table 4 of arXiv 2304.01433
            dimensions=3,
            largest=4096,
            source="https://cloud.google.com/tpu/docs/v4",
            devices=2,  # its cores
        ),
        Chip(
            "v5e",
            hbm_bytes=15.75 * GIB,
            flops=197e12,
            hbm_rate=819e9,
            links=4,
            link_rate=50e9,  # 1600 Gbit/s one way over 4 links
            dimensions=2,
            largest=256,
            source="https://cloud.google.com/tpu/docs/v5e",
        ),
        Chip(
            "v5p",
            hbm_bytes=95.74 * GIB,
            flops=459e12,
            hbm_rate=2765e9,
            links=6,
            link_rate=100e9,  # 4800 Gbit/s one way over 6 links
            dimensions=3,
            largest=8960,
            source="https://cloud.google.com/tpu/docs/v5p",
        ),
        Chip(
            "v6e",
            hbm_bytes=31.25 * GIB,
            flops=918e12,
            hbm_rate=1600e9,
            links=4,
            link_rate=100e9,  # 800 GB/s both ways over 4 links
            dimensions=2,
            largest=256,
            source="https://docs.cloud.google.com/tpu/docs/v6e",
        ),
    )
}


@dataclass(frozen=True)
class Topology:
    """A slice: chips of one kind in a torus."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As libtpu calls it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)


def topology(text: str) -> Topology:
    """The slice that `v5e:16x16` names; ConfigError in one line if there is none."""
    name, _, sizes = text.partition(":")
    if name not in CHIPS:
        known = ", ".join(CHIPS)
        raise ConfigError(
            f"topology {text!r}: unknown chip {name!r}{nearest(name, CHIPS)}; "
            f"known are {known}"
        )
    chip = CHIPS[name]
    wanted = "x".join(["16"] * chip.dimensions)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
        raise ConfigError(f"topology {text!r}: write it like {name}:{wanted}")
    shape = tuple(int(n) for n in sizes.split("x"))
    if len(shape) != chip.dimensions:
        raise ConfigError(
            f"topology {text!r}: {name} is a torus of {chip.dimensions} dimensions, "
            f"like {name}:{wanted}"
        )
    if math.prod(shape) > chip.largest:
        raise ConfigError(
            f"topology {text!r}: {math.prod(shape)} chips; a slice of {name} has "
            f"{chip.largest} at most"
        )
    return Topology(chip, shape)

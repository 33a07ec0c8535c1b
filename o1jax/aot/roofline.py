"""The least time that a program can take on its chips, and what bounds it.

In: what a device computes, reads and sends, and its chip. Out: seconds for each, as if
each ran at its peak by itself; the largest is the bound if all overlap perfectly.
Williams et al. 2009, doi 10.1145/1498765.1498785. A collective uses the links of the
dimensions of the torus that its devices differ in, two a dimension.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from o1jax.aot.chips import Chip
from o1jax.aot.collectives import Collective


class Roofline(NamedTuple):
    """Seconds of a call."""

    compute: float
    memory: float
    interconnect: float

    @property
    def bound(self) -> str:
        """Which of them takes longest."""
        return max(self._fields, key=lambda name: getattr(self, name))

    @property
    def seconds(self) -> float:
        return max(self)


def roofline(
    chip: Chip,
    *,
    flops: float,
    memory_bytes: float,
    sent: Sequence[tuple[float, int]],
) -> Roofline:
    """Of a device that does so many FLOPs and moves so many bytes of memory.

    sent: (bytes, dimensions of the torus that they can use) of each collective.
    """
    rate = lambda dimensions: min(chip.links, 2 * dimensions) * chip.link_rate
    return Roofline(
        compute=chip.devices * flops / chip.flops,
        memory=chip.devices * memory_bytes / chip.hbm_rate,
        interconnect=chip.devices * sum(size / rate(max(1, n)) for size, n in sent),
    )


def dimensions(mesh: Mesh, axes: Sequence[str]) -> int:
    """Dimensions of the torus along which devices differ that differ along axes."""
    places = np.array([_coordinates(device) for device in mesh.devices.flat])
    places = places.reshape(*mesh.devices.shape, -1)
    along = [i for i, name in enumerate(mesh.axis_names) if name in axes]
    first = tuple(slice(None) if i in along else 0 for i in range(len(mesh.axis_names)))
    group = places[first].reshape(-1, places.shape[-1])
    return int(np.count_nonzero(np.ptp(group, axis=0)))


def sent_by_dimensions(
    mesh: Mesh, found: Sequence[Collective]
) -> list[tuple[float, int]]:
    """What `roofline` takes, of a program's collectives."""
    known: dict[tuple[str, ...], int] = {}
    for c in found:
        if c.axes not in known:
            known[c.axes] = dimensions(mesh, c.axes)
    return [(c.bytes, known[c.axes]) for c in found]


def _coordinates(device: Any) -> tuple[int, ...]:
    return tuple(getattr(device, "coords", None) or (device.id,))

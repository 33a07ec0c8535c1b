"""Laws of how coverage grows with samples, each a straight line after its link.

In: coverage at several k. Out: slope, intercept and R2 of the published law and of laws
that compete with it, all with two parameters. Published: c = exp(a k^b), Brown et al.
2024, arXiv 2407.21787.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from o1jax.statistics import fit_line

Array = np.ndarray


class Law(NamedTuple):
    """link(c) = slope log k + intercept."""

    name: str
    link: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    weight: Callable[[Array], Array]  # 1 / (c (1 - c) link'(c)^2), the delta method


class Fit(NamedTuple):
    """A fitted law; r2 is of c, unweighted, over the points fitted."""

    law: Law
    slope: float
    intercept: float
    r2: float

    def at(self, k: Array) -> Array:
        """Its coverage at k samples."""
        return self.law.inverse(self.slope * np.log(k) + self.intercept)


PUBLISHED = Law(
    "exp(a k^b)",
    lambda c: np.log(-np.log(c)),
    lambda x: np.exp(-np.exp(x)),
    lambda c: c * np.log(c) ** 2 / (1 - c),
)
COMPETITORS = (
    Law(
        "logistic in log k",
        lambda c: np.log(c / (1 - c)),
        lambda x: 1 / (1 + np.exp(-x)),
        lambda c: c * (1 - c),
    ),
    Law(
        "1 - p k^q",
        lambda c: np.log(1 - c),
        lambda x: 1 - np.exp(x),
        lambda c: (1 - c) / c,
    ),
)


def fit_law(law: Law, k: Array, coverage: Array) -> Fit:
    """Weighted least squares after the link; points at 0 or 1 are skipped.

    ValueError with fewer than two usable points.
    """
    k, c = np.asarray(k, float), np.asarray(coverage, float)
    use = (c > 0) & (c < 1)
    k, c = k[use], c[use]
    if len(k) < 2:
        raise ValueError(f"{law.name} needs two k with a coverage inside (0, 1)")
    slope, intercept, _ = fit_line(np.log(k), law.link(c), weight=law.weight(c))
    fitted = law.inverse(slope * np.log(k) + intercept)
    r2 = 1 - np.sum((c - fitted) ** 2) / np.sum((c - c.mean()) ** 2)
    return Fit(law, slope, intercept, float(r2))

"""Human-like reasoning behaviours as text: written, graded and counted."""

from o1jax.data.behaviours.draft import Text
from o1jax.data.behaviours.journey import journey
from o1jax.data.behaviours.meter import counts, rates
from o1jax.data.behaviours.task import Behaviours, PathTemplate
from o1jax.data.behaviours.walk import Walk

__all__ = [
    "Behaviours",
    "PathTemplate",
    "Text",
    "Walk",
    "counts",
    "journey",
    "rates",
]

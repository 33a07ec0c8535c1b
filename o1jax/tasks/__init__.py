"""Questions without end, each with a verifier and an exact step-level oracle."""

from o1jax.tasks.chain import Chain
from o1jax.tasks.countdown import Countdown
from o1jax.tasks.graph import Graph
from o1jax.tasks.gym import Gym
from o1jax.tasks.stories import Stories
from o1jax.tasks.task import SPLITS, STEP_END, Example, StepCheck, Task, split_of

__all__ = [
    "SPLITS",
    "STEP_END",
    "Chain",
    "Countdown",
    "Example",
    "Graph",
    "Gym",
    "StepCheck",
    "Stories",
    "Task",
    "split_of",
]

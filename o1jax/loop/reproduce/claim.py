"""What a claim is made of.

In: nothing. Out: the records that a claim's module fills in (Claim, Tier, Arm), those
that it gets back (Predictions, Evidence) and those that it concludes with (Check,
Findings).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from o1jax.loop.reproduce.identity import identity
from o1jax.loop.workdir import Workdir
from o1jax.tasks.task import Example
from o1jax.types import Params


class Predictions(NamedTuple):
    """What one arm did with P problems; the columns are numpy arrays or lists."""

    right: np.ndarray  # i64[P]  answers graded right, of `samples`
    samples: np.ndarray  # i64[P]  answers given; 1 for a method that commits to one
    tokens: np.ndarray  # f64[P]  generated for the problem, over all its samples
    flops: np.ndarray  # f64[P]  everything: reading again and guides included
    extra: Mapping[str, Sequence[Any]] = {}  # further columns [P], as JSON holds them
    facts: Mapping[str, Any] = {}  # of the arm as a whole, JSON, e.g. a guide's AUC


ArmRun = Callable[[Workdir, Params, jax.Array, Sequence[Example], Any], Predictions]


@dataclass(frozen=True)
class Arm:
    """A method at one budget. All arms of a seed get the same key and problems."""

    name: str  # names its file of predictions
    method: Any  # its config, of frozen dataclasses and plain values
    run: ArmRun  # (workdir, params, key, examples, method) -> Predictions

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.=-]+", self.name):
            raise ValueError(f"arm name {self.name!r} does not fit into a file name")
        # Both say what was run, so they must be the same text in every process.
        if "<" in getattr(self.run, "__qualname__", "<"):
            raise ValueError(f"arm {self.name!r}: run must be a function of a module")
        if re.search(r" at 0x[0-9a-f]+", identity(self.method)):
            raise ValueError(f"arm {self.name!r}: method has no repr of its own")

    @property
    def place(self) -> str:
        """Where its function is."""
        return f"{self.run.__module__}.{self.run.__qualname__}"


@dataclass(frozen=True)
class Tier:
    """The size at which a claim is tried."""

    experiment: str  # file under experiments/, which trains the policy
    arms: tuple[Arm, ...]
    problems: int
    split: str = "test"
    overrides: tuple[str, ...] = ()  # of the experiment: Name.field=value
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the claim's analysis

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two arms are named {twice[0]!r}")


class Evidence(NamedTuple):
    """All predictions: of every arm, on every seed, for the same problems."""

    tier: Tier
    seeds: tuple[int, ...]
    examples: list[list[Example]]  # [S][P]
    arms: dict[str, list[Predictions]]  # by name, one a seed

    def column(self, arm: str, name: str) -> np.ndarray:
        """[S, P] of a column of Predictions or of its `extra`."""
        rows = [
            getattr(p, name) if name in p._fields else p.extra[name]
            for p in self.arms[arm]
        ]
        return np.array(rows)

    def accuracy(self, arm: str) -> np.ndarray:
        """f64[S, P]: part of a problem's answers that is right."""
        return self.column(arm, "right") / self.column(arm, "samples")


class Check(NamedTuple):
    """One part of the published shape: what was asked for, and what was found."""

    name: str
    passed: bool
    found: str  # with the numbers


class Findings(NamedTuple):
    """What a claim makes of its evidence."""

    checks: list[Check]
    sections: list[dict[str, Any]]  # of the report, see inspect/report.py


@dataclass(frozen=True)
class Claim:
    """A published result whose shape is to be found again."""

    name: str  # as in the roadmap: A1
    statement: str  # one sentence
    source: str  # arXiv id
    shape: str  # what was published, in its own numbers
    tiers: Mapping[str, Tier]
    analyse: Callable[[Evidence], Findings]

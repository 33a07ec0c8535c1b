"""A round that goes wrong ends the stage, with the last good checkpoint kept.

In: the metrics of each round. Out: nothing, or a `Stopped` whose one line names the
metric. What is watched: numbers that are none, a KL divergence above a bound, and a
reward that collapses, as it does where the learning rate is too high.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from o1jax.config import configurable


@configurable
@dataclass(frozen=True)
class Guard:
    """When to stop."""

    kl: float = 0.0  # nats a response from the first policy; 0: any
    collapse: float = 0.5  # of the reward at the start, below which it has collapsed
    patience: int = 3  # rounds in a row that it may be there; 0: any number
    rounds: int = 3  # at the start, whose mean is compared with

    def __post_init__(self) -> None:
        for name in ("kl", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.rounds < 1:
            raise ValueError("rounds must be at least 1")
        if not 0 <= self.collapse < 1:
            raise ValueError("collapse must be in [0, 1)")


class Stopped(RuntimeError):
    """Why a stage was stopped, in one line that names the metric."""


class Watch:
    """Looks at every round; its state is saved with the checkpoints."""

    def __init__(self, config: Guard, stage: str, *, plateau: int, gain: float) -> None:
        """plateau: rounds without a gain of `gain` after which to end; 0: none."""
        self._config, self._stage = config, stage
        self._plateau, self._gain = plateau, gain
        self._start: list[float] = []  # rewards of the first rounds
        self._low = 0  # rounds in a row below the bound
        self._smooth = 0.0  # reward, averaged over about WINDOW rounds
        self._best, self._since = -math.inf, 0

    def look(self, round_: int, metrics: Mapping[str, float], saved: int) -> None:
        """Stopped if the round is bad; `saved` is the newest checkpoint."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                self._stop(round_, f"{name} is {value}", saved)
        kl = metrics.get("kl", 0.0)
        if self._config.kl and kl > self._config.kl:
            why = f"kl is {kl:.3g} nats a response, above Guard.kl {self._config.kl:g}"
            self._stop(round_, f"{why}: lower the learning rate", saved)
        if (reward := metrics.get("reward")) is not None:
            self._follow(round_, reward, saved)

    @property
    def worried(self) -> bool:
        """Whether the reward is where it must not stay: no checkpoint to keep."""
        return self._low > 0

    @property
    def settled(self) -> bool:
        """Whether the reward has stopped to rise: the plateau's end."""
        return bool(self._plateau) and self._since >= self._plateau

    def state(self) -> dict[str, Any]:
        """As JSON."""
        best = None if self._best == -math.inf else self._best
        return {
            "start": self._start,
            "low": self._low,
            "smooth": self._smooth,
            "best": best,
            "since": self._since,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state()`."""
        self._start, self._low = list(state["start"]), state["low"]
        self._smooth, self._since = state["smooth"], state["since"]
        self._best = -math.inf if state["best"] is None else state["best"]

    def _follow(self, round_: int, reward: float, saved: int) -> None:
        config = self._config
        if len(self._start) < config.rounds:
            self._start.append(reward)
            self._smooth = sum(self._start) / len(self._start)
            return
        begin = sum(self._start) / len(self._start)
        low = begin > 0 and reward < config.collapse * begin
        self._low = self._low + 1 if low else 0
        if config.patience and self._low >= config.patience:
            why = f"reward fell from {begin:.3g} to {reward:.3g}"
            self._stop(round_, f"{why}: is the learning rate too high?", saved)
        self._smooth += (reward - self._smooth) / WINDOW
        if self._smooth > self._best + self._gain:
            self._best, self._since = self._smooth, 0
        else:
            self._since += 1

    def _stop(self, round_: int, why: str, saved: int) -> None:
        kept = f"checkpoint {saved} is kept" if saved else "no checkpoint was written"
        raise Stopped(f"stage {self._stage!r} stopped in round {round_}: {why}; {kept}")


WINDOW = 5  # rounds that the plateau is smoothed over

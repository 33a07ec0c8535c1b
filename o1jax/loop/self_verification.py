"""What checking one's own steps is worth, worked out from how often the check errs.

In: the chance that a drawn step is right, and the rates at which a check accepts wrong
steps and rejects right ones. Out: the chance of a right answer and the steps drawn for
it, for plain drawing, reflective retry and trace-back. Rates are those of every step or
a sequence, one a step. After Yu et al. 2025, arXiv 2510.12157; simplified: one rate for
all problems, draws and checks independent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

UNBOUNDED = 0  # attempts at a state


@dataclass(frozen=True)
class Rates:
    """Of a step that is drawn where all before it are right, and of its check."""

    right: float  # chance that the step is right
    false_accept: float  # of checks of a first wrong step
    false_reject: float  # of checks of a right step
    # Behind a wrong step all are wrong; of checks of these. None: as of the first.
    accept_behind: float | None = None

    def __post_init__(self) -> None:
        for name in ("right", "false_accept", "false_reject", "accept_behind"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1")

    @property
    def helps(self) -> bool:
        """Whether an accepted step is right more often than a drawn one.

        mu (1 - r) / (mu (1 - r) + (1 - mu) f) > mu  iff  f + r < 1,
        for 0 < mu < 1, with f of false accepts and r of false rejects.
        """
        return self.false_accept + self.false_reject < 1

    @property
    def accepts(self) -> float:
        """Chance that a step drawn behind right ones is accepted."""
        right = self.right * (1 - self.false_reject)
        return right + (1 - self.right) * self.false_accept

    @property
    def accepts_behind(self) -> float:
        """The same behind a wrong step."""
        if self.accept_behind is None:
            return self.false_accept
        return self.accept_behind

    @property
    def right_accepted(self) -> float:
        """Chance that an accepted step is right; nan if none is accepted."""
        if not self.accepts:
            return math.nan
        return self.right * (1 - self.false_reject) / self.accepts


class Expected(NamedTuple):
    """What a walk of some steps comes to."""

    right: float  # chance that it ends in a right answer
    answered: float  # chance that it ends in any
    draws: float  # expected number of steps drawn, those thrown away included


def plain(rates: Rates | Sequence[Rates], steps: int) -> Expected:
    """No check: right mu^n of the time."""
    right = math.prod(one.right for one in _each(rates, steps))
    return Expected(right, 1.0, float(steps))


def _each(rates: Rates | Sequence[Rates], steps: int) -> Sequence[Rates]:
    """Of each step. ValueError if there are too few."""
    if isinstance(rates, Rates):
        return [rates] * steps
    if len(rates) < steps:
        raise ValueError(f"rates of {len(rates)} steps for {steps}")
    return rates[:steps]


def retry(
    rates: Rates | Sequence[Rates], steps: int, attempts: int = UNBOUNDED
) -> Expected:
    """A rejected step is drawn again in the same place, `attempts` times at most.

    If all were rejected the walk goes on with the first of them: so one attempt is
    plain drawing. Without a bound it is right alpha^n of the time, alpha the chance
    that an accepted step is right, and draws 1 / (chance to accept) steps for each.
    """
    alive, draws = 1.0, 0.0
    for own in _each(rates, steps):
        ahead, count = _settled(own, own.accepts, attempts)
        behind = _attempts(own.accepts_behind, attempts)
        draws += alive * count + (1 - alive) * behind if alive < 1 else count
        alive *= ahead
    return Expected(alive, 1.0 if math.isfinite(draws) else 0.0, draws)


def _attempts(accepts: float, attempts: int) -> float:
    """Expected draws until one is accepted, or until there are no more attempts."""
    if attempts == UNBOUNDED:
        return 1 / accepts if accepts else math.inf
    return (1 - (1 - accepts) ** attempts) / accepts if accepts else float(attempts)


def _settled(rates: Rates, accepts: float, attempts: int) -> tuple[float, float]:
    """(chance that the step which the walk goes on with is right, draws for it)."""
    count = _attempts(accepts, attempts)
    if attempts == UNBOUNDED:
        return rates.right_accepted, count
    none = (1 - accepts) ** attempts
    accepted = rates.right * (1 - rates.false_reject) * count
    first = rates.right * rates.false_reject / (1 - accepts) if none else 0.0
    return accepted + none * first, count


def trace_back(rates: Rates | Sequence[Rates], steps: int, attempts: int) -> Expected:
    """Where `attempts` draws have failed the walk goes back, and that step has failed.

    A draw fails if it is rejected or if the walk comes back from it. With d steps to
    go, S, W and F = 1 - S - W the chances of a right end, a wrong one and none at a
    right state, and w of an end at a wrong one, where every end is wrong:

      p = mu (1 - r) S[d-1],   q = mu (1 - r) W[d-1] + (1 - mu) f w[d-1],
      S[d] = p (1 - (1 - p - q)^m) / (p + q),   W[d] likewise with q,
      w[d] = 1 - (1 - b w[d-1])^m,   S[0] = w[0] = 1, W[0] = 0,

    with b of accepts behind a wrong step. The walk that fails at its root answers
    nothing. Draws follow from those of one attempt, times the attempts made (Wald).
    """
    if attempts < 1:
        raise ValueError("attempts must be at least 1")
    right, wrong, behind = 1.0, 0.0, 1.0
    draws, draws_behind = 0.0, 0.0
    for own in reversed(_each(rates, steps)):  # from the last step to the first
        up = own.right * (1 - own.false_reject)
        slip = (1 - own.right) * own.false_accept
        p, q = up * right, up * wrong + slip * behind
        v = own.accepts_behind * behind
        cost = 1 + up * draws + slip * draws_behind
        cost_behind = 1 + own.accepts_behind * draws_behind
        made, made_behind = _attempts(p + q, attempts), _attempts(v, attempts)
        right, wrong = p * made, q * made
        behind = v * made_behind
        draws, draws_behind = cost * made, cost_behind * made_behind
    return Expected(right, right + wrong, draws)

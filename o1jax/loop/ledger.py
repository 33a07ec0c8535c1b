"""What a run spent: an account for each kind of work, saved with every checkpoint.

In: amounts of tokens, FLOPs (`count_flops`, module flops) and seconds. Out: rows for a
table, and a state that JSON holds exactly. Tokens and FLOPs of a resumed run equal
those of an uninterrupted one bit for bit; seconds are kept apart, since they can't.
"""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from o1jax.loop.flops import FlopCount, Loop, count_flops
from o1jax.types import Spent

__all__ = ["KINDS", "FlopCount", "Ledger", "Loop", "count_flops"]

KINDS = (
    "train",
    "rollout",
    "reference",
    "critic",
    "reward",
    "search",
    "evaluate",
)


class Ledger:
    """Tokens, FLOPs and seconds spent so far, by kind of work.

    `tokens` are tokens put through a network. Amounts must be host numbers; an array
    of a device is waited for.
    """

    def __init__(self) -> None:
        self._accounts = {kind: {"tokens": 0, "flops": 0} for kind in KINDS}
        self._seconds = dict.fromkeys(KINDS, 0.0)

    def add(
        self, kind: str, *, tokens: Any = 0, flops: Any = 0, seconds: float = 0.0
    ) -> None:
        """Book an amount. ValueError for an unknown kind or an amount below 0."""
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(KINDS)}")
        amounts = {"tokens": _number(tokens), "flops": _number(flops)}
        for name, amount in (*amounts.items(), ("seconds", seconds)):
            if not amount >= 0:  # NaN too
                raise ValueError(f"{kind}: {name} must be at least 0, got {amount}")
        for name, amount in amounts.items():
            self._accounts[kind][name] += amount
        self._seconds[kind] += float(seconds)

    def add_spent(self, kind: str, spent: Spent, *, seconds: float = 0.0) -> None:
        """Book a `Spent`: its generated, reread and reward tokens are all tokens."""
        tokens = map(
            _number, (spent.generated_tokens, spent.reread_tokens, spent.reward_tokens)
        )
        self.add(kind, tokens=sum(tokens), flops=spent.flops, seconds=seconds)

    def total(self) -> dict[str, float]:
        """Tokens, flops and seconds over all kinds."""
        sums = {
            name: sum(account[name] for account in self._accounts.values())
            for name in ("tokens", "flops")
        }
        return {**sums, "seconds": sum(self._seconds.values())}

    def state(self) -> dict[str, dict]:
        """Everything, as JSON holds it. "accounts" is the same in a resumed run."""
        accounts = {kind: dict(account) for kind, account in self._accounts.items()}
        return {"accounts": accounts, "seconds": dict(self._seconds)}

    @classmethod
    def from_state(cls, state: Mapping[str, Mapping]) -> "Ledger":
        """The ledger whose `state()` this is."""
        ledger = cls()
        for kind, account in state["accounts"].items():
            ledger.add(kind, **account, seconds=state["seconds"].get(kind, 0.0))
        return ledger

    def table(self) -> list[dict[str, Any]]:
        """A row a kind that was used, then the total."""
        rows = [
            {"kind": kind, **self._accounts[kind], "seconds": self._seconds[kind]}
            for kind in KINDS
        ]
        used = [row for row in rows if any(v for k, v in row.items() if k != "kind")]
        return [*used, {"kind": "total", **self.total()}]


def _number(x: Any) -> int | float:
    """A host number; whole ones become int, whose sums and JSON are exact."""
    if isinstance(x, Integral):
        return int(x)
    x = float(x)
    return int(x) if x.is_integer() else x

"""The claims that can be reproduced: a module each, and a line here."""

from o1jax.config import ConfigError, nearest
from o1jax.loop.reproduce import (
    a1,
    a2,
    a3,
    a4,
    a5,
    a5_learned,
    a6,
    a7,
    a8,
    a9,
    a10,
    a11,
    a11_training,
    a12,
    a13,
    a13_verification,
    a14,
    a16,
)
from o1jax.loop.reproduce.claim import Claim

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        a1.CLAIM,
        a2.CLAIM,
        a3.CLAIM,
        a4.CLAIM,
        a5.CLAIM,
        a5_learned.CLAIM,
        a6.CLAIM,
        a7.CLAIM,
        a8.CLAIM,
        a9.CLAIM,
        a10.CLAIM,
        a11.CLAIM,
        a11_training.CLAIM,
        a12.CLAIM,
        a13.CLAIM,
        a13_verification.CLAIM,
        a14.CLAIM,
        a16.CLAIM,
    )
}


def find_claim(name: str) -> Claim:
    """The claim of that name; ConfigError with the nearest one, or with all."""
    if name.upper() in CLAIMS:
        return CLAIMS[name.upper()]
    hint = nearest(name.upper(), CLAIMS) or f"; choose from {', '.join(CLAIMS)}"
    raise ConfigError(f"unknown claim '{name}'{hint}")


def listing() -> str:
    """A line a claim: name, tiers, statement, source."""
    rows = [
        (c.name, ", ".join(c.tiers), f"{c.statement} (arXiv {c.source})")
        for c in CLAIMS.values()
    ]
    name, tiers = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(f"{a:{name}}  {b:{tiers}}  {c}" for a, b, c in rows)

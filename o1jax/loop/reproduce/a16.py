"""A16: speculative sampling is exact and faster.

In: a target and a draft trained on the same task, and numbers of proposed tokens. Out:
acceptance, tokens a call of the target and seconds against plain decoding of one row,
with what the formulas say of them, and checks that each can fail. Leviathan et al.
2022, arXiv 2211.17192: (1 - a^(g+1)) / (1 - a) tokens a call.
"""

from typing import Any

import numpy as np

from o1jax.loop.reproduce.a16_arms import GREEDY, Speculate, speculate
from o1jax.loop.reproduce.claim import Arm, Check, Claim, Evidence, Findings, Tier
from o1jax.rollout.sampling import SamplingConfig

PROPOSED = (2, 4, 8)
# Chosen before the seeds that are reported were run.
NEAR = 0.15  # tokens a call, from those of the formula
PART = 0.6  # of the analytic speed-up with measured costs
HIGH = 0.8  # acceptance from which it must be faster than plain decoding

# One million parameters; the target has nineteen.
SMALL = (
    "PolicyConfig.width=128",
    "PolicyConfig.layers=4",
    "PolicyConfig.heads=4",
    "PolicyConfig.ff=512",
)


def tokens_a_call(acceptance: float, proposed: int) -> float:
    """1 + a + ... + a^g, if each token passes with chance a whatever went before."""
    return float(sum(acceptance**i for i in range(proposed + 1)))


def _arms() -> tuple[Arm, ...]:
    proposals = [Arm(f"g={g}", Speculate(g, SMALL), speculate) for g in PROPOSED]
    greedy = Speculate(4, SMALL, sampling=SamplingConfig(temperature=0.0))
    layers = Speculate(4, layers=2)
    return (
        *proposals,
        Arm(GREEDY, greedy, speculate),
        Arm("layers=2", layers, speculate),
    )


class _Found:
    """Numbers of an arm, over all seeds."""

    def __init__(self, evidence: Evidence, name: str) -> None:
        (arm,) = (arm for arm in evidence.tier.arms if arm.name == name)
        facts = [predicted.facts for predicted in evidence.arms[name]]
        mean = lambda key: float(np.mean([fact[key] for fact in facts]))
        self.name, self.proposed = name, arm.method.tokens
        self.acceptance = mean("accepted") / mean("tested")
        self.per_call = mean("emitted") / mean("calls")
        self.formula = tokens_a_call(self.acceptance, self.proposed)
        self.seconds, self.plain = mean("seconds"), mean("plain_seconds")
        self.speedup = self.plain / self.seconds
        self.processor = mean("plain_processor") / mean("processor")
        self.step, self.verify = mean("step"), mean("verify")
        self.draft = mean("draft_step")
        drafts, calls = self.proposed * self.draft, mean("emitted") / self.formula
        plain = mean("plain_prompts") + mean("emitted") * self.step
        rounds = lambda cost: mean("prompts") + calls * (cost + drafts)
        self.analytic = plain / rounds(self.verify)
        self.free = plain / rounds(self.step)
        self.same = all(fact["same"] for fact in facts)
        self.shift = [fact["logprob_shift"] for fact in facts]


def analyse(evidence: Evidence) -> Findings:
    """Checks, then a row for each arm."""
    found = {name: _Found(evidence, name) for name in evidence.arms}
    trained = [found[f"g={g}"] for g in PROPOSED]
    high = [f for f in found.values() if f.acceptance >= HIGH]
    text = lambda pairs: ", ".join(f"{f.name}: {value}" for f, value in pairs)
    checks = [
        Check(
            "greedy: every answer is that of plain decoding, token for token",
            found[GREEDY].same,
            f"{evidence.tier.problems} problems a seed",
        ),
        Check(
            f"tokens a call are within {NEAR:.0%} of (1 - a^(g+1)) / (1 - a)",
            all(abs(f.per_call / f.formula - 1) <= NEAR for f in trained),
            text((f, f"{f.per_call:.2f} of {f.formula:.2f}") for f in trained),
        ),
        Check(
            f"the speed-up is at least {PART:.0%} of the analytic one with measured "
            "costs",
            all(f.speedup >= PART * f.analytic for f in trained),
            text((f, f"{f.speedup:.2f} of {f.analytic:.2f}") for f in trained),
        ),
        Check(
            f"faster than plain decoding wherever acceptance is at least {HIGH}",
            bool(high) and all(f.speedup > 1 for f in high),
            text((f, f"{f.speedup:.2f} at {f.acceptance:.2f}") for f in high)
            or "no arm reaches it",
        ),
    ]
    return Findings(checks, [_table(list(found.values())), _costs(trained)])


def _table(found: list[_Found]) -> dict[str, Any]:
    rows = [
        [
            f.name,
            f.acceptance,
            f.per_call,
            f.formula,
            f.speedup,
            f.processor,
            f.analytic,
            f.free,
        ]
        for f in found
    ]
    return {
        "name": "Speculative sampling of one row",
        "text": "Speed-ups are of whole answers, the reading of prompts included, over "
        "plain decoding in the same process: medians of runs that take turns. The "
        "analytic one is made of what the prompts took, a step of the target for each "
        "token, and a reading of g + 1 tokens with g steps of the draft for each "
        "(1 - a^(g+1)) / (1 - a) of them; in the last column, as in the paper, a "
        "reading costs as much as a step.",
        "table": {
            "columns": [
                "arm",
                "acceptance a",
                "tokens a call",
                "by the formula",
                "speed-up",
                "of processor time",
                "analytic",
                "if reading were free",
            ],
            "rows": rows,
        },
    }


def _costs(found: list[_Found]) -> dict[str, Any]:
    rows = [
        [f.proposed, f.step * 1e3, f.draft * 1e3, f.verify * 1e3, f.verify / f.step]
        for f in found
    ]
    return {
        "name": "Costs, in milliseconds of processor time",
        "text": "Of one row in the middle of an answer, drawing tokens included.",
        "table": {
            "columns": [
                "g",
                "step of the target",
                "step of the draft",
                "reading g + 1",
                "readings in steps",
            ],
            "rows": rows,
        },
    }


CLAIM = Claim(
    name="A16",
    statement="Speculative sampling is exact and faster",
    source="2211.17192",
    shape="2 to 3.4 times as fast as plain decoding of T5-XXL, with outputs of the "
    "same distribution; (1 - a^(g+1)) / (1 - a) tokens a call at acceptance a with g "
    "drafts.",
    tiers={
        "nano": Tier(experiment="claims/speculative.gin", arms=_arms(), problems=16)
    },
    analyse=analyse,
)

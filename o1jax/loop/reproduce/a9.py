"""A9: cloning first and a policy gradient then, against either alone.

In: policies that cloned their right samples for half of the rounds and learned by RLOO
for the other half, that did it the other way round, or one of the two all along, from
one start with equal samples and updates. Out: paired differences, and checks that each
can fail. The nearest published comparison is of a start that was cloned from curated
text: DeepSeek-AI 2025, arXiv 2501.12948.
"""

from typing import Any

from o1jax.learn.policy_objective import RECIPES
from o1jax.loop.improve import Improve
from o1jax.loop.learners import Clone
from o1jax.loop.reproduce.a8 import QUESTIONS, RATES, SAMPLES, arm, improve
from o1jax.loop.reproduce.claim import Arm, Claim, Evidence, Findings, Tier
from o1jax.loop.reproduce.learned_report import (
    above,
    bars,
    costs,
    curves,
    differences,
    tested,
)

ROUNDS = 60
FIRST, THEN = "clone", "rloo"
WARM, TURNED = f"{FIRST}-{THEN}", f"{THEN}-{FIRST}"
ALONE = (FIRST, THEN)


def stage(name: str, rounds: int) -> Improve:
    """A learner at the rate that A8 chose for it."""
    learner: Any = Clone() if name == FIRST else RECIPES[name]
    return improve(learner, RATES[name], rounds=rounds)


def _arms() -> tuple[Arm, ...]:
    half = ROUNDS // 2
    return (
        arm("start"),
        *(arm(name, stage(name, ROUNDS)) for name in ALONE),
        *(
            arm(f"{a}-{b}", stage(a, half), stage(b, half))
            for a, b in (ALONE, ALONE[::-1])
        ),
    )


def analyse(evidence: Evidence) -> Findings:
    """Checks, then tables and the curves of learning."""
    checks = [
        *(above(evidence, WARM, name) for name in ALONE),
        above(evidence, WARM, TURNED),
    ]
    arms = list(evidence.arms)
    found = tested(evidence, arms)
    found["figure"] = [
        bars(evidence, arms, title="Before and after"),
        curves(
            evidence,
            [*ALONE, WARM, TURNED],
            "pass@1",
            title="Learning",
            y_label="right, of samples",
        ),
    ]
    pairs = [(WARM, name) for name in ALONE] + [(WARM, TURNED), (TURNED, THEN), ALONE]
    pairs += [(name, "start") for name in arms[1:]]
    text = (
        f"{ROUNDS} rounds of {QUESTIONS} questions with {SAMPLES} samples, an update a "
        "round; the optimizer begins anew at the switch, half-way. Rates as in A8."
    )
    sections = [found, differences(evidence, pairs), costs(evidence, RATES, text=text)]
    return Findings(checks, sections)


CLAIM = Claim(
    name="A9",
    statement="Cloning first and a policy gradient then beats either alone",
    source="2501.12948",
    shape="reinforcement learning reaches 79.8 % on AIME 2024 from a start cloned from "
    "curated text, and 71.0 % without it. Here the policy clones its own right samples "
    "and all have equal samples: a conjecture.",
    tiers={
        "nano": Tier(experiment="claims/chain8.gin", arms=_arms(), problems=200),
    },
    analyse=analyse,
)

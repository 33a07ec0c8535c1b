"""A8: reinforcement learning raises accuracy; the learners from one start.

In: policies that learned from the same number of their own samples in the same number
of updates: REINFORCE, RLOO, PPO, GRPO, cloning of what was right, DPO; controls that
clone everything, or imitate worked solutions; and PPO with four epochs a round, with
its clip and without. Out: pass@k and majority@k before and after, and checks that each
can fail. Shao et al. 2024, arXiv 2402.03300, section 5.2: majority@k rises, pass@k does
not.
"""

from dataclasses import dataclass, replace
from typing import Any

from o1jax.data.stream import BatchConfig
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.learn.policy_objective import RECIPES
from o1jax.learn.terms import Critic, Surrogate
from o1jax.loop.contrast import Prefer
from o1jax.loop.guard import Guard
from o1jax.loop.imitate import Imitate
from o1jax.loop.improve import Improve
from o1jax.loop.learners import Clone
from o1jax.loop.reproduce.claim import (
    Arm,
    Check,
    Claim,
    Evidence,
    Findings,
    Tier,
)
from o1jax.loop.reproduce.learned import Learned, covered, learned, voted
from o1jax.loop.reproduce.learned_report import (
    VOTES,
    above,
    bars,
    between,
    costs,
    curves,
    differences,
    lead,
    tested,
)
from o1jax.statistics import paired_bootstrap
from o1jax.tasks import Chain
from o1jax.tasks.task import Example

ROUNDS, QUESTIONS, SAMPLES = 120, 32, 8
CLIP_ROUNDS = 30  # with four epochs each: as many updates
PPO = replace(RECIPES["ppo"], whiten=True)
UNCLIPPED = replace(PPO, terms=(Surrogate(1.0, 1e6), Critic(0.5, 0.2)))
# Found at first with half of the rounds, pass@1 and pass@64; see `_with_half`.
HALF = 60
WITH_HALF = {
    "start": (0.238, 0.898),
    "sft": (0.419, 0.968),
    "sft-distinct": (0.769, 1.0),
    "own": (0.001, 0.022),
    "reinforce": (0.372, 0.880),
    "rloo": (0.355, 0.928),
    "grpo": (0.364, 0.922),
    "ppo": (0.384, 0.908),
    "clone": (0.399, 0.915),
    "dpo": (0.370, 0.918),
}
GAIN = 0.15  # in pass@1, at least: chosen before the seeds that are reported were run


@dataclass(frozen=True)
class Ungraded(Chain):
    """The same questions, where whatever is written counts as right."""

    def grade(self, example: Example, response: str) -> float:
        return 1.0


def rate(learning_rate: float) -> OptimizerConfig:
    """As every learner has it but for the rate."""
    return OptimizerConfig(learning_rate, 5, "constant", weight_decay=0.0)


def improve(learner: Any, learning_rate: float, **changes: Any) -> Improve:
    """The budget that all learners have; a collapse is shown, not stopped."""
    settings = {
        "rounds": ROUNDS,
        "questions": QUESTIONS,
        "samples": SAMPLES,
        "microbatches": 4,
        "guard": Guard(patience=0),
        **changes,
    }
    return Improve(learner=learner, optimizer=rate(learning_rate), **settings)


def imitate(rows: int, learning_rate: float) -> Imitate:
    """As many updates on worked solutions."""
    return Imitate(
        steps=ROUNDS,
        batch=BatchConfig(rows=rows, length=36),
        optimizer=rate(learning_rate),
        microbatches=4,
    )


# The rate of each learner: the best of 1.5e-4, 3e-4, 6e-4 (sft: to 1.2e-3; DPO: 3e-5
# to 6e-4; four epochs: 1e-4, 2e-4) after 40 rounds, by pass@1 on 100 validation
# questions of the policy of seed 100, which is not among those reported.
RATES = {
    "sft": 6e-4,
    "sft-distinct": 6e-4,
    "own": 3e-4,  # as clone
    "reinforce": 3e-4,
    "rloo": 3e-4,
    "grpo": 3e-4,
    "ppo": 3e-4,
    "clone": 3e-4,
    "dpo": 3e-4,
    "ppo-4": 1e-4,
    "ppo-4-unclipped": 1e-4,
    "ppo-4-fast": 2e-4,  # twice the best
    "ppo-4-fast-unclipped": 2e-4,
}
CONTROLS = ("sft", "sft-distinct", "own")
LEARNERS = ("reinforce", "rloo", "grpo", "ppo", "clone", "dpo")
CLIPS = (("ppo-4", "ppo-4-unclipped"), ("ppo-4-fast", "ppo-4-fast-unclipped"))
CLIPPED = tuple(name for pair in CLIPS for name in pair)
HERO = "grpo"  # whose gain the published claim is about


def stage(name: str) -> Improve | Imitate:
    """What an arm does to the first policy."""
    learners = {
        "own": Clone(),
        "reinforce": RECIPES["reinforce"],
        "rloo": RECIPES["rloo"],
        "grpo": RECIPES["grpo"],
        "ppo": PPO,
        "clone": Clone(),
        "dpo": Prefer(),
        **{name: PPO for name, _ in CLIPS},
        **{name: UNCLIPPED for _, name in CLIPS},
    }
    chosen = RATES[name]
    if name in ("sft", "sft-distinct"):
        return imitate(QUESTIONS * (SAMPLES if name == "sft-distinct" else 1), chosen)
    changes: dict[str, Any] = {}
    if name in CLIPPED:
        changes = {"epochs": 4, "rounds": CLIP_ROUNDS}
    elif name == "dpo":
        changes = {"rows": QUESTIONS * SAMPLES // 2}  # pairs: as many responses
    if name == "own":
        changes["task"] = Ungraded(min_steps=8, max_steps=8)
    return improve(learners[name], chosen, **changes)


def arm(name: str, *stages: Improve | Imitate) -> Arm:
    return Arm(name, Learned(stages), learned)


def _arms() -> tuple[Arm, ...]:
    return (
        arm("start"),
        *(arm(name, stage(name)) for name in (*CONTROLS, *LEARNERS, *CLIPPED)),
    )


def analyse(evidence: Evidence) -> Findings:
    """Checks of the shape, then tables of all that was compared."""
    checks = [
        above(evidence, HERO, "start", least=GAIN),
        above(evidence, HERO, "own", least=GAIN),
        above(evidence, HERO, "sft", least=GAIN),
        _all_gain(evidence),
        _votes_rise(evidence),
        _coverage_does_not(evidence),
        *(above(evidence, *pair) for pair in CLIPS),
    ]
    arms = list(evidence.arms)
    found = tested(evidence, arms)
    shown = ["start", "own", "sft", *LEARNERS]
    found["figure"] = [
        bars(evidence, shown[:3] + [HERO, "clone", "dpo"], title="Before and after"),
        curves(
            evidence, LEARNERS, "pass@1", title="Learning", y_label="right, of samples"
        ),
        curves(
            evidence,
            CLIPPED,
            "pass@1",
            title="Four epochs a round",
            y_label="right, of samples",
        ),
    ]
    pairs = [(name, "start") for name in arms if name != "start"]
    pairs += [(name, control) for control in ("own", "sft") for name in LEARNERS]
    between_learners = [
        (a, b) for i, a in enumerate(LEARNERS) for b in LEARNERS[i + 1 :]
    ]
    sections = [
        found,
        differences(evidence, pairs, name="Against the start and the controls"),
        differences(
            evidence, [*between_learners, *CLIPS], name="Which learners separate"
        ),
        costs(evidence, RATES, text=_budget()),
        _with_half(),
    ]
    return Findings(checks, sections)


def _budget() -> str:
    return (
        f"{ROUNDS} rounds of {QUESTIONS} questions with {SAMPLES} samples, one update "
        f"a round on all of them; ppo-4 makes four, in {CLIP_ROUNDS} rounds. sft "
        "imitates worked solutions to the same questions, sft-distinct to as many "
        "questions as the others have samples, own all that the policy writes, right "
        "or wrong: its gradient is 0 on average, and Adam makes a random walk of the "
        "noise. Rates: the best of three each after 40 rounds, on seed 100; there 120 "
        "rounds of RLOO raised pass@1 from 0.243 to 0.523, 40 to 0.419."
    )


def _with_half() -> dict[str, Any]:
    """What was found before the number of rounds was raised."""
    return {
        "name": "With half of the rounds",
        "text": f"The first results were of {HALF} rounds, with the same seeds, rates "
        f"and checks; that {HERO} gains {GAIN} failed with +0.126 [+0.076, +0.188]. "
        f"The rounds were raised to {ROUNDS} after that, for all arms alike but those "
        "with four epochs, which have as many updates and are as they were first "
        "measured (the first of their five updates of warm-up has rate 0, that of the "
        "other learners a fifth of the rate).",
        "table": {
            "columns": ["policy", "pass@1", "pass@64"],
            "rows": [[name, *found] for name, found in WITH_HALF.items()],
        },
    }


def _all_gain(evidence: Evidence) -> Check:
    gains = {name: lead(evidence, name, "start") for name in LEARNERS}
    return Check(
        "every learner gains pass@1 over the start (resolved)",
        all(gain.lo > 0 for gain in gains.values()),
        ", ".join(f"{name} {gain.difference:+.3f}" for name, gain in gains.items()),
    )


def _votes_rise(evidence: Evidence) -> Check:
    after, before = (voted(evidence, name, VOTES) for name in (HERO, "start"))
    return Check(
        f"{HERO}: majority@{VOTES} rises (resolved)",
        paired_bootstrap(after, before).lo > 0,
        between(after, before),
    )


def _coverage_does_not(evidence: Evidence) -> Check:
    """Published: RL sharpens what the policy can do already."""
    k = 64
    after, before = (covered(evidence, name, k) for name in (HERO, "start"))
    return Check(
        f"{HERO}: pass@{k} does not rise (not resolved, or down)",
        not paired_bootstrap(after, before).lo > 0,
        between(after, before),
    )


CLAIM = Claim(
    name="A8",
    statement="Reinforcement learning raises the accuracy of a policy",
    source="2402.03300",
    shape="GRPO raises GSM8K from 82.9 to 88.2 % and MATH from 46.8 to 51.7 %; "
    "majority@k rises, pass@k does not.",
    tiers={
        "nano": Tier(experiment="claims/chain8.gin", arms=_arms(), problems=200),
    },
    analyse=analyse,
)

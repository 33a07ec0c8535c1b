"""A14: a policy that betters its own answer needs reinforcement learning.

In: policies that may answer twice, the second time in sight of the first: after naive
fine-tuning on corrections, after cloning the corrections of their own that came out
right, and after the two stages of SCoRe. Out: how often each attempt is right, what
changed in between, and checks that each can fail. Kumar et al. 2024, arXiv 2409.12917,
tables 1 and 2. A wrong answer of countdown shows that it is wrong to who looks at it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from o1jax.learn.kl import KLControl
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.learn.policy_objective import PolicyGradient
from o1jax.learn.terms import Divergence, Reinforce
from o1jax.loop.episodes import build_sampling
from o1jax.loop.experience import Questions
from o1jax.loop.guard import Guard
from o1jax.loop.improve import Improve
from o1jax.loop.learners import Clone
from o1jax.loop.reproduce.claim import (
    Arm,
    Check,
    Claim,
    Evidence,
    Findings,
    Predictions,
    Tier,
)
from o1jax.loop.reproduce.compare import bar_series
from o1jax.loop.reproduce.learned import accounted, improved
from o1jax.loop.reproduce.learned_report import between, costs
from o1jax.loop.turns import Turns
from o1jax.loop.workdir import Workdir
from o1jax.rollout.sampling import SamplingConfig
from o1jax.statistics import bootstrap_interval, paired_bootstrap
from o1jax.tasks.task import Example
from o1jax.types import Params

ROUNDS, QUESTIONS, SAMPLES = 80, 32, 8
RATE = 3e-4
FIRST, SECOND = "first", "second"


@dataclass(frozen=True)
class TwoTurns:
    """Stages that a policy goes through, and how it is tested then."""

    stages: tuple[Improve, ...] = ()
    samples: int = 8  # episodes of each test problem
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def two_turns(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: TwoTurns,
) -> Predictions:
    """`right` is of second attempts. Columns: `first`, `mended` and `spoilt` episodes,
    and `same`, whose two answers are one. Facts: those of `improved`.
    """
    run = accounted(run)
    params, facts = improved(run, params, method.stages)
    learning = run.ledger.total()["flops"]
    task, index = run.experiment.task, len(run.experiment.stages)
    stage = Improve(
        questions=len(examples),
        samples=method.samples,
        sampling=method.sampling,
        turns=Turns(),
    )
    episodes = build_sampling(run, Questions(run, index, task), task, stage)
    attempts = episodes.attempts(
        params, key, list(examples), method.samples, kind="evaluate"
    )
    first, second = (answers.grades >= 1 for answers in attempts)
    texts = zip(*(answers.texts for answers in attempts))
    same = [sum(a == b for a, b in zip(*pair)) for pair in texts]
    tokens = sum(answers.tokens.sum(1).astype(float) for answers in attempts)
    flops = run.ledger.total()["flops"] - learning
    return Predictions(
        right=second.sum(1),
        samples=np.full(len(examples), method.samples),
        tokens=tokens,
        flops=flops * tokens / tokens.sum() + learning / len(examples),
        extra={
            FIRST: first.sum(1).tolist(),
            "mended": (~first & second).sum(1).tolist(),
            "spoilt": (first & ~second).sum(1).tolist(),
            "same": same,
        },
        facts=facts,
    )


def rate(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, 5, "constant", weight_decay=0.0)


def stage(learner: Any, turns: Turns, rounds: int, learning_rate: float) -> Improve:
    """The budget that all arms have."""
    return Improve(
        rounds=rounds,
        questions=QUESTIONS,
        samples=SAMPLES,
        learner=learner,
        turns=turns,
        microbatches=4,
        optimizer=rate(learning_rate),
        guard=Guard(patience=0),
    )


GRADIENT = PolicyGradient(
    signal="leave_one_out",
    terms=(Reinforce(), Divergence("k2")),
    kl=KLControl(0.01),
)
STAGE_1, STAGE_2 = Turns(pay_first=False, first_kl=0.3), Turns(alpha=2.0)
RATES = {"pairs": RATE, "star": RATE, "plain-rl": RATE, "score": RATE}


def _arms() -> tuple[Arm, ...]:
    half = ROUNDS // 2
    stages = {
        "format": (),
        "pairs": (stage(Clone(), Turns(teach="wrong"), ROUNDS, RATES["pairs"]),),
        "star": (stage(Clone(), Turns(), ROUNDS, RATES["star"]),),
        "plain-rl": (stage(GRADIENT, Turns(), ROUNDS, RATES["plain-rl"]),),
        "score": (
            stage(GRADIENT, STAGE_1, half, RATES["score"]),
            stage(GRADIENT, STAGE_2, half, RATES["score"]),
        ),
    }
    return tuple(Arm(name, TwoTurns(s), two_turns) for name, s in stages.items())


NAIVE = ("format", "pairs", "star")  # fine-tuning on corrections
HERO = "score"


def delta(evidence: Evidence, arm: str) -> np.ndarray:
    """f64[S, P]: second attempts right less first ones."""
    return evidence.accuracy(arm) - part(evidence, arm, FIRST)


def part(evidence: Evidence, arm: str, column: str) -> np.ndarray:
    """f64[S, P]: of a problem's episodes."""
    return evidence.column(arm, column) / evidence.column(arm, "samples")


def analyse(evidence: Evidence) -> Findings:
    """Checks of the shape, then tables."""
    best = max(NAIVE, key=lambda arm: delta(evidence, arm).mean())
    checks = [
        _above(
            f"delta: {HERO} above {NAIVE[0]}",
            delta(evidence, HERO),
            delta(evidence, NAIVE[0]),
        ),
        _above(
            f"delta: {HERO} above the best of naive fine-tuning",
            delta(evidence, HERO),
            delta(evidence, best),
            best,
        ),
        _positive(f"delta: {HERO} above 0", delta(evidence, HERO)),
        _above(
            f"right at second: {HERO} above the best of naive fine-tuning",
            evidence.accuracy(HERO),
            evidence.accuracy(max(NAIVE, key=lambda a: evidence.accuracy(a).mean())),
        ),
        _above(
            f"{HERO}: mended more often than spoilt",
            part(evidence, HERO, "mended"),
            part(evidence, HERO, "spoilt"),
        ),
    ]
    sections = [
        _table(evidence),
        costs(
            evidence,
            RATES,
            text=f"{ROUNDS} rounds of {QUESTIONS} questions with {SAMPLES} episodes, "
            "an update a round, from one start.",
        ),
    ]
    return Findings(checks, sections)


def _above(name: str, a: np.ndarray, b: np.ndarray, of: str = "") -> Check:
    found = paired_bootstrap(a, b)
    words = f" ({of})" if of else ""
    return Check(f"{name} (resolved)", found.lo > 0, between(a, b) + words)


def _positive(name: str, values: np.ndarray) -> Check:
    mean, lo, hi = bootstrap_interval(values)
    return Check(f"{name} (resolved)", lo > 0, f"{mean:+.3f} [{lo:+.3f}, {hi:+.3f}]")


def _table(evidence: Evidence) -> dict[str, Any]:
    rows, bars = [], {FIRST: [], SECOND: []}
    for arm in evidence.arms:
        parts = [part(evidence, arm, x) for x in (FIRST, "mended", "spoilt", "same")]
        first, *changed = ([*bootstrap_interval(p)] for p in parts)
        second = [*bootstrap_interval(evidence.accuracy(arm))]
        rows.append(
            [arm, first, second, [*bootstrap_interval(delta(evidence, arm))], *changed]
        )
        bars[FIRST].append(first)
        bars[SECOND].append(second)
    series = bar_series({f"{name} attempt": found for name, found in bars.items()})
    return {
        "name": "Two attempts",
        "text": "Parts of all episodes, with a 95 % bootstrap interval over seeds and "
        "problems. Mended: wrong at first and right at second; spoilt: the reverse; "
        "same: both attempts are one text. Format: worked solutions behind any attempt "
        "of its own, from which all others start; pairs: behind wrong ones only; star: "
        "its own attempts that were right; plain-rl: both attempts paid for being "
        "right; score: first the second alone is paid and the first is held, then "
        "both, with a bonus for what the second betters.",
        "table": {
            "columns": ["arm", FIRST, SECOND, "delta", "mended", "spoilt", "same"],
            "rows": rows,
        },
        "figure": {
            "kind": "bars",
            "title": "Right at first and at second",
            "categories": list(evidence.arms),
            "x_label": "",
            "y_label": "right, part of episodes",
            "series": series,
        },
    }


CLAIM = Claim(
    name="A14",
    statement="Two-turn self-correction needs reinforcement learning",
    source="2409.12917",
    shape="on MATH the change from the first attempt to the second is -11.2 points "
    "for the base model, 0.4 and 1.8 at best after fine-tuning on corrections (STaR, "
    "Pair-SFT), and 4.4 after SCoRe.",
    tiers={
        "nano": Tier(
            experiment="claims/countdown3-turns.gin", arms=_arms(), problems=200
        ),
    },
    analyse=analyse,
)

"""A5 again with a learned guide: a process reward model in place of the exact value.

In: accuracy, tokens and FLOPs of best-of-N, beam and tree search, all guided by one
reward model that read nothing but traces of the same policy; and how well it ranks the
policy's steps. Out: differences at equal generated tokens and, with every token that
the guide reads, at equal FLOPs; checks that each can fail. Snell et al. 2024, arXiv
2408.03314, section 5.2.
"""

from typing import Any, Literal

import numpy as np

from o1jax.loop.methods import Search
from o1jax.loop.reproduce.a5 import search
from o1jax.loop.reproduce.claim import (
    Arm,
    Check,
    Claim,
    Evidence,
    Findings,
    Tier,
)
from o1jax.loop.reproduce.judge import JudgeSteps, judge_steps
from o1jax.loop.reproduce.matched import at_cost
from o1jax.rollout.sampling import SamplingConfig
from o1jax.search.steps import Steps
from o1jax.statistics import Difference, bootstrap_interval, paired_bootstrap

GUIDE = "guide"  # the stage that trains it
SEARCHES = ("beam", "mcts")
BUDGETS = (2, 4, 8, 16, 32, 64)
# More than searches get: what a guide reads may make them as dear as this.
SAMPLES = (1, *BUDGETS, 128, 256)
SMALL, LARGE = (2, 4, 8, 16), BUDGETS[-1]
JUDGED = {"judged": 1.0, "judged-cooler": 0.7}  # arm: temperature of what is judged
# Chosen before the seeds that are reported were run.
AUC = 0.9

Cost = Literal["tokens", "flops"]
COSTS: dict[Cost, str] = {"tokens": "generated tokens", "flops": "FLOPs"}


def arm_name(method: str, budget: int) -> str:
    """As in the names of the files of predictions."""
    return f"{method}-{budget}"


def _arms(steps: Steps) -> tuple[Arm, ...]:
    arms = [
        Arm(
            name, JudgeSteps(GUIDE, sampling=SamplingConfig(temperature=t)), judge_steps
        )
        for name, t in JUDGED.items()
    ]
    for method in ("best_of_n", *SEARCHES):
        for budget in SAMPLES if method == "best_of_n" else BUDGETS:
            config = Search(method=method, budget=budget, reward=GUIDE, steps=steps)
            arms.append(Arm(arm_name(method, budget), config, search))
    return tuple(arms)


def lead(evidence: Evidence, method: str, budget: int, cost: Cost) -> Difference | None:
    """Of a search over best-of-N at the same mean cost; None where that was not run."""
    name = arm_name(method, budget)
    names = [arm_name("best_of_n", n) for n in SAMPLES]
    accuracy = np.array([evidence.accuracy(n) for n in names])
    costs = np.array([evidence.column(n, cost) for n in names])
    wanted = evidence.column(name, cost).mean(axis=1)
    other = [at_cost(accuracy[:, s], costs[:, s], w) for s, w in enumerate(wanted)]
    if any(x is None for x in other):
        return None
    return paired_bootstrap(evidence.accuracy(name), np.array(other))


def analyse(evidence: Evidence) -> Findings:
    """Checks of the shape, then the guide, the curves and the differences."""
    leads = {
        (method, cost): {b: lead(evidence, method, b, cost) for b in BUDGETS}
        for method in SEARCHES
        for cost in COSTS
    }
    checks = [_guide_is_good(evidence)]
    checks += [_wins(method, cost, leads[method, cost]) for method, cost in leads]
    checks.append(_closes(leads["beam", "tokens"]))
    sections = [_guide(evidence), *_curves(evidence), _differences(evidence, leads)]
    return Findings(checks, sections)


def _facts(evidence: Evidence, arm: str) -> list[dict[str, Any]]:
    return [dict(predictions.facts) for predictions in evidence.arms[arm]]


def _guide_is_good(evidence: Evidence) -> Check:
    found = [facts["auc"] for facts in _facts(evidence, "judged-cooler")]
    return Check(
        f"step AUC of the guide is at least {AUC} on every seed",
        min(found) >= AUC,
        ", ".join(f"{auc:.3f}" for auc in found),
    )


def _shown(leads: dict[int, Difference | None]) -> str:
    return ", ".join(
        f"{b}: {gap.difference:+.3f}" for b, gap in leads.items() if gap is not None
    )


def _wins(method: str, cost: Cost, leads: dict[int, Difference | None]) -> Check:
    small = {b: leads[b] for b in SMALL}
    won = [b for b, gap in small.items() if gap is not None and gap.lo > 0]
    return Check(
        f"{method} beats best-of-N at equal {COSTS[cost]} at some budget up to "
        f"{SMALL[-1]} (resolved)",
        bool(won),
        f"{_shown(small)}; resolved at {won or 'none'}",
    )


def _closes(leads: dict[int, Difference | None]) -> Check:
    """As published: what a beam gains at small budgets it does not keep."""
    known = {b: gap.difference for b, gap in leads.items() if gap is not None}
    best = max((b for b in SMALL if b in known), key=known.__getitem__)
    return Check(
        f"at equal tokens the beam's lead at {LARGE} is smaller than its best one "
        "before",
        LARGE in known and known[LARGE] < known[best],
        f"{_shown(leads)}",
    )


def _guide(evidence: Evidence) -> dict[str, Any]:
    rows = []
    for arm, temperature in JUDGED.items():
        for seed, facts in zip(evidence.seeds, _facts(evidence, arm)):
            steps = [facts.get(f"auc_{j}") for j in (1, 2)]
            right = [facts.get(f"right_{j}") for j in (1, 2)]
            rows.append(
                [temperature, seed, facts["auc"], facts["auc_alive"], *steps, *right]
            )
    return {
        "name": "The guide",
        "text": "Step AUC on answers of the policy to the test problems, by the exact "
        "oracle: over all closed steps; over those up to the first wrong one; over "
        "first steps; over second steps behind a right one; and which part of these "
        "is right.",
        "table": {
            "columns": [
                "temperature",
                "seed",
                "AUC",
                "up to first error",
                "step 1",
                "step 2",
                "right: step 1",
                "step 2 ",
            ],
            "rows": rows,
        },
    }


def _curves(evidence: Evidence) -> list[dict[str, Any]]:
    figures = []
    for cost, words in COSTS.items():
        series = []
        for method in ("best_of_n", *SEARCHES):
            budgets = SAMPLES if method == "best_of_n" else BUDGETS
            names = [arm_name(method, budget) for budget in budgets]
            rows = [bootstrap_interval(evidence.accuracy(name)) for name in names]
            mean, lo, hi = (list(part) for part in zip(*rows))
            x = [float(evidence.column(name, cost).mean()) for name in names]
            label = method.replace("_", "-")
            series.append({"label": label, "x": x, "y": mean, "lo": lo, "hi": hi})
        figures.append(
            {
                "kind": "coverage",
                "title": f"Learned guide, against {words}",
                "x_label": f"{words} a problem",
                "y_label": "accuracy",
                "series": series,
            }
        )
    return [
        {
            "name": "Accuracy against compute",
            "text": "All methods choose among finished answers by the same reward "
            "model; grading comes after. It keeps keys and values of what it has "
            "read, in best-of-N as in a search, so that each generated token is read "
            "once and the lower panel looks like the upper one.",
            "figure": figures,
        }
    ]


def _differences(evidence: Evidence, leads: dict) -> dict[str, Any]:
    rows = []
    for method in SEARCHES:
        for budget in BUDGETS:
            name = arm_name(method, budget)
            row: list[Any] = [
                method,
                budget,
                float(evidence.accuracy(name).mean()),
                float(evidence.column(name, "tokens").mean()),
                float(evidence.column(name, "flops").mean()),
            ]
            for cost in COSTS:
                gap = leads[method, cost][budget]
                row += [None, ""] if gap is None else [list(gap[:3]), _verdict(gap)]
            rows.append(row)
    return {
        "name": "Against best-of-N at equal cost",
        "text": "Difference in accuracy to best-of-N at the same mean number of "
        "generated tokens, and at the same mean FLOPs with all that the guide reads "
        f"(best-of-N was run at N = {', '.join(map(str, SAMPLES))}; between them its "
        "accuracy is taken as linear in the log of the cost), with a 95 % interval of "
        "a paired bootstrap over seeds and problems. Empty: beyond what was run.",
        "table": {
            "columns": [
                "method",
                "budget",
                "accuracy",
                "tokens",
                "FLOPs",
                "at equal tokens",
                "better",
                "at equal FLOPs",
                "better ",
            ],
            "rows": rows,
        },
    }


def _verdict(gap: Difference) -> str:
    if not gap.resolved:
        return "not resolved"
    return "search" if gap.difference > 0 else "best-of-N"


CLAIM = Claim(
    name="A5L",
    statement="With a learned process reward model as the guide, search beats "
    "best-of-N at small budgets",
    source="2408.03314",
    shape="with a learned process reward model on MATH, beam search leads best-of-N at "
    "small budgets and loses its lead at large ones.",
    tiers={
        "nano": Tier(
            experiment="claims/countdown4-guide.gin",
            arms=_arms(Steps(children=4, tokens=10)),
            problems=150,
        ),
    },
    analyse=analyse,
)

"""A5: a beam beats best-of-N at small budgets; the best choice depends on difficulty.

In: accuracy of best-of-N, beam and tree search on each problem at several budgets, with
the exact value of a state as the guide and with two noisy ones. Out: curves, paired
differences at equal budget, the choice for each bin of difficulty made on other
problems, and checks that each can fail. Snell et al. 2024, arXiv 2408.03314, sections
5.2 and 5.3; their guide is a learned process reward model.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from o1jax.loop.guides import Verifier
from o1jax.loop.methods import Search
from o1jax.loop.reproduce.a5_grid import (
    BINS,
    BUDGETS,
    DIFFICULTY,
    LARGE,
    METHODS,
    NOISES,
    SMALL,
    arm_name,
    auc,
    saved,
)
from o1jax.loop.reproduce.a5_report import by_bin, choice, curves
from o1jax.loop.reproduce.claim import (
    Arm,
    Check,
    Claim,
    Evidence,
    Findings,
    Predictions,
    Tier,
)
from o1jax.loop.reproduce.compare import difference, difference_table
from o1jax.loop.reproduce.optimal import compute_optimal, difficulty_bins
from o1jax.loop.reproduce.sample import Sample, sample
from o1jax.loop.searching import Searcher
from o1jax.loop.workdir import Workdir
from o1jax.search.steps import Steps
from o1jax.tasks.task import Example
from o1jax.types import Params

# Chosen before the seeds that are reported were run.
SLACK = 0.02  # accuracy by which more noise may seem to help
SAVING = 2.0  # at least, somewhere; published: about 4


def search(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Search,
) -> Predictions:
    """The one answer that a search commits to."""
    searcher = Searcher(run, examples, run.experiment.task, method)
    found = searcher(params, jax.random.fold_in(key, 1))
    return Predictions(
        right=(found.grades >= 1).astype(int),
        samples=np.ones(len(examples), int),
        tokens=found.spent.generated_tokens,
        flops=found.spent.flops,
        extra={"found": found.found.tolist(), "answers": found.answers.tolist()},
        facts={"exhausted": float(found.exhausted.mean())},
    )


def _arms(steps: Steps) -> tuple[Arm, ...]:
    arms = [Arm(DIFFICULTY, Sample(64), sample)]
    for noise in NOISES:
        for method in METHODS:
            for budget in BUDGETS:
                config = Search(
                    method=method,
                    budget=budget,
                    verifier=Verifier(noise=noise),
                    steps=steps,
                )
                arms.append(Arm(arm_name(method, noise, budget), config, search))
    return tuple(arms)


def analyse(evidence: Evidence) -> Findings:
    """Checks of the shape, then curves, differences and the choice for each bin."""
    optimal = {noise: _optimal(evidence, noise) for noise in NOISES}
    checks = [
        _small_budgets(evidence),
        _gap_closes(evidence),
        _noise_degrades(evidence),
        _search_needs_a_guide(evidence),
        _choice_pays(evidence, optimal),
        _choice_saves(evidence, optimal),
    ]
    sections = [curves(evidence)]
    pairs = [
        (arm_name(method, noise, budget), arm_name("best_of_n", noise, budget))
        for noise in NOISES
        for method in METHODS[1:]
        for budget in BUDGETS
    ]
    sections.append(difference_table(evidence, pairs, name="Against best-of-N"))
    sections.append(by_bin(evidence))
    sections.append(choice(evidence, optimal))
    return Findings(checks, sections)


def _gaps(evidence: Evidence, method: str, noise: float) -> dict[int, tuple]:
    """Difference to best-of-N at each budget."""
    return {
        budget: difference(
            evidence,
            arm_name(method, noise, budget),
            arm_name("best_of_n", noise, budget),
        )
        for budget in BUDGETS
    }


def _small_budgets(evidence: Evidence) -> Check:
    gaps = _gaps(evidence, "beam", 0.0)
    won = [b for b in SMALL if gaps[b].lo > 0]
    return Check(
        "exact guide: beam beats best-of-N at some budget up to 16 (resolved)",
        bool(won),
        ", ".join(f"{b}: {gaps[b].difference:+.3f}" for b in SMALL)
        + f"; resolved at {won or 'none'}",
    )


def _gap_closes(evidence: Evidence) -> Check:
    gaps = {b: g.difference for b, g in _gaps(evidence, "beam", 0.0).items()}
    best = max(SMALL, key=gaps.__getitem__)
    return Check(
        f"exact guide: at {LARGE} the beam's lead is smaller than its best one before",
        gaps[LARGE] < gaps[best],
        f"{gaps[best]:+.3f} at {best}, {gaps[LARGE]:+.3f} at {LARGE}",
    )


def _noise_degrades(evidence: Evidence) -> Check:
    """For every method at every budget, more noise does not help."""
    rises = {}
    for method in METHODS:
        for budget in BUDGETS:
            means = [
                evidence.accuracy(arm_name(method, noise, budget)).mean()
                for noise in NOISES
            ]
            rises[f"{method} {budget}"] = float(max(np.diff(means)))
    worst = max(rises, key=rises.__getitem__)
    return Check(
        f"accuracy falls with the guide's noise (no rise above {SLACK})",
        rises[worst] <= SLACK,
        f"largest rise {rises[worst]:+.3f}, {worst}",
    )


def _search_needs_a_guide(evidence: Evidence) -> Check:
    """Snell et al.: at large budgets a beam exploits its guide's errors."""
    exact = _gaps(evidence, "beam", NOISES[0])[LARGE].difference
    noisy = _gaps(evidence, "beam", NOISES[-1])
    small = max(noisy[b].difference for b in SMALL)
    large = noisy[LARGE].difference
    return Check(
        f"guide of AUC {auc(NOISES[-1]):.2f}: the beam's lead over best-of-N shrinks "
        f"from its best at small budgets to {LARGE}",
        large < small,
        f"{small:+.3f} at best, {large:+.3f} at {LARGE} (exact guide {exact:+.3f})",
    )


def _optimal(evidence: Evidence, noise: float) -> Any:
    """The choice for each bin, all seeds' problems side by side."""
    column = lambda what: np.array(
        [
            [evidence.column(arm_name(m, noise, b), what).ravel() for b in BUDGETS]
            for m in METHODS
        ],
        float,
    )
    bins = difficulty_bins(evidence.accuracy(DIFFICULTY), BINS).ravel()
    return compute_optimal(
        column("right"),
        column("tokens"),
        np.array(BUDGETS, float),
        bins,
    )


def _choice_pays(evidence: Evidence, optimal: dict) -> Check:
    """Held-out accuracy of the choice against the best single method."""
    noise = NOISES[1]
    chosen = optimal[noise].accuracy.mean(-1)
    single = [
        max(evidence.accuracy(arm_name(m, noise, b)).mean() for m in METHODS)
        for b in BUDGETS
    ]
    worst = float(np.min(chosen - single))
    return Check(
        f"guide of AUC {auc(noise):.2f}: chosen for each bin on other problems, it is "
        f"nowhere more than {SLACK} below the best single method",
        worst >= -SLACK,
        f"smallest lead {worst:+.3f}",
    )


def _choice_saves(evidence: Evidence, optimal: dict) -> Check:
    found = {noise: saved(evidence, noise, optimal[noise]) for noise in NOISES}
    best = {noise: float(np.nanmax(s)) for noise, s in found.items()}
    return Check(
        f"the choice for each bin reaches best-of-N's accuracy with at least {SAVING:g}"
        " times fewer tokens at some budget, with every guide",
        min(best.values()) >= SAVING,
        ", ".join(f"AUC {auc(n):.2f}: {s:.1f} times" for n, s in best.items()),
    )


CLAIM = Claim(
    name="A5",
    statement="Beam search beats best-of-N at small budgets, and the best choice of "
    "method and budget depends on difficulty",
    source="2408.03314",
    shape="with a learned process reward model on MATH, beam search leads best-of-N "
    "at small budgets and loses its lead at large ones; choosing by difficulty bin "
    "reaches best-of-N's accuracy with about 4 times less compute.",
    tiers={
        "nano": Tier(
            experiment="claims/countdown4.gin",
            arms=_arms(Steps(children=4, tokens=10)),
            problems=150,
        ),
    },
    analyse=analyse,
)

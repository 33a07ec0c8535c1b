"""A13V: checking one's own steps helps where the errors of the check sum below one.

In: answers of a policy that checks each of its steps itself and draws rejected ones
again, goes back, or accepts all. Out: accuracy and steps drawn, beside what follows
from the error rates that were measured on plain answers; checks that each can fail.
Yu et al. 2025, arXiv 2510.12157, proposition 1; the expectation: self_verification.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from o1jax.data.behaviours.marks import CHECK, RIGHT
from o1jax.loop.reflection import Reflect, Reflection, measured_rates, rates_by_step
from o1jax.loop.reproduce.claim import (
    Arm,
    Check,
    Claim,
    Evidence,
    Findings,
    Predictions,
    Tier,
)
from o1jax.loop.reproduce.compare import bar_series, difference_table
from o1jax.loop.reproduce.learned_report import between, of_seeds
from o1jax.loop.self_verification import (
    UNBOUNDED,
    Expected,
    Rates,
    plain,
    retry,
    trace_back,
)
from o1jax.loop.workdir import Workdir
from o1jax.statistics import bootstrap_interval, paired_bootstrap
from o1jax.tasks.task import Example, Task
from o1jax.types import Params

MOST = 6  # steps of an answer; one that needs more is wrong
SAMPLES = 8
ATTEMPTS = 3
PLAIN, RETRY, FEW, BACK = "plain", "retry", f"retry-{ATTEMPTS}", f"back-{ATTEMPTS}"
ACCEPTED = f"{CHECK} {RIGHT} 100% ;"
DRAWS = 24  # of an answer at most: a check that rejects one step for ever is stuck
HOW = {
    PLAIN: {"heed": False},
    RETRY: {},
    FEW: {"attempts": ATTEMPTS},
    BACK: {"attempts": ATTEMPTS, "back": True},
}
# Chosen before the seeds that are reported were run.
NEAR = 0.05  # in accuracy
PRICE = 0.15  # of the draws


@dataclass(frozen=True)
class Verified:
    """How answers are checked, and how many there are."""

    reflect: Reflect = field(default_factory=Reflect)
    samples: int = SAMPLES  # of each test problem
    task: Task | None = None  # whose test problems are asked; None: the run's


def verified(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Verified,
) -> Predictions:
    """Columns: `answered`, `draws` (of all samples) and `steps` that an answer needs.

    Facts: `rates` of the policy and its checks by the oracle, and those `by_step`.
    """
    task = method.task or run.experiment.task
    reflection = Reflection(run, examples, task, method.reflect, steps=MOST)
    before = run.ledger.total()["flops"]
    found = reflection(params, key, method.samples)
    flops = run.ledger.total()["flops"] - before
    each = lambda x: x.reshape(len(examples), method.samples).sum(1)
    tokens = each(found.tokens).astype(float)
    return Predictions(
        right=each(found.right.astype(int)),
        samples=np.full(len(examples), method.samples),
        tokens=tokens,
        flops=flops * tokens / tokens.sum(),
        extra={
            "answered": each(found.answered.astype(int)).tolist(),
            "draws": each(found.draws).tolist(),
            "steps": [len(task.parse(e.question).steps) for e in examples],
        },
        facts={
            "rates": vars(measured_rates(found.judged)),
            "by_step": [vars(one) for one in rates_by_step(found.judged, MOST)],
        },
    )


def _arms() -> tuple[Arm, ...]:
    return tuple(
        Arm(name, Verified(Reflect(accepted=ACCEPTED, draws=DRAWS, **how)), verified)
        for name, how in HOW.items()
    )


def rates_of(evidence: Evidence, seed: int) -> Rates:
    """Of a seed, from answers for which nothing was drawn again."""
    return Rates(**evidence.arms[PLAIN][seed].facts["rates"])


def expected(rates: Sequence[Rates], arm: str, steps: int) -> Expected:
    if arm == PLAIN:
        return plain(rates, steps)
    if arm == BACK:
        return trace_back(rates, steps, ATTEMPTS)
    return retry(rates, steps, UNBOUNDED if arm == RETRY else ATTEMPTS)


def foreseen(evidence: Evidence, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """f64[S, P] each: accuracy and draws that follow from the measured rates."""
    found = []
    for one, steps in zip(evidence.arms[PLAIN], evidence.column(arm, "steps")):
        rates = [Rates(**own) for own in one.facts["by_step"]]
        found.append([expected(rates, arm, int(n)) for n in steps])
    return (
        np.array([[one.right for one in row] for row in found]),
        np.array([[one.draws for one in row] for row in found]),
    )


def draws(evidence: Evidence, arm: str) -> np.ndarray:
    """f64[S, P]: steps drawn for an answer."""
    return evidence.column(arm, "draws") / evidence.column(arm, "samples")


def analyse(evidence: Evidence) -> Findings:
    """Checks of the shape, then tables."""
    checks = [_condition(evidence), _helps(evidence)]
    checks += [_near(evidence, arm) for arm in (RETRY, BACK)]
    checks.append(_price(evidence))
    sections = [
        _table(evidence),
        _rates(evidence),
        difference_table(
            evidence, [(RETRY, PLAIN), (FEW, PLAIN), (BACK, PLAIN), (BACK, RETRY)]
        ),
    ]
    return Findings(checks, sections)


def _seeds(evidence: Evidence) -> list[Rates]:
    return [rates_of(evidence, s) for s in range(len(evidence.seeds))]


def _condition(evidence: Evidence) -> Check:
    sums = [rates.false_accept + rates.false_reject for rates in _seeds(evidence)]
    return Check(
        "false accepts and false rejects sum to less than 1 on every seed",
        max(sums) < 1,
        of_seeds(sums),
    )


def _helps(evidence: Evidence) -> Check:
    """As the theory says: where the condition holds, and nowhere else."""
    found = evidence.accuracy(RETRY), evidence.accuracy(PLAIN)
    holds = all(rates.helps for rates in _seeds(evidence))
    gain = paired_bootstrap(*found)
    agrees = gain.lo > 0 if holds else gain.hi < 0
    side = "above" if holds else "below"
    return Check(
        f"{RETRY} {side} {PLAIN}, as the sum says (resolved)", agrees, between(*found)
    )


def _near(evidence: Evidence, arm: str) -> Check:
    right = evidence.accuracy(arm).mean(axis=1)
    said = foreseen(evidence, arm)[0].mean(axis=1)
    return Check(
        f"{arm}: accuracy within {NEAR:g} of what follows from the rates, every seed",
        bool(np.all(np.abs(right - said) <= NEAR)),
        f"{of_seeds(right)}; expected {of_seeds(said)}",
    )


def _price(evidence: Evidence) -> Check:
    seen = draws(evidence, RETRY).mean(axis=1)
    said = foreseen(evidence, RETRY)[1].mean(axis=1)
    return Check(
        f"{RETRY}: steps drawn within {PRICE:.0%} of what follows, every seed",
        bool(np.all(np.abs(seen / said - 1) <= PRICE)),
        f"{of_seeds(seen, 2)}; expected {of_seeds(said, 2)}",
    )


def _table(evidence: Evidence) -> dict[str, Any]:
    rows, series = [], {"measured": [], "expected": []}
    for arm in evidence.arms:
        right = [*bootstrap_interval(evidence.accuracy(arm))]
        said, cost = (float(x.mean()) for x in foreseen(evidence, arm))
        answered = evidence.column(arm, "answered") / evidence.column(arm, "samples")
        spent = float(draws(evidence, arm).mean())
        rows.append([arm, right, said, spent, cost, float(answered.mean())])
        series["measured"].append(right)
        series["expected"].append([said] * 3)
    return {
        "name": "Measured, and expected from the rates",
        "text": f"{PLAIN}: no check is heeded. {RETRY}: after a rejected step another "
        f"is drawn. {FEW}: {ATTEMPTS} draws at most, then on with the first. {BACK}: "
        f"after {ATTEMPTS} back to the step before. The expectation takes the rates of "
        "plain answers, step by step but one for all problems, and checks that do not "
        "repeat themselves; a policy's own check says the same of the same step.",
        "table": {
            "columns": [
                "arm",
                "right",
                "expected",
                "steps drawn",
                "expected",
                "answered",
            ],
            "rows": rows,
        },
        "figure": {
            "kind": "bars",
            "title": "Right answers",
            "categories": list(evidence.arms),
            "x_label": "",
            "y_label": "right",
            "series": bar_series(series),
        },
    }


def _rates(evidence: Evidence) -> dict[str, Any]:
    rows = []
    for seed, one in zip(evidence.seeds, evidence.arms[PLAIN]):
        needed = max(one.extra["steps"])
        kinds = [("all", one.facts["rates"])]
        kinds += [(str(i + 1), r) for i, r in enumerate(one.facts["by_step"][:needed])]
        for name, known in kinds:
            rates = Rates(**known)
            total = rates.false_accept + rates.false_reject
            kept = rates.right_accepted if rates.accepts else None
            rows.append([seed, name, *known.values(), total, kept])
    columns = ["seed", "step", "right", "false accepts", "false rejects"]
    columns += ["accepted behind a wrong step", "sum of both", "right if accepted"]
    return {
        "name": "The policy's own checks",
        "text": "Against the oracle, of plain answers.",
        "table": {"columns": columns, "rows": rows},
    }


CLAIM = Claim(
    name="A13V",
    statement="Checking one's own steps helps where false accepts and false rejects "
    "sum to less than 1",
    source="2510.12157",
    shape="retrying rejected steps raises accuracy if and only if the two error rates "
    "of the policy's own verifier sum to less than 1; so it helps models of 4 and 16 "
    "million parameters in multiplication, and not always one of a million.",
    tiers={
        "nano": Tier(
            experiment="claims/countdown4-checks.gin", arms=_arms(), problems=200
        ),
    },
    analyse=analyse,
)

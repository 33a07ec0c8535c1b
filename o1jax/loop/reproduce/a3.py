"""A3: process reward above outcome reward above majority in best-of-N.

In: what each of these picks among the same 256 samples of a problem, for reward models
trained on few and on many traces, with one read-out and one budget of training on both
sides. Out: curves over N, paired differences per trace and per label, and checks that
each can fail. Lightman et al. 2023, arXiv 2305.20050, section 3: people labelled their
steps; here the exact oracle does, up to the first error of a trace, as they did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from o1jax.learn.optimizer import OptimizerConfig
from o1jax.loop.probe import Probe
from o1jax.loop.reproduce.claim import (
    Arm,
    Check,
    Claim,
    Evidence,
    Findings,
    Predictions,
    Tier,
)
from o1jax.loop.reproduce.pool import powers, shared_pool
from o1jax.loop.reproduce.verify import Verify, choose, verify
from o1jax.loop.reward_model import TrainReward
from o1jax.loop.traces import TraceConfig
from o1jax.loop.workdir import Workdir
from o1jax.selection import majority_at_k, pass_at_k
from o1jax.statistics import bootstrap_interval, paired_bootstrap
from o1jax.tasks.task import Example
from o1jax.types import Params

SAMPLES = 256
POLICY = "policy"  # the arm that has no reward model
FEW, MANY = 2048, 8192  # traces
PER_LABEL = 8 * FEW  # outcomes; as many labels as FEW traces have steps at most
AT, SMALL = 64, 4  # N of the checks
OPEN = f"prm-{MANY}-open"  # judges closed steps alone, not that the text ends
NAMES = {"steps": "PRM", "outcome": "ORM"}
FACTS = {
    "labels": "labels",
    "epochs": "epochs",
    "step_auc": "step AUC",
    "ece": "ECE",
    "first_error_f1": "first-error F1",
    "data_flops": "FLOP of data",
    "train_flops": "FLOP of training",
}


@dataclass(frozen=True)
class Unverified:
    """Choices that need the policy alone."""

    samples: int = SAMPLES
    draws: int = 200


def unverified(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Unverified,
) -> Predictions:
    """The likeliest sample; in a column of its own the majority."""
    run.params = params
    pool = shared_pool(run, key, examples, method.samples)
    found = choose(pool, pool.likelihood, 0.0, {}, draws=method.draws)
    ks = powers(method.samples)
    majority = majority_at_k(pool.votes, pool.right, ks, draws=method.draws)
    covered = pass_at_k(pool.right.sum(1).astype(int), pool.samples, ks)
    own = {
        "majority": majority.per_problem.T.tolist(),
        "covered": covered.per_problem.T.tolist(),
    }
    return found._replace(extra={**found.extra, **own})


def reward(learns: str, traces: int, **changes: Any) -> TrainReward:
    """Both sides alike. Chosen on the policy of seed 100: with 2,048 traces 400 steps
    gain an outcome model nothing over 150, and 3e-4 gains a process model nothing.
    """
    settings = {
        "rows": 128,
        "microbatches": 4,
        "steps": 150 if traces <= FEW else 400,
        "optimizer": OptimizerConfig(learning_rate=1e-3),
        "probe": Probe(),
        **changes,
    }
    return TrainReward(
        name="verifier", learns=learns, traces=TraceConfig(problems=traces), **settings
    )


def arm_name(learns: str, traces: int) -> str:
    """As in the names of the files of predictions."""
    return f"{NAMES[learns].lower()}-{traces}"


def _arms() -> tuple[Arm, ...]:
    sizes = [("steps", FEW), ("outcome", FEW), ("steps", MANY), ("outcome", MANY)]
    return (
        Arm(POLICY, Unverified(), unverified),
        *(
            Arm(arm_name(*size), Verify(reward(*size), SAMPLES), verify)
            for size in [*sizes, ("outcome", PER_LABEL)]
        ),
        Arm(OPEN, Verify(reward("steps", MANY), SAMPLES, ends=False), verify),
    )


class Curves(dict):
    """What each choice earns f64[S, P, K], by name."""

    def __init__(self, evidence: Evidence) -> None:
        best = {name: evidence.column(name, "best") for name in evidence.arms}
        super().__init__(
            {
                "oracle": evidence.column(POLICY, "covered"),
                "majority": evidence.column(POLICY, "majority"),
                "likelihood": best.pop(POLICY),
                **best,
            }
        )
        self.k = np.array(powers(2 ** (self["oracle"].shape[-1] - 1)))

    def at(self, name: str, k: int) -> np.ndarray:
        """f64[S, P]"""
        return self[name][..., int(np.searchsorted(self.k, k))]

    def lead(self, a: str, b: str, k: int) -> np.ndarray:
        return self.at(a, k) - self.at(b, k)


def analyse(evidence: Evidence) -> Findings:
    """Checks of the shape, then curves, differences, and the models themselves."""
    curves = Curves(evidence)
    checks = []
    for traces in (MANY, FEW):
        prm, orm = arm_name("steps", traces), arm_name("outcome", traces)
        checks += [_above(curves, prm, orm), _above(curves, orm, "majority")]
    prm, orm = arm_name("steps", MANY), arm_name("outcome", MANY)
    checks += [_grows(curves, prm, "majority"), _grows(curves, prm, orm)]
    sections = [_curves(curves), _differences(curves), _models(evidence)]
    return Findings(checks, sections)


def _above(curves: Curves, a: str, b: str) -> Check:
    found = paired_bootstrap(curves.at(a, AT), curves.at(b, AT))
    return Check(
        f"best of {AT}: {a} above {b} (resolved)",
        found.lo > 0,
        f"{curves.at(a, AT).mean():.3f} and {curves.at(b, AT).mean():.3f}: "
        f"{found.difference:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]",
    )


def _grows(curves: Curves, a: str, b: str) -> Check:
    late, early = curves.lead(a, b, AT), curves.lead(a, b, SMALL)
    found = paired_bootstrap(late, early)
    return Check(
        f"the lead of {a} over {b} grows from N = {SMALL} to {AT} (resolved)",
        found.lo > 0,
        f"{early.mean():+.3f} to {late.mean():+.3f}: {found.difference:+.3f} "
        f"[{found.lo:+.3f}, {found.hi:+.3f}]",
    )


def _curves(curves: Curves) -> dict[str, Any]:
    found = {
        name: [bootstrap_interval(curve[..., i]) for i in range(len(curves.k))]
        for name, curve in curves.items()
    }
    rows = [
        [int(k), *(list(points[i]) for points in found.values())]
        for i, k in enumerate(curves.k)
    ]
    figures = []
    for traces in (MANY, FEW):
        chosen = [arm_name("steps", traces), arm_name("outcome", traces)]
        series = []
        for name in ("oracle", *chosen, "likelihood", "majority"):
            y, lo, hi = (list(part) for part in zip(*found[name]))
            one = {"label": name, "x": curves.k.tolist(), "y": y, "lo": lo, "hi": hi}
            series.append(one)
        figures.append(
            {
                "kind": "coverage",
                "title": f"Reward models of {traces:,} traces",
                "x_label": "samples a problem, N",
                "y_label": "accuracy",
                "series": series,
            }
        )
    return {
        "name": "Best of N",
        "text": "Expected accuracy of the sample with the highest product of step "
        "probabilities among N of the same 256 samples, with a 95 % bootstrap interval "
        "over seeds and problems. oracle: any of the N is right. likelihood: the "
        "policy's own. The number of a model is that of its traces, one a question; "
        f"{OPEN} does not judge whether a text ends where it should, as the others do.",
        "table": {"columns": ["N", *found], "rows": rows},
        "figure": figures,
    }


def _differences(curves: Curves) -> dict[str, Any]:
    """Per trace, per label, and against what costs nothing."""
    few, many = ([arm_name(n, t) for n in NAMES] for t in (FEW, MANY))
    more = arm_name("outcome", PER_LABEL)
    pairs = [few, many, [few[0], more], [few[1], "likelihood"], [many[1], "likelihood"]]
    pairs += [[few[0], "majority"], [many[0], "majority"], ["oracle", many[0]]]
    pairs.append([many[0], OPEN])
    rows = []
    for a, b in pairs:
        row: list[Any] = [a, b]
        for k in (SMALL, 16, AT, SAMPLES):
            row.append(list(paired_bootstrap(curves.at(a, k), curves.at(b, k))[:3]))
        rows.append(row)
    heads = [f"N = {k}" for k in (SMALL, 16, AT, SAMPLES)]
    return {
        "name": "Differences",
        "text": f"a - b, paired problem by problem; not resolved where the interval "
        f"holds 0. {few[0]} against {more} is the comparison per label: an outcome is "
        "one label, and a trace has eight steps at most.",
        "table": {"columns": ["a", "b", *heads], "rows": rows},
    }


def _models(evidence: Evidence) -> dict[str, Any]:
    """Means over seeds."""
    rows = []
    for name, predictions in evidence.arms.items():
        if name == POLICY:
            continue
        of_seeds = [{**p.facts, **p.facts["judged"]} for p in predictions]
        means = [float(np.mean([facts[x] for facts in of_seeds])) for x in FACTS]
        vote = evidence.column(name, "vote")[..., int(np.log2(AT))]
        rows.append([name, *means, list(bootstrap_interval(vote))])
    return {
        "name": "The reward models",
        "text": "Means over seeds. Judged on held-out traces by the oracle's labels of "
        "steps, which an outcome model has never seen. FLOP of data: the "
        "sampling of traces, and their labels.",
        "table": {
            "columns": ["model", *FACTS.values(), f"weighted vote of {AT}"],
            "rows": rows,
        },
    }


CLAIM = Claim(
    name="A3",
    statement="A process reward model beats an outcome reward model, and that majority "
    "voting, in best-of-N",
    source="2305.20050",
    shape="on MATH with 1,860 samples a problem the process reward model solves "
    "78.2 %, the outcome reward model 72.4 % and majority voting 69.6 %; the process "
    "model's lead grows with the number of samples.",
    tiers={
        "nano": Tier(experiment="claims/chain8.gin", arms=_arms(), problems=200),
    },
    analyse=analyse,
)

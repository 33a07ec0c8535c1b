"""A11: a learned reward is over-optimised, the more so the less data it has seen.

In: outcome reward models of several sizes of data, each pushed by best-of-N; one is
trained a second time on what the first liked best. Out: gold and proxy against the KL
divergence, Gao's law fitted to each, and checks that each can fail. Gao et al. 2022,
arXiv 2210.10760; gold is the verifier's grade, where theirs is a larger reward model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from o1jax.loop.reproduce.a3 import SAMPLES, reward
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
from o1jax.loop.reproduce.verify import (
    Trained,
    Verify,
    choose,
    gather,
    outcome_rows,
    score_rows,
    spent_flops,
    train_verifier,
    verify,
)
from o1jax.loop.reward_data import FRESH, Data
from o1jax.loop.traces import TraceConfig, sample_traces
from o1jax.loop.workdir import Workdir
from o1jax.reward.overoptimisation import GaoFit, fit_best_of_n, kl_best_of_n
from o1jax.statistics import bootstrap_interval, paired_bootstrap
from o1jax.tasks.task import Example
from o1jax.types import Params, StepLabels

SIZES = (128, 512, 2048, 8192)  # traces
HALF = 1024  # of the refreshed model's traces are of each kind
REFRESHED = "refreshed"
# Chosen before the seeds that are reported were run.
FIT = 0.9  # R2 at least, of the law on the curves that turn down
GAPS = 0.05  # proxy above gold, more at the end than at the start


@dataclass(frozen=True)
class Refresh:
    """Half of the traces at random; half those that a first model likes best."""

    verify: Verify  # its traces are those of each half
    among: int = 16  # samples, of which the first model's favourite is graded


def refresh(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Refresh,
) -> Predictions:
    """As many graded traces as one model of both halves would have seen."""
    run.params = params
    pool = shared_pool(run, key, examples, method.verify.samples)
    config, began = method.verify.reward, spent_flops(run)
    data = gather(run, method.verify)
    first = train_verifier(run, config, data)
    more = _favourites(run, first, key, method)
    both = jax.tree.map(lambda *x: np.concatenate(x), data.rows, more)
    data = Data(both, {"labels": len(both.length)})
    trained = train_verifier(run, config, data, spent_flops(run) - began)
    score, flops = score_rows(run, trained, pool.rows, method.verify)
    return choose(pool, score, flops, trained.facts, draws=method.verify.draws)


def _favourites(
    run: Workdir, first: Trained, key: jax.Array, method: Refresh
) -> StepLabels:
    """Of new questions, the sample that the first model likes best, and its grade."""
    config = method.verify.reward
    task, seed, count = run.task(config), run.experiment.seed, config.traces.problems
    asked = [task.example(seed, "train", 2 * FRESH + i) for i in range(count)]
    key = jax.random.fold_in(key, 11)
    drawn = TraceConfig(problems=count, samples=method.among)
    traces = sample_traces(run, run.current_params(), key, asked, drawn, task=task)
    score, _ = score_rows(run, first, traces, method.verify)
    best = score.reshape(count, method.among).argmax(1)
    return outcome_rows(traces.rows(np.arange(count) * method.among + best))


def arm_name(traces: int) -> str:
    return f"orm-{traces}"


def _arms() -> tuple[Arm, ...]:
    method = lambda traces: Verify(reward("outcome", traces), SAMPLES)
    arms = [Arm(arm_name(traces), method(traces), verify) for traces in SIZES]
    return (*arms, Arm(REFRESHED, Refresh(method(HALF)), refresh))


def analyse(evidence: Evidence) -> Findings:
    """Gold and proxy [S, P, K] of each arm, along k = 1, 2, 4 ..."""
    gold = {name: evidence.column(name, "best") for name in evidence.arms}
    proxy = {name: evidence.column(name, "proxy") for name in evidence.arms}
    k = np.array(powers(2 ** (next(iter(gold.values())).shape[-1] - 1)))
    d = np.sqrt(kl_best_of_n(k))
    fits = {name: _fit(d, curve) for name, curve in gold.items()}
    least, most = arm_name(SIZES[0]), arm_name(SIZES[-1])
    frozen = arm_name(2 * HALF)
    checks = [
        _falls(gold[least], k, least),
        _strays(gold, proxy, least, most, k[-1]),
        _above(gold, most, least, k[-1], "more data push further"),
        _follows(fits, gold),
        _above(
            gold, REFRESHED, frozen, k[-1], "refreshed beats frozen, at equal labels"
        ),
    ]
    return Findings(checks, [_section(gold, proxy, fits, k)])


def _fit(d: np.ndarray, gold: np.ndarray) -> GaoFit:
    mean = gold.mean((0, 1))
    return fit_best_of_n(d, mean - mean[0])


def _falls(gold: np.ndarray, k: np.ndarray, name: str) -> Check:
    peak = int(gold.mean((0, 1)).argmax())
    found = paired_bootstrap(gold[..., peak], gold[..., -1])
    return Check(
        f"{name}: gold peaks and then falls (resolved)",
        found.lo > 0,
        f"{gold[..., peak].mean():.3f} at k = {k[peak]}, {gold[..., -1].mean():.3f} at "
        f"{k[-1]}: {found.difference:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]",
    )


def _strays(gold: dict, proxy: dict, least: str, most: str, last: int) -> Check:
    """The proxy of the favourite rises with k in any case; how far off is it?"""
    off = {name: (proxy[name] - gold[name])[..., -1] for name in (least, most)}
    found = paired_bootstrap(off[least], off[most])
    return Check(
        f"at k = {last} the proxy is further above gold with the least data, by at "
        f"least {GAPS} (interval)",
        found.lo >= GAPS,
        f"{least} {off[least].mean():+.3f}, {most} {off[most].mean():+.3f}: "
        f"{found.difference:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]",
    )


def _above(gold: dict, a: str, b: str, last: int, what: str) -> Check:
    found = paired_bootstrap(gold[a][..., -1], gold[b][..., -1])
    return Check(
        f"{what}: gold of {a} above that of {b} at k = {last} (resolved)",
        found.lo > 0,
        f"{gold[a][..., -1].mean():.3f} and {gold[b][..., -1].mean():.3f}: "
        f"{found.difference:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]",
    )


def _follows(fits: dict[str, GaoFit], gold: dict) -> Check:
    """Of the models whose gold has its peak inside what was measured."""
    last = {name: curve.mean((0, 1)).argmax() for name, curve in gold.items()}
    turned = [n for n in fits if last[n] < gold[n].shape[-1] - 1]
    return Check(
        f"gold = d (alpha - beta d) with R2 of at least {FIT} wherever gold turns down",
        bool(turned) and min(fits[n].r2 for n in turned) >= FIT,
        ", ".join(f"{n} {fits[n].r2:.3f}" for n in turned) or "none turns down",
    )


def _section(
    gold: dict, proxy: dict, fits: dict[str, GaoFit], k: np.ndarray
) -> dict[str, Any]:
    kl, rows = kl_best_of_n(k), []
    for name, curve in gold.items():
        fit, mean = fits[name], curve.mean((0, 1))
        at_end = list(bootstrap_interval(curve[..., -1]))
        off = float((proxy[name] - curve)[..., -1].mean())
        law = [fit.alpha, fit.beta, fit.r2, fit.peak if np.isfinite(fit.peak) else None]
        rows.append([name, int(k[mean.argmax()]), float(mean.max()), at_end, off, *law])
    return {
        "name": "Gold and proxy",
        "text": "The favourite of k samples: gold is how often it is right, proxy the "
        "chance that its model gives it. d = sqrt(KL), KL = log k - (k - 1) / k; the "
        "law is gold - gold at k = 1 = d (alpha - beta d), with its peak at d.",
        "table": {
            "columns": [
                "model",
                "best k",
                "gold there",
                f"gold at {k[-1]}",
                f"proxy - gold at {k[-1]}",
                "alpha",
                "beta",
                "R2",
                "peak",
            ],
            "rows": rows,
        },
        "figure": [
            _figure(title, names, gold, proxy, fits, kl)
            for title, names in {
                "Outcome models by their traces": [arm_name(n) for n in SIZES],
                "Frozen and refreshed": [arm_name(2 * HALF), REFRESHED],
            }.items()
        ],
    }


def _figure(
    title: str,
    names: Sequence[str],
    gold: dict,
    proxy: dict,
    fits: dict[str, GaoFit],
    kl: np.ndarray,
) -> dict[str, Any]:
    series = []
    for name in names:
        fit, start = fits[name], float(gold[name][..., 0].mean())
        peak = fit.peak if np.isfinite(fit.peak) else None
        law = {"form": fit.form, "alpha": fit.alpha, "beta": fit.beta, "peak": peak}
        for role, curves in (("gold", gold), ("proxy", proxy)):
            one = {"label": name, "role": role, "x": kl.tolist()}
            one["y"] = curves[name].mean((0, 1)).tolist()
            series.append(
                one | ({"fit": law | {"start": start}} if role == "gold" else {})
            )
    return {
        "kind": "overoptimisation",
        "title": title,
        "y_label": "accuracy, chance",
        "series": series,
    }


CLAIM = Claim(
    name="A11",
    statement="A learned reward is over-optimised: gold peaks and falls as proxy rises",
    source="2210.10760",
    shape="gold follows d (alpha - beta d) along best-of-n, d = sqrt(KL): it peaks "
    "and falls while the proxy rises on; more data make the peak higher and later.",
    tiers={
        "nano": Tier(experiment="claims/chain8.gin", arms=_arms(), problems=200),
    },
    analyse=analyse,
)

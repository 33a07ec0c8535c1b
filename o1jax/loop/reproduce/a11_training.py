"""A11 along training: a policy that is trained against a learned reward.

In: outcome reward models of few labels, of more, and one that gets the same more labels
a part at a time, from what the policy has come to write. Out: gold, proxy and KL of
every step, Gao's law for reinforcement learning fitted to gold, and checks that each
can fail. Gao et al. 2022, arXiv 2210.10760, figures 1b and 2b.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.loop.answer import Answerer
from o1jax.loop.optimise import Optimise, Watched, optimise
from o1jax.loop.reproduce.a3 import reward
from o1jax.loop.reproduce.claim import (
    Arm,
    Check,
    Claim,
    Evidence,
    Findings,
    Predictions,
    Tier,
)
from o1jax.loop.reproduce.verify import (
    Verify,
    gather,
    outcome_rows,
    train_verifier,
)
from o1jax.loop.reward_data import FRESH, Data
from o1jax.loop.reward_model import TrainReward
from o1jax.loop.traces import TraceConfig, sample_traces
from o1jax.loop.workdir import Workdir
from o1jax.reward.losses import outcome_logit
from o1jax.reward.overoptimisation import GaoFit, fit_rl
from o1jax.rollout.sampling import SamplingConfig
from o1jax.statistics import bootstrap_interval, paired_bootstrap
from o1jax.tasks.task import Example
from o1jax.types import Params, StepLabels

# Chosen on seed 100, where 256 labels of closed steps alone took gold to 0 in 50 steps
# (KL 10), 512 from 0.24 to 0.17 (KL 4) and 2,048 to 0.39.
FEW, REFRESHES = 512, 3
MORE = FEW * (1 + REFRESHES)
STEPS = 120
LAST = 20  # steps whose mean is the end of a curve
# Chosen before the seeds that are reported were run.
GAP, FIT = 0.1, 0.8
# A fall was asked for before they were run, a rise since: gold that only falls had
# passed for a peak.
TURN = 0.02


@dataclass(frozen=True)
class Against:
    """A policy is trained against this reward model, which may be refreshed."""

    reward: TrainReward
    optimise: Optimise
    samples: int = 8  # of each problem by the final policy


def against(
    run: Workdir,
    params: Params,
    key: jax.Array,
    examples: Sequence[Example],
    method: Against,
) -> Predictions:
    """`right`: of the final policy's samples. The facts hold the curves."""
    run.params, task = params, run.experiment.task
    config = method.reward
    before = run.ledger.total()["flops"]
    data = [gather(run, Verify(config)).rows]
    trained = train_verifier(run, config, Data(data[0], {}))
    readout = trained.model.config.readout

    def worth(reward_params: Params, *rows: jax.Array) -> jax.Array:
        """The chance that a response is right; 0 without a step."""
        tokens, _, length, closed = rows
        # As in verify.py: closed steps alone do not say that a text stops too early.
        step_end = closed | (jnp.arange(tokens.shape[1]) == length[:, None] - 1)
        scores = trained.model.score(reward_params, *rows[:-1], step_end)
        chance = jax.nn.sigmoid(outcome_logit(scores, step_end, readout))
        return jnp.where(closed.any(-1), chance, 0.0)

    def refresh(policy: Params, step: int) -> Params:
        """Trained anew, from the first policy's weights, on all labels so far."""
        data.append(_labels_of(run, policy, config, key, step))
        rows = jax.tree.map(lambda *x: np.concatenate(x), *data)
        return train_verifier(run, config, Data(rows, {})).params

    final, seen = optimise(
        run, params, worth, trained.params, method.optimise, key, refresh=refresh
    )
    spent = run.ledger.total()["flops"] - before
    chunk = min(2048, len(examples) * method.samples)
    answer = Answerer(run, examples, SamplingConfig(), chunk=chunk)
    answers = answer(final, key, method.samples, task=task)
    labels = sum(len(rows.length) for rows in data)
    return Predictions(
        right=(answers.grades >= 1).sum(1),
        samples=np.full(len(examples), method.samples),
        tokens=answers.tokens.sum(1).astype(float),
        flops=np.full(len(examples), spent / len(examples)),
        facts={"labels": labels, **{k: v.tolist() for k, v in seen._asdict().items()}},
    )


def _labels_of(
    run: Workdir, policy: Params, config: TrainReward, key: jax.Array, step: int
) -> StepLabels:
    """Graded traces of the policy as it is, of questions that nobody has seen."""
    task, seed, count = run.experiment.task, run.experiment.seed, FEW
    first = 3 * FRESH + step * count
    asked = [task.example(seed, "train", first + i) for i in range(count)]
    key = jax.random.fold_in(jax.random.fold_in(key, 11), step)
    drawn = TraceConfig(problems=count)
    traces = sample_traces(run, policy, key, asked, drawn, task=task, kind="reward")
    return outcome_rows(traces)


def _arms() -> tuple[Arm, ...]:
    few, more = (
        replace(reward("outcome", traces), held_out=TraceConfig(64, 1))
        for traces in (FEW, MORE)
    )
    frozen = Optimise(steps=STEPS)
    refreshed = Optimise(steps=STEPS, refresh_every=STEPS // (1 + REFRESHES))
    return (
        Arm(f"frozen-{FEW}", Against(few, frozen), against),
        Arm(f"frozen-{MORE}", Against(more, frozen), against),
        Arm("refreshed", Against(few, refreshed), against),
    )


def analyse(evidence: Evidence) -> Findings:
    """Curves [S, steps] of each arm."""
    seen = {name: _curves(evidence, name) for name in evidence.arms}
    few, more = f"frozen-{FEW}", f"frozen-{MORE}"
    fits = {name: _fit(one) for name, one in seen.items()}
    checks = [
        _strays(seen[few], few),
        _falls(seen[few], few),
        _above(evidence, more, few, "more labels push further"),
        _above(evidence, "refreshed", more, "refreshed beats frozen, at equal labels"),
        Check(
            f"gold of {few} = d (alpha - beta log d) with R2 of at least {FIT}",
            fits[few].r2 >= FIT,
            f"R2 {fits[few].r2:.3f}, peak at d = {fits[few].peak:.2f}",
        ),
    ]
    return Findings(checks, [_section(evidence, seen, fits)])


def _curves(evidence: Evidence, name: str) -> Watched:
    facts = [one.facts for one in evidence.arms[name]]
    return Watched(*(np.array([f[part] for f in facts]) for part in Watched._fields))


def _fit(one: Watched) -> GaoFit:
    """Of the mean over seeds; steps before the policy has moved say nothing of d."""
    d = np.sqrt(np.maximum(one.kl.mean(0), 0))
    gold = one.gold.mean(0)
    moved = d > 0.05
    return fit_rl(d[moved], (gold - gold[:3].mean())[moved])


def _ends(curve: np.ndarray) -> np.ndarray:
    return curve[:, -LAST:].mean(1)


def _strays(one: Watched, name: str) -> Check:
    off = _ends(one.proxy) - _ends(one.gold)
    began = (one.proxy - one.gold)[:, :LAST].mean(1)
    return Check(
        f"{name}: at the end the proxy is at least {GAP} further above gold than at "
        "the start, on every seed",
        bool((off - began >= GAP).all()),
        ", ".join(f"{a:+.3f} to {b:+.3f}" for a, b in zip(began, off)),
    )


def _falls(one: Watched, name: str) -> Check:
    """Means of LAST steps in a row: single steps are of a few samples."""
    window = np.ones(LAST) / LAST
    smooth = np.array([np.convolve(g, window, "valid") for g in one.gold])
    start, peak, end = one.gold[:, :3].mean(1), smooth.max(1), smooth[:, -1]
    turns = np.minimum(peak - start, peak - end) >= TURN
    return Check(
        f"{name}: gold rises by {TURN}, peaks and falls by {TURN}, on every seed",
        bool(turns.all()),
        ", ".join(
            f"{a:.3f} to {b:.3f} to {c:.3f}" for a, b, c in zip(start, peak, end)
        ),
    )


def _above(evidence: Evidence, a: str, b: str, what: str) -> Check:
    found = paired_bootstrap(evidence.accuracy(a), evidence.accuracy(b))
    return Check(
        f"{what}: {a} above {b} on test questions (resolved)",
        found.lo > 0,
        f"{evidence.accuracy(a).mean():.3f} and {evidence.accuracy(b).mean():.3f}: "
        f"{found.difference:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]",
    )


def _section(
    evidence: Evidence, seen: dict[str, Watched], fits: dict[str, GaoFit]
) -> dict[str, Any]:
    rows, figures = [], []
    for name, one in seen.items():
        fit, kl = fits[name], np.maximum(one.kl.mean(0), 0)
        start = float(one.gold[:, :3].mean())
        peak = fit.peak if np.isfinite(fit.peak) else None
        rows.append(
            [
                name,
                evidence.arms[name][0].facts["labels"],
                start,
                float(_ends(one.gold).mean()),
                float(_ends(one.proxy).mean()),
                float(_ends(one.kl).mean()),
                list(bootstrap_interval(evidence.accuracy(name))),
                fit.r2,
                peak,
            ]
        )
        law = {"form": fit.form, "alpha": fit.alpha, "beta": fit.beta, "peak": peak}
        series = [
            {"label": name, "role": role, "x": kl.tolist(), "y": curve.tolist()}
            | ({"fit": law | {"start": start}} if role == "gold" else {})
            for role, curve in (
                ("gold", one.gold.mean(0)),
                ("proxy", one.proxy.mean(0)),
            )
        ]
        figures.append(
            {
                "kind": "overoptimisation",
                "title": f"Trained against {name}",
                "y_label": "right, chance",
                "series": series,
            }
        )
    return {
        "name": "Gold, proxy and KL along training",
        "text": f"REINFORCE with a leave-one-out baseline, {STEPS} steps of 32 x 8 "
        "samples, paid by the reward model alone. Gold is the verifier's grade of the "
        f"same samples; ends are means of {LAST} steps. KL is from the first policy, "
        "in nats a response; d = sqrt(KL). The refreshed model gets its labels in "
        f"{1 + REFRESHES} parts, from what the policy has come to write. Test: pass@1 "
        "of the final policy. Sizes of data were chosen on seed 100, where 256 labels "
        "took gold to 0 when closed steps alone were judged. That gold rises before it "
        "falls is asked for since these seeds were run: before, gold that falls from "
        "the start on had passed for a peak.",
        "table": {
            "columns": [
                "reward model",
                "labels",
                "gold at first",
                "gold at the end",
                "proxy",
                "KL",
                "test",
                "R2",
                "peak d",
            ],
            "rows": rows,
        },
        "figure": figures,
    }


CLAIM = Claim(
    name="A11T",
    statement="Trained against a learned reward, a policy leaves gold behind",
    source="2210.10760",
    shape="gold follows d (alpha - beta log d) along reinforcement learning, with d = "
    "sqrt(KL): it peaks and falls while the proxy rises on; more data make the peak "
    "higher and later.",
    tiers={
        "nano": Tier(experiment="claims/chain8.gin", arms=_arms(), problems=200),
    },
    analyse=analyse,
)

"""results.json of a claim: what inspect/report.py draws and the index lists.

In: the evidence, the findings made of it, and what training and arms cost. Out: JSON.
A check that fails is written as FAILED, with its numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from o1jax.loop.reproduce.claim import Check, Claim, Evidence
from o1jax.statistics import bootstrap_interval

Section = dict[str, Any]


def conclude(
    claim: Claim,
    tier: str,
    evidence: Evidence,
    trainings: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Analyses the evidence; `records` are those of the arms' runs."""
    findings = claim.analyse(evidence)
    if not findings.checks:
        raise ValueError(f"claim {claim.name} checks nothing")
    passed = sum(check.passed for check in findings.checks)
    work = [*trainings, *records]
    sections = [
        _claim(claim),
        _checks(findings.checks),
        *findings.sections,
        _arms(evidence),
        _training(trainings),
    ]
    return {
        "title": f"{claim.name}: {claim.statement}",
        "command": (
            f"o1jax reproduce {claim.name} --tier {tier} --seeds {len(evidence.seeds)}"
        ),
        "device": ", ".join(sorted({entry["device"] for entry in work})),
        "config_fingerprint": " ".join(t["config_fingerprint"] for t in trainings),
        "seconds": sum(entry["seconds"] for entry in work),
        "date": max(record["date"] for record in records),
        "claim": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "tier": tier,
        "seeds": len(evidence.seeds),
        "passed": passed,
        "failed": len(findings.checks) - passed,
        "checks": [check._asdict() for check in findings.checks],
        "sections": sections,
        "ledger": _ledger(evidence, trainings, records),
    }


def verdict(content: Mapping[str, Any]) -> str:
    """A line for each check, then how many held."""
    lines = [
        f"{'passed' if check['passed'] else 'FAILED'}  {check['name']}: "
        f"{check['found']}"
        for check in content["checks"]
    ]
    total = content["passed"] + content["failed"]
    held = f"{content['passed']} of {total} checks passed"
    what = (
        "" if content["failed"] == 0 else ": not all of the published shape was found"
    )
    return "\n".join([*lines, f"{content['claim']}: {held}{what}"])


def _claim(claim: Claim) -> Section:
    return {
        "name": "The claim",
        "text": f"Published ([arXiv {claim.source}]"
        f"(https://arxiv.org/abs/{claim.source})): {claim.shape}\n\nA check is about "
        "this shape, not about the absolute numbers.",
    }


def _checks(checks: Sequence[Check]) -> Section:
    rows = [[c.name, "passed" if c.passed else "**FAILED**", c.found] for c in checks]
    return {
        "name": "Checks",
        "table": {"columns": ["check", "result", "found"], "rows": rows},
    }


def _arms(evidence: Evidence) -> Section:
    rows = []
    for name in evidence.arms:
        accuracy = list(bootstrap_interval(evidence.accuracy(name)))
        samples = float(evidence.column(name, "samples").mean())
        tokens = float(evidence.column(name, "tokens").mean())
        flops = float(evidence.column(name, "flops").mean())
        rows.append([name, samples, accuracy, tokens, flops])
    n = evidence.tier.problems
    return {
        "name": "Arms",
        "text": f"{n} {evidence.tier.split} problems on each of {len(evidence.seeds)} "
        "seeds; every arm of a seed answers the same problems. Accuracy is the part "
        "of an arm's answers that is right, with a 95 % bootstrap interval over seeds "
        "and problems.",
        "table": {
            "columns": ["arm", "answers", "accuracy", "tokens", "FLOP"],
            "rows": rows,
        },
    }


def _training(trainings: Sequence[Mapping[str, Any]]) -> Section:
    rows = []
    for training in trainings:
        stages = [s for s in training["stages"].values() if "steps" in s]
        steps = sum(stage["steps"] for stage in stages)
        accuracy = stages[-1].get("accuracy") if stages else None
        fingerprint = training["config_fingerprint"]
        row = [training["seed"], fingerprint, steps, accuracy, training["seconds"]]
        rows.append(row)
    columns = ["seed", "config", "steps", "greedy accuracy", "seconds"]
    return {
        "name": "Policies",
        "text": "Greedy accuracy is on validation questions, at the end of training.",
        "table": {"columns": columns, "rows": rows},
    }


def _ledger(
    evidence: Evidence,
    trainings: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Compute over all seeds: training, then each arm (its tokens are generated ones).

    Nothing is counted again for having been taken from the cache.
    """
    rows = []
    for kind in dict.fromkeys(r["kind"] for t in trainings for r in t["ledger"]):
        if kind == "total":
            continue
        same = [r for t in trainings for r in t["ledger"] if r["kind"] == kind]
        amounts = {x: sum(r[x] for r in same) for x in ("tokens", "flops", "seconds")}
        rows.append({"kind": f"{kind} (policies)", **amounts})
    for name in evidence.arms:
        amounts = {
            column: float(np.sum(evidence.column(name, column)))
            for column in ("tokens", "flops")
        }
        seconds = sum(r["seconds"] for r in records if r["arm"] == name)
        rows.append({"kind": name, **amounts, "seconds": seconds})
    return rows

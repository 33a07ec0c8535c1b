"""Tables of what scripts of their own measured: step labels, simulated devices.

In: results_labels.json and results_devices.json, where they are. Out: text for README.
"""

import json
from pathlib import Path
from statistics import median

from tables import number, table

HERE = Path(__file__).resolve().parent
SPEED = ["what", "peer", "ratio", "spread", "goal", "o1jax", "peer"]
GOALS = {"labels": 5.0, "scores": 4.0}  # ratio
SEARCH = 1 / 3  # of the rollouts, for labels as good
SLOWER = 1.25  # of one device's time

LABELS = """
## Step labels

`labels.py`, on chains of eight steps, a policy of 0.23 million parameters: eight
rollouts behind every step of 64 traces, beside a Python loop that calls a jitted
sampler for each step and reads its prefix again; all steps of the traces scored by one
forward, beside a forward a step. One pinned thread, the sides in turns, load average
{load:.1f}.
"""
COST = """
How many rollouts a binary search for the first error needs for labels as good (step
AUC) as rollouts at every step:
"""
DEVICES = """
## Simulated devices

`devices.py`: a train step of the {size} policy, 64 x 128 tokens, all {cores} cores, one
process for each mesh, in turns, load average {load:.1f}.
"""


def section() -> str:
    """Both tables."""
    return _labels() + _devices()


def _labels() -> str:
    found = _read("labels")
    if not found:
        return ""
    speed, rows = found["speed"], []
    for what, goal in GOALS.items():
        ratio, rates = speed[f"{what}_ratios"], speed[f"{what}/s"]
        (_, ours), (peer, theirs) = rates.items()
        spread = f"[{min(ratio):.2f}, {max(ratio):.2f}]"
        told = [f"**{median(ratio):.2f}x**", spread, f"{goal:g}x"]
        rows.append([f"{what} a second", peer, *told, number(ours), number(theirs)])
    cost = [
        [str(r["rollouts"]), f"{r['auc']:.3f}", f"{r['used']:.0f}"]
        + [f"{r['search_used']:.1f}", f"**{r['ratio']:.2f}**", f"<= {SEARCH:.2f}"]
        for r in found["ratios"]
        if r["method"] == "every step"
    ]
    head = ["a step", "AUC", "rollouts a trace", "binary search", "part", "goal"]
    return LABELS.format(**found) + table(SPEED, rows) + COST + table(head, cost)


def _devices() -> str:
    found = _read("devices")
    if not found:
        return ""
    rows = []
    for name, side in found["sides"].items():
        ratio = side["ratios"]
        spread = f"[{min(ratio):.2f}, {max(ratio):.2f}]"
        told = [f"**{median(ratio):.2f}x**", spread, f"<= {SLOWER:g}x"]
        rows.append([name, f"{median(side['seconds']):.3f}", *told])
    head = ["mesh", "seconds a step", "of one device's", "spread", "goal"]
    return DEVICES.format(**found) + table(head, rows)


def _read(name: str) -> dict | None:
    file = HERE / f"results_{name}.json"
    return json.loads(file.read_text()) if file.exists() else None

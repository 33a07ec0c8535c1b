"""Tables of what scripts of their own measured: labels, devices, a published model.

In: results_labels.json and others beside it, where they are. Out: text for README.
"""

import json
from pathlib import Path
from statistics import median

import sizes
from tables import number, table

HERE = Path(__file__).resolve().parent
SPEED = ["what", "peer", "ratio", "spread", "goal", "o1jax", "peer"]
GOALS = {"labels": 5.0, "scores": 4.0}  # ratio
SEARCH = 1 / 3  # of the rollouts, for labels as good
SLOWER = 1.25  # of one device's time
DECODE = {"smollm/1": 1.2, "smollm/8": 1.0}  # ratio
BOUND, IMPORT, MEMORY = 0.7, 20, 2  # of the bandwidth; seconds; times the weights

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
SMOLLM = """
## A published model

`smollm.py`: SmolLM2-135M-Instruct, {tokens} greedy tokens behind {prompt}, f32, both
sides from the same weights on one pinned thread, load average {load:.1f}. Reading all
weights once a token, at the {read:.1f} GB/s of memory in the same run, allows
{bound:.1f} tokens/s at one row; o1jax reaches **{part:.0%}** of that (goal {goal:.0%}).
Both sides write the same text: {same}.

`o1jax import`: {seconds:.1f} s ({cpu:.1f} s of CPU; goal {limit} s), peak memory
{peak:.2f} GB, **{times:.2f}** times the {weights:.2f} GB of weights (goal {most}).
"""


def section() -> str:
    """All tables."""
    return _labels() + _devices() + smollm()


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


def smollm() -> str:
    """The table of smollm.py."""
    found = _read("smollm")
    if not found:
        return ""
    samples, rows = found["samples"], []
    speed = lambda sample: sample["useful"] / sample["seconds"]
    texts = set()
    for case, goal in DECODE.items():
        ours, theirs = samples[case].values()
        texts.add(len({tuple(x["text"]) for x in (*ours, *theirs)}))
        ratio = [speed(a) / speed(b) for a, b in zip(ours, theirs, strict=True)]
        spread = f"[{min(ratio):.2f}, {max(ratio):.2f}]"
        told = [f"**{median(ratio):.2f}x**", spread, f"{goal:g}x"]
        rates = [number(median(map(speed, side))) for side in (ours, theirs)]
        rows.append([case, "transformers", *told, *rates])
    single = samples["smollm/1"]["o1jax-smollm"]
    read = median(x["read"] for x in samples["bandwidth"]["machine"])
    bound = read * 1e9 / found["weights"]
    middle = lambda name: median(x[name] for x in found["imports"])
    text = SMOLLM.format(
        tokens=single[0]["useful"],
        prompt=sizes.SMOLLM_PROMPT,
        load=found["load"],
        read=read,
        bound=bound,
        part=median(map(speed, single)) / bound,
        goal=BOUND,
        same="yes" if texts == {1} else "no",
        seconds=middle("seconds"),
        cpu=middle("cpu"),
        limit=IMPORT,
        peak=middle("peak"),
        times=middle("peak") * 1e9 / found["weights"],
        weights=found["weights"] / 1e9,
        most=MEMORY,
    )
    return text + table(SPEED, rows)


def _read(name: str) -> dict | None:
    file = HERE / f"results_{name}.json"
    return json.loads(file.read_text()) if file.exists() else None

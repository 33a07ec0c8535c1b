"""results.json -> the tables of README.md: ratio, both sides, limits, compile time.

A ratio is the median over rounds of ours / theirs inside a round, with the smallest and
the largest round beside it. Rows exist only for what was measured.
"""

from collections.abc import Callable
from statistics import median

import report_learning
import report_scripts
import report_search
import sizes
from tables import compile_time, number, table

Samples = dict[str, dict[str, list[dict]]]

# What the project asks of itself: case -> {peer: ratio}.
GOALS = {
    "decode/1m/1/sample": {"transformers": 15, "tunix": 1.3},
    "decode/1m/16/sample": {"transformers": 3.5, "tunix": 1.5},
    "decode/1m/128/sample": {"transformers": 2.2, "tunix": 2},
    "decode/20m/1/sample": {"transformers": 2},
    "decode/20m/16/sample": {"transformers": 1},
    "decode/20m/128/sample": {"transformers": 1.1},
    "train/1m": {"torch": 0.9},
    "train/20m": {"torch": 0.75},
    **report_search.GOALS,
}
READS = {
    "read": "memory, read of 256 MiB",
    "copy": "memory, copy of 256 MiB",
    "cached": "cache, read of 4 MiB again and again",
}
OURS = {"decode": "o1jax-decode", "train": "o1jax-train", "search": "o1jax-search"}

HEAD = """# Benchmarks

o1jax beside its peers, all sides from one run of

    make bench            # or: .venv/bin/python benchmarks/run.py

on {cpu}, {cores} cores of which one (number {core_used}) was used by one process at a
time; {date}, commit {commit}, {minutes:.0f} minutes, {rounds} rounds.
Python {python}, {versions}.

How: every side is a process of its own, pinned to one core, warmed up, and asked in
turn case by case; compile time is beside and never inside. A ratio is the median over
rounds of ours / theirs inside a round, [smallest, largest]. Weights are random, f32.
Freed memory is kept by the allocator (`MALLOC_*` in run.py) for every side, which makes
torch up to twice as fast. The peers' environments are made under `.venv-bench` on the
first run; where `pip install torch` brings CUDA along, point pip at a CPU build
(PIP_EXTRA_INDEX_URL). `--only`, `--merge`, `--quick`, `--list`: see `--help`.
"""

APART = """
Measured apart, later than the rest. Both sides of a ratio are of one run; seconds, and
parts of the machine's limits, may be of a faster or slower one:

"""

DECODE = """
## Decoding

New tokens a second; {prompt} prompt tokens, then {new} new ones a row, key-value cache
on. Ours also records log-prob and value of every token. GEMM: matrix FLOPs as part of
the best measured peak. DRAM: weights and filled cache, read once a step, as part of the
measured read bandwidth; above 100 % they come from a cache.
"""

ONE_ROW = """
At 1m/1 a token reads {megabytes:.1f} MB of weights and cache. From the processor's own
cache that takes {micros:.0f} us at least, so no sampler makes more than {most:,.0f}
tokens/s here, {ratio:.1f} times transformers'. o1jax reaches {share} of that.
"""

ALL_ROWS = """
Of the 128 prompts of 1m/128 o1jax has 16 in rows and refills these; with all 128 at
once it makes {rate} tokens/s, {ratio:.2f} times transformers'.
"""

TRAIN = """
## A train step

Forward, backward, clipping to norm 1, AdamW; 1m: 64 x 128 tokens, 20m: 8 x 128. Model
FLOPs (6N + 12LWT a token) as part of the best measured GEMM peak.
"""

REFILL = """
## Continuous refill

{requests:,} prompts of geometrically distributed response length (mean 16, at most 112)
through 32 rows of the 1m model.
"""


def brief(case: str, sample: dict) -> str:
    """One measurement for the progress line."""
    if "gflops" in sample:
        return f"{sample['gflops']:.0f} GFLOP/s"
    if "read" in sample:
        return f"{sample['read']:.1f} GB/s"
    if case.startswith("products/"):
        return f"{sample['flops'] / sample['seconds'] / 1e9:.0f} GFLOP/s"
    if "step" in sample:
        return f"{sample['keys_values']:,} bytes a node"
    if report_learning.is_learning(case):
        return report_learning.shown(case, report_learning.rate(case, sample))
    unit = report_search.unit(case) if case.startswith("search/") else "tokens"
    return f"{rate(case, sample):,.0f} {unit}/s"


def rate(case: str, sample: dict) -> float:
    """Tokens a second of a sample; of a search, nodes or simulations."""
    kind, *rest = sizes.parse(case)
    if kind == "search":
        return sample["work"] / sample["seconds"]
    if kind == "decode":
        tokens = int(rest[1]) * sizes.SIZES[rest[0]].new_tokens
    elif kind == "train":
        tokens = sizes.SIZES[rest[0]].train_tokens
    else:
        tokens = sample["useful"]
    return tokens / sample["seconds"]


def middle(case: str, samples: list[dict]) -> float:
    """Median rate."""
    return median(rate(case, s) for s in samples)


def limits(samples: Samples) -> dict[str, float]:
    """Median GFLOP/s of each library and GB/s of the memory."""
    found = {}
    for case, sides in samples.items():
        for taken in sides.values():
            if case.startswith("gemm/"):
                found[case] = median(s["gflops"] for s in taken)
            if case == "bandwidth":
                for name in READS:
                    if name in taken[0]:
                        found[name] = median(s[name] for s in taken)
    gemm = [v for k, v in found.items() if k.startswith("gemm/")]
    if gemm:
        found["peak"] = max(gemm)
    return found


def comparison(
    case: str, sides: dict[str, list[dict]], part: Callable[[float], str]
) -> list[list[str]]:
    """One row a peer: ratio, spread, goal, rates, part of the limits, compile times."""
    ours_name = OURS[case.split("/")[0]]
    ours = sides.get(ours_name)
    rows = []
    for peer, theirs in sides.items():
        if peer == ours_name:
            continue
        their_rate = middle(case, theirs)
        row = [case.split("/", 1)[1], peer]
        if ours:
            ratios = [rate(case, a) / rate(case, b) for a, b in zip(ours, theirs)]
            ours_rate = middle(case, ours)
            row += [
                f"**{median(ratios):.2f}x**",
                f"[{min(ratios):.2f}, {max(ratios):.2f}]",
            ]
        else:
            ours_rate = 0.0
            row += ["", ""]
        goal = GOALS.get(case, {}).get(peer)
        row += [
            f"{goal}x" if goal else "",
            number(ours_rate) if ours else "",
            number(their_rate),
            part(ours_rate) if ours else "",
            part(their_rate),
            compile_time(ours) if ours else "",
            compile_time(theirs),
        ]
        rows.append(row)
    return rows


COLUMNS = ["case", "peer", "ratio", "spread", "goal", "o1jax", "peer", "o1jax: {}"]
COLUMNS += ["peer: {}", "o1jax compile", "peer compile"]


def columns(limit: str) -> list[str]:
    """The head of a comparison table."""
    return [name.format(limit) for name in COLUMNS]


def percent(x: float) -> str:
    """A part as whole percent."""
    return f"{100 * x:.0f} %"


def decode_part(case: str, found: dict[str, float]) -> Callable[[float], str]:
    """Rate -> its part of the GEMM peak and of the read bandwidth."""
    _, name, rows, *_ = sizes.parse(case)
    size = sizes.SIZES[name]
    tokens = int(rows) * size.new_tokens

    def part(tokens_per_second: float) -> str:
        if "peak" not in found or "read" not in found:
            return ""
        calls = tokens_per_second / tokens / 1e9
        flops = calls * size.decode_flops(int(rows)) / found["peak"]
        moved = calls * size.decode_bytes(int(rows)) / found["read"]
        return f"{percent(flops)} / {percent(moved)}"

    return part


def train_part(case: str, found: dict[str, float]) -> Callable[[float], str]:
    """Rate -> its part of the GEMM peak."""
    size = sizes.SIZES[sizes.parse(case)[1]]
    flops = size.train_flops / size.train_tokens / 1e9

    def part(tokens_per_second: float) -> str:
        if "peak" not in found:
            return ""
        return percent(tokens_per_second * flops / found["peak"])

    return part


def one_row_note(samples: Samples, found: dict[str, float]) -> str:
    """What the machine allows at one row of the 1m policy, whose weights it caches."""
    case, size = sizes.decode_case("1m", 1), sizes.SIZES["1m"]
    sides = samples.get(case, {})
    if "cached" not in found or not {"transformers", OURS["decode"]} <= sides.keys():
        return ""
    moved = size.decode_bytes(1) / size.new_tokens / 1e9
    most = found["cached"] / moved
    return ONE_ROW.format(
        megabytes=moved * 1e3,
        micros=1e6 / most,
        most=most,
        ratio=most / middle(case, sides["transformers"]),
        share=percent(middle(case, sides[OURS["decode"]]) / most),
    )


def all_rows_note(samples: Samples) -> str:
    """What o1jax makes at 128 rows of the 1m policy without refilling."""
    case = sizes.decode_case("1m", 128)
    together = samples.get(f"{case}/128", {}).get(OURS["decode"])
    theirs = samples.get(case, {}).get("transformers")
    if not (together and theirs):
        return ""
    ratio = median(rate(case, a) / rate(case, b) for a, b in zip(together, theirs))
    return ALL_ROWS.format(rate=number(middle(case, together)), ratio=ratio)


def limits_section(found: dict[str, float]) -> str:
    """What the machine can do."""
    names = {"numpy": "OpenBLAS (numpy)", "jax": "XLA (jax)", "torch": "MKL (torch)"}
    rows = [
        [f"f32 GEMM, {names[k.split('/')[1]]}", f"{v:.0f} GFLOP/s"]
        for k, v in found.items()
        if k.startswith("gemm/")
    ]
    rows += [[v, f"{found[k]:.1f} GB/s"] for k, v in READS.items() if k in found]
    return "\n## The machine's limits\n" + table(["limit", "one thread"], rows)


def refill_section(samples: Samples) -> str:
    """Occupancy with refill and without."""
    rows = []
    label = {"refill/1m": "refill", "batches/1m": "batch after batch"}
    for case in label:
        for taken in samples.get(case, {}).values():
            rows.append(
                [
                    label[case],
                    f"**{taken[0]['occupancy']:.3f}**",
                    ">= 0.9" if case == "refill/1m" else "",
                    number(middle(case, taken)),
                    compile_time(taken),
                ]
            )
    requests = next(iter(samples["refill/1m"].values()))[0]["requests"]
    head = ["way", "useful / computed", "goal", "useful tokens/s", "compile"]
    return REFILL.format(requests=requests) + table(head, rows)


def train_section(samples: Samples, found: dict[str, float]) -> str:
    """Train steps, and the peer's best microbatching as a note."""
    rows, note = [], ""
    for case, sides in samples.items():
        if case.startswith("train/") and case.count("/") == 1:
            rows += comparison(case, sides, train_part(case, found))
        elif case.startswith("train/"):
            best = middle(case, sides["torch"])
            note += (
                f"\nIn {case.split('/')[2]} microbatches torch makes {number(best)} "
                f"tokens/s at {case.split('/')[1]} ({train_part(case, found)(best)}).\n"
            )
    for name in sizes.SIZES:
        theirs = samples.get(sizes.train_case(name), {}).get("torch")
        if theirs and "gemm/torch" in found:
            own = train_part(f"train/{name}", {"peak": found["gemm/torch"]})
            share = own(middle(sizes.train_case(name), theirs))
            note += (
                f"\nOf its own library's GEMM peak torch reaches {share} at {name}.\n"
            )
        alone = samples.get(f"products/{name}", {}).get(OURS["train"])
        if alone and "peak" in found:
            gflops = median(s["flops"] / s["seconds"] for s in alone) / 1e9
            note += (
                f"\nThe matrix products of that step at {name} and nothing else reach "
                f"{percent(gflops / found['peak'])}, in one program of XLA.\n"
            )
    return TRAIN + table(columns("of GEMM"), rows) + note


def measured_apart(samples: Samples, when: dict[str, str]) -> str:
    """Which cases were measured in runs of their own, later than the others."""
    kind = lambda case: case.split("/")[0]
    lines: dict[str, set[str | None]] = {}
    for case in samples:
        lines.setdefault(kind(case), set()).add(when.get(case))
    told: dict[str, dict[str, None]] = {}
    for case in filter(when.get, samples):
        together = "/" in case and len(lines[kind(case)]) == 1
        name = f"{kind(case)}/*" if together else case
        told.setdefault(when[case], {})[f"`{name}`"] = None
    if not told:
        return ""
    return APART + "".join(
        f"- {line}: {', '.join(names)}\n" for line, names in told.items()
    )


def render(results: dict) -> str:
    """The whole page."""
    samples: Samples = results["samples"]
    found = limits(samples)
    size = sizes.SIZES["1m"]
    versions = ", ".join(f"{k} {v}" for k, v in sorted(results["versions"].items()))
    rounds = max(len(taken) for sides in samples.values() for taken in sides.values())
    text = HEAD.format(
        **results["machine"],
        minutes=results["seconds"] / 60,
        versions=versions,
        rounds=rounds,
    )
    text += measured_apart(samples, results.get("when", {}))
    if found:
        text += limits_section(found)
    decode = [
        row
        for case, sides in samples.items()
        if case.startswith("decode/")
        for row in comparison(case, sides, decode_part(case, found))
    ]
    if decode:
        text += DECODE.format(prompt=size.prompt, new=size.new_tokens)
        text += table(columns("GEMM / DRAM"), decode)
        text += all_rows_note(samples) + one_row_note(samples, found)
    if any(case.startswith("train/") for case in samples):
        text += train_section(samples, found)
    if "refill/1m" in samples:
        text += refill_section(samples)
    searched = [
        row
        for case, sides in samples.items()
        if case.startswith("search/") and case != "search/memory"
        for row in comparison(case, sides, lambda rate: "")
    ]
    text += report_search.section(samples, searched)
    text += report_learning.section(samples)
    return text + report_scripts.section()

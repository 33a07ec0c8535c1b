"""The tables of the search: what the engine costs, over a policy, and in memory."""

from statistics import median

import sizes
from tables import table

GOALS = {
    sizes.overhead_case("puct", 16, 32): {"mctx": 3},
    sizes.overhead_case("gumbel", 16, 32): {"mctx": 1},
    sizes.overhead_case("puct", 128, 512): {"mctx": 20},
    sizes.overhead_case("gumbel", 128, 512): {"mctx": 30},
    "search/tokens/1": {"mctx": 10},
    "search/tokens/8": {"mctx": 22},
    "search/steps/1": {"loop": 10},
    "search/steps/8": {"loop": 10},
}
GROWTH = 2.5  # at most

HEAD = """
## Tree search

overhead/RULE/TREES/SIMULATIONS: a network of a few integer hashes with 4 children a
node, so that the engine alone is measured, beside mctx's muzero and gumbel policies.
Simulations a second, those of all trees together.

tokens/LEAVES: the 1m policy, {tokens.trees} trees, {tokens.simulations} simulations,
the {tokens.children} likeliest tokens as children, prompts of {tokens.prompt} tokens
and paths of at most {tokens.depth}; mctx reads that window again at each simulation.
Simulations a second.

steps/LEAVES: the 1m policy, {steps.trees} trees, {steps.simulations} simulations,
steps of {steps.tokens} tokens, {steps.children} children, prompts of {steps.prompt}
tokens and paths of at most {steps.depth} steps. Beside it a Python loop over jitted
calls, each of which reads prompt and path of its rows in one pass into a cache and
decodes their steps, all rows at once; o1jax draws at most sixteen rows at a time, as it
does on any CPU for a policy of this size. New nodes a second.

LEAVES walks of a tree are expanded at once (mctx: one always).
"""

GROWS = """
Cost of a simulation at {most} simulations over that at {least}, {trees} trees; trees
are deeper then.
"""

MEMORY = """
Bytes of a node of steps/8, from the shapes of the arrays: keys and values are those of
one step.
"""


def unit(case: str) -> str:
    """What is counted a second."""
    return "nodes" if case.startswith("search/steps/") else "simulations"


def section(samples: dict, compared: list[list[str]]) -> str:
    """All tables; `compared` holds the rows of those cases that have a peer."""
    text = ""
    if compared:
        head = ["case", "peer", "ratio", "spread", "goal", "o1jax", "peer"]
        head += ["o1jax compile", "peer compile"]
        rows = [row[:7] + row[9:] for row in compared]  # without parts of the limits
        text += HEAD.format(**sizes.SEARCHES) + table(head, rows)
        text += agreement(samples)
    text += growth(samples)
    for taken in samples.get("search/memory", {}).values():
        node = taken[0]
        head = ["keys and values", "one step's", "the rest of the page", "edges"]
        names = ("keys_values", "step", "page", "edges")
        text += MEMORY + table(head, [[f"{node[name]:,}" for name in names]])
    return text


def agreement(samples: dict) -> str:
    """Whether the sides of the overhead searched the same trees."""
    seen = {
        case: {s["visits"] for taken in sides.values() for s in taken}
        for case, sides in samples.items()
        if case.startswith("search/overhead/") and len(sides) > 1
    }
    differ = [case for case, checksums in seen.items() if len(checksums) > 1]
    if not seen:
        return ""
    if differ:
        return f"\n**Root visits differ between the sides: {', '.join(differ)}.**\n"
    return "\nRoot visits are the same on both sides, on every tree.\n"


def growth(samples: dict) -> str:
    """How the cost of a simulation grows with their number."""
    (trees, least), *_, (_, most) = sizes.OVERHEAD[1:]
    rows = []
    for rule in ("puct", "gumbel"):
        small, large = (
            samples.get(sizes.overhead_case(rule, trees, n), {}) for n in (least, most)
        )
        for side in small.keys() & large.keys():
            cost = lambda taken: median(s["seconds"] / s["work"] for s in taken[side])  # noqa: B023
            goal = f"<= {GROWTH}" if side == "o1jax-search" else ""
            rows.append([rule, side, f"**{cost(large) / cost(small):.2f}**", goal])
    if not rows:
        return ""
    text = GROWS.format(most=most, least=least, trees=trees)
    return text + table(["rule", "side", "growth", "goal"], sorted(rows))

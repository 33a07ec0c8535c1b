"""The table of learning: GRPO beside its peers, PPO's update beside cloning's.

A rate is what a row is about a second: steps, new tokens, or FLOPs.
"""

from statistics import median

import sizes
from tables import compile_time, number, table

GOALS = {
    "grpo/1m": {"trl": 1.5, "tunix-grpo": 1.8},
    "grpo-rollout/1m": {"trl": 2.5, "tunix-grpo": 2.2},
    "ppo-update/1m": {"o1jax-train": 0.8},
}
OURS = "o1jax-grpo"
NAMES = {"tunix-grpo": "tunix", "o1jax-train": "cloning"}

HEAD = """
## Learning

grpo: one step, {prompts} prompts x {samples} samples, {prompt} + {new} tokens, no stop
token, one update, KL to a reference in the loss (beta {beta}); from text to text:
tokenizing, sampling, decoding, a reward that counts a word, log-probs of the reference,
advantages, gradient, clipping, AdamW. Seconds a step.

grpo-rollout: its sampling alone, with what each side keeps of it. New tokens a second.

trl: GRPOTrainer with eager torch and a dynamic cache, no gradient checkpointing, fused
AdamW, the update in one piece (2 to 8 gained nothing; a static cache and continuous
batching were slower). tunix: GRPOLearner with its own sampler, the update in 8
microbatches (1 and 2 were slower, 4 the same), the reference's log-probs in one.
o1jax: 16 rows are decoded at once, refilled from the queue; the update in 16
microbatches.

ppo-update: the responses are there; the reference and a critic of its own network read
them, GAE, then one update of both networks. Beside it the cloning step of train/1m.
GFLOP/s by the ledger's count of each.
"""


def is_learning(case: str) -> bool:
    """Whether a case belongs here."""
    return case in GOALS


def unit(case: str) -> str:
    """What is counted a second."""
    return {"grpo": "steps", "grpo-rollout": "tokens"}.get(case.split("/")[0], "FLOP")


def rate(case: str, sample: dict) -> float:
    """Of it, a second."""
    kind, name = sizes.parse(case)[:2]
    rows = sizes.GRPO_PROMPTS * sizes.GRPO_SAMPLES
    work = {"grpo": 1, "grpo-rollout": rows * sizes.SIZES[name].new_tokens}
    return (sample["flops"] if kind == "ppo-update" else work[kind]) / sample["seconds"]


def shown(case: str, per_second: float) -> str:
    """A rate as the table has it."""
    if unit(case) == "steps":
        return f"{1 / per_second:.2f} s"
    if unit(case) == "FLOP":
        return f"{per_second / 1e9:.0f} GFLOP/s"
    return f"{number(per_second)} tokens/s"


def section(samples: dict) -> str:
    """All of it."""
    rows = []
    for case in filter(is_learning, samples):
        ours = samples[case][OURS]
        for peer, theirs in samples[case].items():
            if peer == OURS:
                continue
            each = [[rate(case, s) for s in taken] for taken in (ours, theirs)]
            ratios = [a / b for a, b in zip(*each)]
            goal = GOALS[case].get(peer)
            rows.append(
                [
                    case,
                    NAMES.get(peer, peer),
                    f"**{median(ratios):.2f}x**",
                    f"[{min(ratios):.2f}, {max(ratios):.2f}]",
                    f"{goal}x" if goal else "",
                    *(shown(case, median(x)) for x in each),
                    compile_time(ours),
                    compile_time(theirs),
                ]
            )
    if not rows:
        return ""
    size = sizes.SIZES["1m"]
    text = HEAD.format(
        prompts=sizes.GRPO_PROMPTS,
        samples=sizes.GRPO_SAMPLES,
        prompt=size.prompt,
        new=size.new_tokens,
        beta=sizes.GRPO_BETA,
    )
    head = ["case", "peer", "ratio", "spread", "goal", "o1jax", "peer"]
    return text + table(head + ["o1jax compile", "peer compile"], rows)

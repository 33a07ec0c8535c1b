"""How different the answers to one question are.

In: several responses to each question, their grades and log-probs. Out: numbers for a
report: distinct solutions, right ones among them, and entropies. A policy that has
learned one way of solving has lost these long before its accuracy falls: pass@k no
longer rises with k.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from o1jax.statistics import bootstrap_interval

Parse = Callable[[str], tuple[tuple[str, ...], str]]


def diversity(
    texts: Sequence[Sequence[str]],
    right: np.ndarray,
    logprob: np.ndarray,
    parse: Parse,
) -> dict[str, list[float]]:
    """[mean, lo, hi] over questions of four numbers.

    texts [P][G], right bool[P, G], logprob f[P, G] of each whole response as it was
    sampled. Two texts are one solution if `parse` finds the same steps in them.
    distinct and distinct_right count solutions; entropy is that of the G solutions'
    own frequencies, in nats, at most log G; surprise is the mean of -logprob, an
    unbiased estimate of the entropy over texts of what was sampled from.
    """
    rows = []
    for own, own_right in zip(texts, right, strict=True):
        solutions = [parse(text)[0] or (text,) for text in own]
        good = {s for s, is_right in zip(solutions, own_right) if is_right}
        share = np.array(list(Counter(solutions).values())) / len(solutions)
        entropy = float(-(share * np.log(share)).sum())
        rows.append((len(share), len(good), max(entropy, 0.0)))
    distinct, distinct_right, entropy = map(np.array, zip(*rows))
    return {
        "distinct": list(bootstrap_interval(distinct.astype(float))),
        "distinct_right": list(bootstrap_interval(distinct_right.astype(float))),
        "entropy": list(bootstrap_interval(entropy)),
        # Rounded to what does not depend on how many devices sampled.
        "surprise": [round(x, 4) for x in bootstrap_interval(-logprob.mean(axis=1))],
    }

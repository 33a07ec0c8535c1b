"""Two methods at the same cost, where neither was run at exactly the other's.

In: accuracy [N, P] and cost [N, P] of a method at N budgets on P problems, and a cost.
Out: what the method earns there on each problem, between the two budgets around it, so
that it can be paired with another method's answers to the same problems.
"""

import numpy as np

Array = np.ndarray


def at_cost(accuracy: Array, cost: Array, wanted: float) -> Array | None:
    """f64[P]: linear in the log of the mean cost; None beyond what was run.

    Some problems at one budget and the rest at the other would be linear in the cost:
    on a curve that bends down that earns less, so this flatters the method a little.
    """
    mean = cost.mean(axis=1)
    if np.any(np.diff(mean) <= 0):
        raise ValueError(f"mean costs must rise with the budget, got {mean.tolist()}")
    if not mean[0] <= wanted <= mean[-1]:
        return None
    above = max(1, int(np.searchsorted(mean, wanted)))
    lo, hi = np.log(mean[above - 1 : above + 1])
    part = (np.log(wanted) - lo) / (hi - lo)
    return (1 - part) * accuracy[above - 1] + part * accuracy[above]

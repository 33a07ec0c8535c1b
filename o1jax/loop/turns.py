"""What two attempts at a question are paid, the second in sight of the first.

In: what each attempt is worth. Out: their payments, and how often the second was better
or worse. Episodes are drawn by episodes.py. Source: SCoRe, Kumar et al. 2024, arXiv
2409.12917, with the divergence among the terms of the loss instead of the reward.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from o1jax.config import configurable
from o1jax.learn.policy_objective import PolicyGradient


@configurable
@dataclass(frozen=True)
class Turns:
    """What the two attempts are paid, and how the second follows the first.

    SCoRe's stage I is pay_first False with a large first_kl, stage II both paid with
    alpha above 1.
    """

    alpha: float = 0.0  # of the second's bonus, alpha * (r2 - r1)
    # Of what the second is paid, bonus included, that the first is paid too. Where
    # gamma * alpha is above 1 that pays for being wrong at first.
    gamma: float = 0.0
    pay_first: bool = True  # the first attempt for what it is worth itself
    first_kl: float = 0.0  # more of KLControl.coef, on first attempts
    # Written behind the first attempt and the end of text that closes it. "": nothing,
    # which is how the search method 'revision' writes a further attempt.
    mark: str = ""
    # For cloning: both attempts are the worked solution, the second behind a first one
    # of the policy's own: any, or one that is wrong. So one that never wrote two
    # attempts learns the format. Behind right ones it learns to copy, which is easy.
    teach: Literal["", "any", "wrong"] = ""

    def __post_init__(self) -> None:
        for name in ("alpha", "first_kl"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0")
        if self.teach not in ("", "any", "wrong"):
            raise ValueError("teach must be '', 'any' or 'wrong'")
        if not 0 <= self.gamma <= 1:
            raise ValueError("gamma must be from 0 to 1")

    def paid(
        self, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """f64[R] each: the two payments for attempts worth `first` and `second`.

        second: r2 + alpha (r2 - r1),   first: r1 + gamma * (what second is paid)
        """
        behind = second + self.alpha * (second - first)
        return self.pay_first * first + self.gamma * behind, behind

    def refuse(self, stage: Any) -> None:
        """ValueError if an Improve stage cannot have two attempts."""
        learner, payment = stage.learner, stage.payment
        gradient = isinstance(learner, PolicyGradient)
        cloning = not gradient and getattr(learner, "keep", "") == "right"
        if not gradient and (not cloning or learner.hint):
            raise ValueError(
                "turns: two attempts are for a policy gradient, or for Clone with keep "
                "'right' and without a hint"
            )
        if stage.search is not None:
            raise ValueError("turns: two attempts are sampled, so set no search")
        if self.teach and gradient:
            raise ValueError("turns: teach is for Clone, solutions are not drawn")
        if self.first_kl and not (gradient and learner.has_divergence):
            raise ValueError("turns: first_kl needs a Divergence among the terms")
        if payment.pay != "outcome" or payment.shaping.potential == "process":
            raise ValueError("turns: payment is for whole attempts, by outcome")
        if payment.refresh_every:
            raise ValueError("turns: a reward model that learns on sees one attempt")


def corrections(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """f64[Q] each, of bool[Q, G]: right at each turn, and what changed in between.

    delta is wrong_to_right - right_to_wrong; both are parts of all episodes.
    """
    t1, t2 = first.mean(axis=1), second.mean(axis=1)
    return {
        "accuracy@t1": t1,
        "accuracy@t2": t2,
        "delta": t2 - t1,
        "wrong_to_right": (~first & second).mean(axis=1),
        "right_to_wrong": (first & ~second).mean(axis=1),
    }

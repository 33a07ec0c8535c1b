"""What a budget buys with each method, by hand."""

from dataclasses import replace

import pytest

from o1jax.loop.guides import Verifier
from o1jax.loop.methods import Search, _frontier
from o1jax.loop.self_evaluation import SelfEvaluation
from o1jax.search.steps import Steps

SIXTEEN = Search(method="best_of_n", budget=16, depth=5, steps=Steps(children=4))


@pytest.mark.parametrize(
    "change, width, children, depth, independent, lookahead",
    [
        ({}, 16, 1, 5, True, 0),
        ({"budget": 3}, 3, 1, 5, True, 0),
        ({"depth": 7}, 16, 1, 7, True, 0),
        # 16 draws a level: 4 survivors of 4 draws each.
        ({"method": "beam"}, 4, 4, 5, False, 0),
        ({"method": "beam", "steps": Steps(children=2)}, 8, 2, 5, False, 0),
        ({"method": "beam", "budget": 3}, 1, 3, 5, False, 0),
        ({"method": "dvts"}, 4, 4, 5, True, 0),
        # A candidate costs its own step and those looked ahead: 16 / (4 x 2) survivors.
        ({"method": "lookahead"}, 2, 4, 5, False, 1),
        ({"method": "lookahead", "lookahead": 3}, 1, 4, 5, False, 3),
        # 16 attempts: 8 chains of an answer and its revision, or 4 of 4 attempts.
        ({"method": "revision"}, 8, 1, 2, True, 0),
        ({"method": "revision", "revisions": 3}, 4, 1, 4, True, 0),
    ],
)
def test_a_population_of_a_budget(
    change, width, children, depth, independent, lookahead
):
    made = _frontier(replace(SIXTEEN, **change))
    assert (made.width, made.children, made.depth) == (width, children, depth)
    assert (made.independent, made.lookahead) == (independent, lookahead)
    assert made.answer == ("any" if change.get("method") == "revision" else "last")


@pytest.mark.parametrize(
    "change, label",
    [
        ({}, "best-of-n (value)"),
        ({"select": "majority"}, "best-of-n (value, majority)"),
        ({"verifier": Verifier()}, "best-of-n (verifier)"),
        ({"verifier": Verifier(noise=0.5)}, "best-of-n (verifier, noise 0.5)"),
        ({"steps": Steps(guide="constant")}, "best-of-n (constant)"),
        ({"name": "mine"}, "mine"),
    ],
)
def test_labels(change, label):
    assert replace(SIXTEEN, **change).label == label


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "bean"}, "method must be one of best_of_n"),
        ({"select": "best"}, "select must be one of max"),
        ({"budget": 0}, "budget must be at least 1"),
        ({"lookahead": 0}, "lookahead must be at least 1"),
        ({"depth": -1}, "depth must not be negative"),
        ({"answer_tokens": float("nan")}, "answer_tokens must not be negative"),
        ({"revisions": -1}, "revisions must not be negative"),
        (
            {
                "verifier": Verifier(),
                "self_evaluation": SelfEvaluation(ask="ok ?", yes="y", no="n"),
            },
            "verifier and self_evaluation",
        ),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SIXTEEN, **change)

"""A12: searches written as text teach more than optimal paths, and improve under RL.

In: policies that read as many tokens of searches, depth first with all wrong turns, as
another read of solutions alone; and both after the same rounds of reinforcement
learning. Out: greedy answers and samples with paired differences, how sound the
searches are, and checks that each can fail. Gandhi et al. 2024, arXiv 2404.03683; they
mix twelve kinds of searches.
"""

from typing import Any

import numpy as np

from o1jax.data.search_text import SearchText
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.learn.policy_objective import RECIPES
from o1jax.loop.guard import Guard
from o1jax.loop.improve import Improve
from o1jax.loop.reproduce.claim import Arm, Claim, Evidence, Findings, Tier
from o1jax.loop.reproduce.learned import covered
from o1jax.loop.reproduce.learned_report import costs
from o1jax.loop.reproduce.taught import Taught, taught
from o1jax.loop.reproduce.taught_report import (
    above,
    differences,
    equal_tokens,
    shown,
    tested,
    tried,
)
from o1jax.statistics import bootstrap_interval
from o1jax.tasks import Countdown

ROOM = 240  # words of a search
SAMPLES = 16
ROUNDS, QUESTIONS, ANSWERS = 40, 32, 8
RATE = 3e-4
# As experiments/claims/countdown4-text.gin has it.
COUNTDOWN = Countdown(numbers=4, max_number=6, max_target=24, max_value=24)
# One kind of search: several heuristics are several languages to so small a policy.
SEARCHES = SearchText(
    task=COUNTDOWN,
    breadth_first=0,
    widths=(5,),
    heuristics=("sum",),
    max_words=ROOM,
)
OPTIMAL, SEARCH = "optimal", "search"
FILES = "experiments/init/search.gin and optimal.gin"
COLUMNS = (
    "countdown with",
    "tokens read",
    "solutions, greedy",
    "searches, greedy",
    "sound",
)
TRIED = (
    ("three numbers up to 20, results up to 100, all kinds", 12e6, 0.735, 0.480, 0.308),
    ("the same, a pilot", 3.7e6, None, None, 0.008),
    ("this claim's numbers, a pilot", 6e6, None, 0.07, 0.23),
)
WHY = (
    "A search writes ten results and more, and is lost at its first wrong one: a "
    "policy of this size reads most of its tokens to learn the arithmetic and the "
    "form. With three numbers and all kinds of searches the order is the same, though "
    "searches still gain: at 3.7 million tokens next to none is sound. The pilots are "
    "of search.gin alone, on 100 and 128 questions."
)


def rl() -> Improve:
    """The same rounds for both."""
    return Improve(
        rounds=ROUNDS,
        questions=QUESTIONS,
        samples=ANSWERS,
        learner=RECIPES["rloo"],
        microbatches=8,
        optimizer=OptimizerConfig(RATE, 5, "constant", weight_decay=0.0),
        guard=Guard(patience=0),
    )


def _arms() -> tuple[Arm, ...]:
    read = {OPTIMAL: {}, SEARCH: {"text": SEARCHES, "room": ROOM}}
    methods = {
        name + ("-rl" if stages else ""): Taught(
            stages=stages, samples=SAMPLES, **about
        )
        for stages in ((), (rl(),))
        for name, about in read.items()
    }
    return tuple(Arm(name, method, taught) for name, method in methods.items())


def analyse(evidence: Evidence) -> Findings:
    """Checks of the shape, then tables."""
    arms = list(evidence.arms)
    checks = [
        equal_tokens(evidence, (OPTIMAL, SEARCH)),
        above(evidence, SEARCH, OPTIMAL, "greedy"),
        above(evidence, f"{SEARCH}-rl", SEARCH, "greedy"),
        above(evidence, f"{SEARCH}-rl", f"{OPTIMAL}-rl", "greedy"),
    ]
    pairs = [
        (SEARCH, OPTIMAL),
        *((f"{name}-rl", name) for name in (SEARCH, OPTIMAL)),
        (f"{SEARCH}-rl", f"{OPTIMAL}-rl"),
    ]
    text = (
        f"{ROUNDS} rounds of RLOO with {QUESTIONS} questions and {ANSWERS} samples "
        "each, an update a round."
    )
    sections = [
        tested(evidence, arms, ("greedy", "sampled")),
        differences(evidence, pairs, ("greedy", "sampled")),
        _found_by(),
        _at_equal_tokens(evidence),
        shown(evidence, arms, "texts", title="What the texts show"),
        costs(evidence, {f"{name}-rl": RATE for name in (OPTIMAL, SEARCH)}, text=text),
        tried(FILES, WHY, COLUMNS, TRIED),
    ]
    return Findings(checks, sections)


def _found_by(texts: int = 500) -> dict[str, Any]:
    """How many of the searches that are read find an answer."""
    examples = [SEARCHES.example(0, "test", i) for i in range(texts)]
    found = float(np.mean([bool(e.hidden.trace.solution) for e in examples]))
    words = float(np.mean([e.hidden.trace.words for e in examples]))
    return {
        "name": "The searches themselves",
        "text": f"Of {texts} test questions the search that is imitated answers "
        f"{found:.3f}, in {words:.0f} words of {ROOM} at most; texts that find nothing "
        "are read as well.",
    }


def _at_equal_tokens(evidence: Evidence) -> dict[str, Any]:
    """What as many generated tokens buy where several short answers are drawn."""
    rows = []
    for suffix in ("", "-rl"):
        a, b = f"{SEARCH}{suffix}", f"{OPTIMAL}{suffix}"
        length = lambda arm: evidence.column(arm, "tokens").mean() / SAMPLES
        ratio = float(length(a) / length(b))
        k = int(np.clip(round(ratio), 1, SAMPLES))
        own = [*bootstrap_interval(evidence.accuracy(a))]
        rows.append([a, own, b, k, [*bootstrap_interval(covered(evidence, b, k))]])
    return {
        "name": "At equal tokens of the answer",
        "text": "A search is long. In its place the other policy draws k answers of "
        "about as many tokens together, and a checker takes a right one if there is "
        "one, which countdown's question allows. Part of samples that is right against "
        "pass@k.",
        "table": {
            "columns": ["policy", "pass@1", "other", "k", "pass@k"],
            "rows": rows,
        },
    }


CLAIM = Claim(
    name="A12",
    statement="Search traces as training text beat optimal paths, and improve under RL",
    source="2404.03683",
    shape="on countdown with four numbers a model trained on searches, of which 57 % "
    "find an answer, is right on 51.3 % of new problems, one trained on optimal paths "
    "on 25.7 %; policy improvement then solves 36 % of what it had not solved.",
    tiers={
        "nano": Tier(
            experiment="claims/countdown4-text.gin", arms=_arms(), problems=200
        ),
    },
    analyse=analyse,
)

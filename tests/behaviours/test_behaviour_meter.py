"""The meter finds what the author wrote without being told, on damaged text as well."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1jax.data.behaviours import Behaviours, counts, rates
from o1jax.data.behaviours.marks import number, segments
from o1jax.data.behaviours.meter import COUNTS
from o1jax.tasks import Chain, Countdown, Graph

BASES = [Chain(), Countdown(), Countdown(numbers=4, max_number=13), Graph()]
every_base = pytest.mark.parametrize("base", BASES, ids=repr)
MIX = dict(
    correction=0.3, alternatives=0.3, delay=2, false_accept=0.3, false_reject=0.2
)


@every_base
def test_the_meter_agrees_with_the_author(base):
    """Precision and recall of every count over 400 texts: all exactly 1."""
    task = Behaviours(task=base, **MIX)
    brief = Behaviours(task=base, **(MIX | {"delay": 0}), numbered=False)
    written, found = Counter(), Counter()
    for i in range(400):
        text = (task, brief)[i % 2].example(5, "train", i).hidden
        own = counts(base, text.example, text.response)
        own = Counter({name: own[name] for name in COUNTS})
        assert +own == text.labels, text.response
        written += text.labels
        found += own
    assert found == written
    seen = set(COUNTS) - {"answer", "answer_right", "malformed"}
    assert seen <= set(written) and not written["malformed"]


@pytest.mark.parametrize("base", [Chain(), Graph()], ids=repr)
def test_mistakes_that_are_none_by_luck_are_seen(base):
    """A later step of the solution, written too early, may be right where it stands."""
    task = Behaviours(task=base, correction=0.5, mistakes="weak", evaluation=0.3)
    texts = [task.example(0, "train", i).hidden for i in range(300)]
    labels = sum((text.labels for text in texts), Counter())
    found = sum((counts(base, t.example, t.response) for t in texts), Counter())
    assert {n: found[n] for n in COUNTS} == {n: labels[n] for n in COUNTS}
    assert 0 < labels["back"] - labels["back_needed"] < labels["back"]


CHAIN = Chain().parse("7 + 5 * 3 - 2")  # 12 ; 13 ; 11
CASES = [
    ("<analysis> 7 , #3 ;", {"analysis": 1, "analysis_right": 1}),
    ("<analysis> 7 , #4 ;", {"analysis": 1}),
    ("<plan> #1 + 5 , #2 * 3 , #3 - 2 ;", {"plan": 1, "plan_right": 1}),
    ("<plan> #1 + 5 , #2 * 3 ;", {"plan": 1}),
    ("<answer> 11 ;", {"answer": 1, "answer_right": 1}),
    ("12 ; <check> right 90% ;", {"check": 1, "check_right": 1}),
    ("13 ; <check> right 90% ;", {"check": 1, "false_accept": 1}),
    ("12 ; <check> wrong 10% ;", {"check": 1, "false_reject": 1}),
    ("12 ; <check> right ;", {"malformed": 1}),
    ("12 ; <check> perhaps 50% ;", {"malformed": 1}),
    ("12 ; <check> right 95% ;", {"malformed": 1}),
    ("12 ; 4 ; 5 ; <back> #2 ; 13 ;",
     {"back": 1, "back_needed": 1, "back_found": 1, "back_mended": 1}),
    ("12 ; 4 ; 5 ; <back> #2 ; 14 ;", {"back": 1, "back_needed": 1, "back_found": 1}),
    ("12 ; 4 ; 5 ; <back> #3 ; 6 ;", {"back": 1, "back_needed": 1}),
    ("12 ; 4 ; 5 ; <back> #1 ; 12 ;", {"back": 1, "back_needed": 1, "back_mended": 1}),
    ("12 ; <back> #1 ; 12 ;", {"back": 1}),
    (
        "12 ; 4 ; <back> ; 13 ;",
        {"back": 1, "back_needed": 1, "back_found": 1, "back_mended": 1},
    ),
    ("12 ; 4 ; 5 ; <back> ; 6 ;", {"back": 1, "back_needed": 1}),
    ("<back> ;", {"malformed": 1}),
    ("12 ; <back> #2 ; 12 ;", {"malformed": 1}),
    ("12 ; <other> 7 - 18 : 12 ;", {"other": 1, "other_right": 1}),
    ("12 ; <other> 7 - 17 : 12 ;", {"other": 1}),
    ("12 ; <other> 12 ;", {"other": 1}),  # the same way again
    ("4 ; <other> 12 ;", {"other": 1, "other_right": 1}),
]  # fmt: skip


@pytest.mark.parametrize("text, expected", CASES)
def test_counts_by_hand(text, expected):
    found = counts(Chain(), CHAIN, text)
    hidden = ("step", "step_right", "true_reject", "squared_error")
    assert {n: c for n, c in found.items() if n not in hidden} == expected


def test_plans_of_the_other_tasks():
    down, graph = Countdown(), Graph()
    asked = down.parse("9 12 19 -> 22")
    right = lambda text, task, e: counts(task, e, f"<plan> {text} ;")["plan_right"]
    assert right("#1 19 + 12 , #2 31 - 9", down, asked) == 1
    assert right("#1 19 - 9 , #2 12 + 10", down, asked) == 1  # another way
    assert right("#1 19 - 9 , #2 12 - 10", down, asked) == 0
    assert right("#1 19 + 12 , #1 31 - 9", down, asked) == 0
    asked = graph.parse("b = a * 3 , a = 5 , d = 2 , b ?")
    assert right("#1 a , #2 b", graph, asked) == 1
    assert right("#1 d , #2 a , #3 b", graph, asked) == 1
    assert right("#1 b , #2 a", graph, asked) == 0
    assert right("#1 a", graph, asked) == 0


def test_rates_are_shares():
    texts = [
        "12 ; <check> right 80% ;",  # (1 - .8)^2 = .04
        "13 ; <check> right 80% ; <check> wrong 0% ; <back> #1 ; 12 ;",  # .64 and 0
        "12 ;",
        "13 ; <check> right 100% ; <back> #1 ; 14 ;",  # 1
    ]
    found = rates(Chain(), [CHAIN] * 4, texts)
    assert found == {
        **dict(analysis=0, decomposition=0, completion=0, alternatives=0),
        "evaluation": 3 / 4,
        "correction": 2 / 4,
        "false_accept": 2 / 3,  # of three checks of wrong steps
        "false_reject": 0,  # of one check of a right step
        "brier": pytest.approx((0.04 + 0.64 + 0 + 1) / 4),
        "back_found": 1,
        "back_mended": 1 / 2,
    }
    assert Behaviours(task=Chain()).measure([CHAIN] * 4, texts) == found


def by_words(text: str) -> Counter:
    """Whole segments of each mark, counted by another reader."""
    heads = [part.split()[:1] for part in text.split(";")[:-1]]
    return Counter(head[0] for head in heads if head)


@every_base
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_text_is_counted(base, data):
    """Words lost, doubled and replaced: notes are counted as they stand, no crash."""
    task = Behaviours(task=base, **MIX)
    text = task.example(0, "train", data.draw(st.integers(0, 200))).hidden
    words = text.response.split()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(words) - 1))
        new = data.draw(st.lists(st.sampled_from(task.symbols()), max_size=2))
        words[at : at + 1] = new
    damaged = " ".join(words)
    found = counts(base, text.example, damaged)
    marks = by_words(damaged)
    assert found["analysis"] == marks["<analysis>"] and found["plan"] == marks["<plan>"]
    assert found["work"] == marks["<work>"]
    assert found["check"] + found["back"] <= marks["<check>"] + marks["<back>"]
    kinds = ("false_accept", "false_reject", "check_right")
    assert sum(found[kind] for kind in kinds) == found["check"]
    assert found["back_mended"] <= found["back_needed"] <= found["back"]
    assert found["back_found"] <= found["back_needed"]
    assert all(found[f"{n}_right"] <= found[n] for n in ("step", "other", "plan"))
    assert min(rates(base, [text.example], [damaged]).values(), default=0) >= 0


def test_numbers_of_segments():
    found, rest = segments("<back> #3 ; 4 ;x")
    assert [(s.mark, s.body, s.end) for s in found] == [
        ("<back>", "#3", 11),
        ("", "4", 15),
    ]
    assert rest == "x" and number(found[0].body) == 3

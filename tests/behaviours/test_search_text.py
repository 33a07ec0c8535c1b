"""Searches as text: worked out by hand, made at random, corrupted, and graded."""

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from o1jax.data.search_text import (
    Limits,
    SearchTemplate,
    SearchText,
    follows,
    search,
    space,
    tree_trace,
    verify,
)
from o1jax.data.search_text.grammar import BFS, DFS, response
from o1jax.data.search_text.spaces import heuristics
from o1jax.data.tokenizer import from_symbols
from o1jax.search.trace import Trace
from o1jax.tasks import Chain, Countdown, Graph, Task
from o1jax.tasks.steps import MAX_RESPONSE

TASKS = [Countdown(), Countdown(numbers=4, max_number=13), Graph()]
every_task = pytest.mark.parametrize("base", TASKS, ids=repr)
FREE = Limits(words=10_000, nodes=1000)


def three_numbers():
    """1 2 3 -> 9, which only (2 + 1) * 3 reaches."""
    task = Countdown(min_target=1)
    return space(task, task.parse("1 2 3 -> 9"))


def test_depth_first_by_hand():
    """Sums of distances to 9: 1 6 has 11; 1 5, 2 4 and 3 3 have 12, in this order."""
    lines = search(three_numbers(), DFS, 4, "sum", FREE).lines
    assert response(lines) == (
        "<dfs> w4 sum ; <at> #0 1 2 3 ; "
        "<new> #1 3 * 2 = 6 , 1 6 ; <at> #1 1 6 ; <new> #2 6 + 1 = 7 , 7 ; "
        "<new> #3 6 * 1 = 6 , 6 ; <new> #4 6 - 1 = 5 , 5 ; <dead> ; "
        "<at> #0 1 2 3 ; <new> #5 3 + 2 = 5 , 1 5 ; <at> #5 1 5 ; "
        "<new> #6 5 + 1 = 6 , 6 ; <new> #7 5 * 1 = 5 , 5 ; <new> #8 5 - 1 = 4 , 4 ; "
        "<dead> ; <at> #0 1 2 3 ; <new> #9 3 + 1 = 4 , 2 4 ; <at> #9 2 4 ; "
        "<new> #10 4 * 2 = 8 , 8 ; <new> #11 4 + 2 = 6 , 6 ; <new> #12 4 - 2 = 2 , 2 ; "
        "<dead> ; <at> #0 1 2 3 ; <new> #13 2 + 1 = 3 , 3 3 ; <at> #13 3 3 ; "
        "<new> #14 3 * 3 = 9 , 9 ; <goal> #14 ; 2 + 1 = 3 , 3 3 ; 3 * 3 = 9 , 9 ;"
    )


def test_breadth_first_by_hand():
    """The best of each level, and then there is nothing left."""
    lines = search(three_numbers(), BFS, 1, "sum", FREE).lines
    assert response(lines) == (
        "<bfs> w1 sum ; <at> #0 1 2 3 ; <new> #1 3 * 2 = 6 , 1 6 ; "
        "<at> #1 1 6 ; <new> #2 6 + 1 = 7 , 7 ; <fail> ;"
    )


def test_heuristics_by_hand():
    """12 has the factors 1 2 3 4 6 12. Of the graph, c reads two and b is read once."""
    task = Countdown()
    one = space(task, task.parse("5 7 8 -> 12"))
    assert one.score("sum", (5, 20)) == 7 + 8
    assert one.score("factor", (5, 20)) == 1 + 8
    task = Graph()
    one = space(task, task.parse("a = 5 , b = a * 3 , d = 2 , c = a + b , c ?"))
    assert one.score("readers", ("a", "d")) == -2
    assert one.score("inputs", ("a", "b")) == -1
    assert [c.state for c in one.children(("a",))] == [("a", "b"), ("a", "d")]
    assert one.children(("a", "b", "d")) == ()  # the query needs three steps


@every_task
def test_every_search_is_sound_and_is_what_its_header_names(base):
    task = SearchText(task=base, max_words=400)
    assert isinstance(task, Task) and task.name == f"{base.name}-search"
    tokenizer = from_symbols(task.symbols())
    solved, marks = 0, set()
    for i in range(150):
        example = task.example(0, "train", i)
        own = base.example(0, "train", i)
        assert example.question == own.question
        text = response(example.steps)
        verdict = task.verify(example, text)
        assert verdict.sound and verdict.line == len(example.steps)
        assert verdict.solved == task.grade(example, text) == ("<goal>" in text)
        assert follows(space(base, own), text, heuristics(base), task.limits)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(text.split()) == example.hidden.trace.words <= 400
        if verdict.solved:
            steps = SearchTemplate().parse(text)[0]
            assert base.grade(own, response(steps)) == 1
            assert task.state_value(example, example.steps) == 1
        solved += verdict.solved
        marks.add(text[:8])
    assert 30 < solved < 150
    assert len(marks) == 10  # both kinds, all widths


def damage(text: str, rng: random.Random, symbols) -> str:
    """Another text: one word, or one line, is lost, doubled, replaced or moved."""
    units = text.split(" ") if rng.random() < 0.5 else text.split(" ; ")
    glue = " " if len(units) == len(text.split(" ")) else " ; "
    at = rng.randrange(len(units))
    kind = rng.randrange(4)
    if kind == 0:
        del units[at]
    elif kind == 1:
        units.insert(at, units[at])
    elif kind == 2:
        other = rng.randrange(len(units))
        units[at], units[other] = units[other], units[at]
    else:
        units[at] = rng.choice(symbols if glue == " " else units)
    return glue.join(units)


def replay(base, own, text) -> None:
    """That what the lines say is so, by the task's own verifier."""
    paths, at, ended = {"#0": []}, None, False
    for line in text.split(" ; "):
        words = line.removesuffix(" ;").split()
        assert not ended or words[0] not in ("<at>", "<new>", "<dead>", "<goal>")
        if words[0] == "<at>":
            at = words[1]
            assert at in paths
        elif words[0] == "<new>":
            assert words[1] == f"#{len(paths)}"
            path = [*paths[at], " ".join(words[2:])]
            checks = base.check_steps(own, response(path))
            off_target = checks[-1].reason.startswith("ends on")
            assert checks[-1].correct or off_target
            paths[words[1]] = path
        elif words[0] == "<goal>":
            ended = True
            assert base.grade(own, response(paths[words[1]])) == 1
            assert text.endswith(f"{line} ; {response(paths[words[1]])}")


@every_task
def test_a_corrupted_search_is_caught(base):
    """All of 900 as a search by its header; what is sound all the same is true."""
    task = SearchText(task=base, max_words=200)
    rng, symbols = random.Random(3), task.symbols()
    caught = whole = 0
    for i in range(900):
        example = task.example(0, "train", i % 50)
        own, text = example.hidden.example, response(example.steps)
        other = damage(text, rng, symbols)
        if other == text:
            continue
        whole += 1
        one = space(base, own)
        if other.split(" ; ")[1:] != text.split(" ; ")[1:]:
            assert not follows(one, other, heuristics(base), task.limits)
        if verify(one, other, heuristics(base)).sound:
            replay(base, own, other)
        else:
            caught += 1
    assert whole > 800
    # Sound but another: a header's width, or `#2` where #5 is the same state.
    assert caught > 0.97 * whole


CORRUPT = [  # of a search for 1 2 3 -> 9
    ("<bfs> w9 sum ; <fail> ;", 0, "is no header"),
    ("<at> #0 1 2 3 ; <dfs> w4 sum ;", 1, "leaves a node"),
    ("<at> #0 1 2 4 ;", 0, "is not that node's state"),
    ("<at> #1 1 6 ;", 0, "visits a node that was not found"),
    ("<new> #1 3 * 2 = 6 , 1 6 ;", 0, "is a child of no node"),
    ("<at> #0 1 2 3 ; <new> #2 3 * 2 = 6 , 1 6 ;", 1, "has not the next number"),
    ("<at> #0 1 2 3 ; <new> #1 3 * 2 = 5 , 1 5 ;", 1, "is no step from that node"),
    ("<at> #0 1 2 3 ; <new> #1 2 * 3 = 6 , 1 6 ;", 1, "is no step from that node"),
    (
        "<at> #0 1 2 3 ; <new> #1 3 * 2 = 6 , 1 6 ; <new> #2 3 * 2 = 6 , 1 6 ;",
        2,
        "was found before",
    ),
    ("<at> #0 1 2 3 ; <dead> ; <new> #1 3 * 2 = 6 , 1 6 ;", 2, "is a child of no node"),
    ("<at> #0 1 2 3 ; <dead> ; <at> #0 1 2 3 ;", 2, "goes to where the search is"),
    (
        "<at> #0 1 2 3 ; <new> #1 3 * 2 = 6 , 1 6 ; <at> #1 1 6 ; <dead> ; "
        "<at> #0 1 2 3 ; <new> #2 3 + 2 = 5 , 1 5 ; <at> #1 1 6 ;",
        6,
        "visits a node that was given up",
    ),
    ("<at> #0 1 2 3 ; <dead> ; <dead> ;", 2, "gives up no node"),
    ("<at> #0 1 2 3 ; <fail> ;", 1, "leaves a node"),
    ("<at> #0 1 2 3 ; <dead> ; <goal> #0 ;", 2, "is not a goal"),
    ("<fail> ; <fail> ;", 1, "comes after the end"),
    ("<at> #0 1 2 3 ; <dead> ;", 2, "has no end"),
    ("<at> #0 1 2 3 ; <dead> ; <fail> ; <at>", 3, "has no end"),
    ("3 * 2 = 6 , 1 6 ;", 0, "is no line of a search"),
    ("", 0, "has no end"),
]
TO_GOAL = (
    "<at> #0 1 2 3 ; <new> #1 2 + 1 = 3 , 3 3 ; <at> #1 3 3 ; <new> #2 3 * 3 = 9 , 9 ; "
)
CORRUPT += [
    (TO_GOAL + "<dead> ;", 4, "goes on behind a goal"),
    (TO_GOAL + "<goal> #1 ;", 4, "is not a goal that was just found"),
    (TO_GOAL + "<goal> #2 ;", 5, "has no end"),
    (TO_GOAL + "<goal> #2 ; 3 * 3 = 9 , 9 ;", 5, "is not the next step to the goal"),
    (
        TO_GOAL + "<goal> #2 ; 2 + 1 = 3 , 3 3 ; 3 * 3 = 9 , 9 ; <fail> ;",
        7,
        "is not the next step to the goal",
    ),
]


@pytest.mark.parametrize("text, line, reason", CORRUPT)
def test_each_fault_is_named(text, line, reason):
    verdict = verify(three_numbers(), text, ("sum", "factor"))
    assert (verdict.line, verdict.solved) == (line, False)
    assert verdict.reason.startswith(reason)


def test_what_is_graded():
    task = SearchText(task=Countdown(min_target=1))
    strict = dataclasses.replace(task, strict=True)
    example = task.parse("1 2 3 -> 9")
    steps = "2 + 1 = 3 , 3 3 ; 3 * 3 = 9 , 9 ;"
    whole = f"{TO_GOAL}<goal> #2 ; {steps}"
    lazy = f"<at> #0 9 9 9 ; <goal> #7 ; {steps}"
    grades = lambda text: (task.grade(example, text), strict.grade(example, text))
    assert grades(steps) == grades(whole) == (1, 1)
    assert grades(lazy) == (1, 0)  # the search is nonsense, its solution is right
    assert grades(f"<goal> #2 ; {steps} <goal> #2 ; {steps}") == (0, 0)
    assert grades(f"{TO_GOAL}{steps}") == (0, 0)  # no goal is named
    assert grades(f"{TO_GOAL}<goal> #2 ; 3 * 3 = 9 , 9 ;") == (0, 0)
    assert grades(whole[:-1]) == grades("<goal>") == grades("<fail> ;") == (0, 0)
    checks = task.check_steps(example, lazy)
    assert [c.correct for c in checks] == [False] * 4
    assert [c.reason for c in checks][:2] == [
        "is not that node's state",
        "follows a wrong line",
    ]
    assert [c.correct for c in task.check_steps(example, steps)] == [True, True]
    lines = whole.split(" ; ")
    assert [task.state_value(example, lines[:n]) for n in range(5)] == [1] * 5
    assert task.state_value(example, [*lines[:2], "<at> #1 3 4"]) == 0
    assert task.state_value(example, ["<at> #0 1 2 3", "<dead>", "<fail>"]) == 0


def test_limits_are_kept_and_a_cut_search_is_sound():
    one = three_numbers()
    whole = search(one, DFS, 4, "sum", FREE)
    for words in range(16, whole.words + 1):
        trace = search(one, DFS, 4, "sum", Limits(words, 1000))
        assert (
            trace.words <= words and verify(one, response(trace.lines), ("sum",)).sound
        )
        assert bool(trace.solution) == (words == whole.words)
    for nodes in range(2, 17):
        trace = search(one, DFS, 4, "sum", Limits(10_000, nodes))
        assert response(trace.lines).count("<new>") <= nodes - 1
        assert bool(trace.solution) == (nodes >= 15)  # the goal is #14


def test_arms_and_failures():
    base = Countdown()
    plain = SearchText(task=base, depth_first=0, breadth_first=0, optimal=1)
    assert [plain.example(0, "test", i).steps for i in range(20)] == [
        base.example(0, "test", i).steps for i in range(20)
    ]
    solved = SearchText(task=base, max_words=100, keep_failed=False)
    grade = lambda task, split, i: task.grade(
        e := task.example(0, split, i), response(e.steps)
    )
    assert all(grade(solved, "train", i) for i in range(60))
    tests = [solved.example(0, "test", i) for i in range(60)]
    assert [e.question for e in tests] == [
        base.example(0, "test", i).question for i in range(60)
    ]
    assert not all(grade(solved, "test", i) for i in range(60))
    mixed = SearchText(task=base, depth_first=1, breadth_first=0, optimal=3)
    share = np.mean(
        ["<dfs>" in mixed.example(0, "train", i).steps[0] for i in range(400)]
    )
    assert abs(share - 1 / 4) < 4 * (1 / 4 * 3 / 4 / 400) ** 0.5


def test_measured_shares():
    task = SearchText(task=Countdown(min_target=1))
    example = task.parse("1 2 3 -> 9")
    steps = "2 + 1 = 3 , 3 3 ; 3 * 3 = 9 , 9 ;"
    texts = [steps, f"{TO_GOAL}<goal> #2 ; {steps}", "<at> #0 1 2 3 ; <at>", "<fail> ;"]
    assert task.measure([example] * 4, texts) == {
        "searches": 3 / 4,
        "sound": 2 / 3,
        "solved": 1 / 3,
        "nodes": (3 + 1 + 1) / 3,
        "back": 0,
    }
    assert task.measure([example], [steps]) == {"searches": 0}


def tree(question: str, columns) -> Trace:
    """A recorded tree of (parent, step, visits, value)."""
    parent, step, visits, value = zip((-1, "", 9, 0.5), *columns)
    nodes = range(len(parent))
    return Trace(
        question=question,
        method="test",
        parent=parent,
        step=step,
        visits=visits,
        value=value,
        action=(-1, *nodes[1:]),
        raw_value=value,
        logprob=value,
        finished=(False,) * len(parent),
        verdict=("",) * len(parent),
    )


def test_a_recorded_tree_is_a_trace():
    """A wrong sum and what follows from it are left out, as is a state found twice."""
    one = three_numbers()
    recorded = tree(
        "1 2 3 -> 9 :",
        [
            (0, "3 + 2 = 5 , 1 5 ;", 3, 0.1),
            (0, " 3 + 2 = 6 , 1 6 ;", 2, 0.2),  # wrong
            (2, "6 + 1 = 7 , 7 ;", 1, 0.0),
            (0, "1 + 2 = 3 , 3 3 ;", 4, 0.9),  # mirrored
            (0, "2 + 1 = 3 , 3 3 ;", 1, 0.9),  # the same numbers
            (1, "5 + 1 = 6 , 6 ;", 1, 0.0),
            (4, "3 * 3 = 9 , 9 ;", 2, 1.0),
            (1, "5 - 1 = 4 , 4 ;", 1, 0.0),  # behind the goal
        ],
    )
    trace = tree_trace(one, Trace.from_json(recorded.to_json()), FREE)
    assert response(trace.lines) == (
        "<at> #0 1 2 3 ; <new> #1 3 + 2 = 5 , 1 5 ; <new> #2 2 + 1 = 3 , 3 3 ; "
        "<at> #1 1 5 ; <new> #3 5 + 1 = 6 , 6 ; <at> #2 3 3 ; "
        "<new> #4 3 * 3 = 9 , 9 ; <goal> #4 ; 2 + 1 = 3 , 3 3 ; 3 * 3 = 9 , 9 ;"
    )
    assert verify(one, response(trace.lines)).solved
    for words in range(20, trace.words):
        cut = tree_trace(one, recorded, Limits(words, 64))
        assert cut.words <= words and verify(one, response(cut.lines)).sound


@given(data=st.data())
@settings(max_examples=60)
def test_any_tree_becomes_a_sound_trace(data):
    task = Graph()
    example = task.example(0, "train", data.draw(st.integers(0, 50)))
    one = space(task, example)
    rows = []
    for n in range(data.draw(st.integers(0, 12))):
        step = data.draw(st.sampled_from([*example.steps, "a = 1", "", "; b"]))
        rows.append((data.draw(st.integers(0, n)), step + " ;", 1, 0.5))
    trace = tree_trace(one, tree(example.question, rows), Limits(120, 8))
    verdict = verify(one, response(trace.lines))
    assert verdict.sound and verdict.solved == bool(trace.solution)
    assert trace.words <= 120


@given(text=st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_is_verified(text):
    task = SearchText()
    example = task.example(0, "train", 0)
    assert not task.verify(example, text + "x").sound
    assert task.grade(example, "<new>" + text) == 0


@pytest.mark.parametrize(
    "text", [";" * 10**6, "<at> #0 1 ; " * 10**5, "<goal> " * 10**5, "w1 " * 10**5]
)
def test_hostile_text_is_bounded(text):
    task = SearchText()
    example = task.example(0, "train", 0)
    assert task.grade(example, text) == 0
    assert len(task.check_steps(example, text)) <= MAX_RESPONSE


@pytest.mark.parametrize(
    "knobs, culprit",
    [
        ({"task": Chain()}, "task is Chain; searches are over Countdown, Graph"),
        ({"optimal": -1}, "optimal must be finite"),
        ({"depth_first": 0, "breadth_first": 0}, "are all 0"),
        ({"widths": ()}, "widths must be some of 1 to 5"),
        ({"widths": (6,)}, "widths must be some of 1 to 5"),
        ({"heuristics": ("best",)}, "heuristics: 'best' is none of sum, factor"),
        ({"max_words": 3}, "SearchText.max_words"),
        ({"max_nodes": 1}, "SearchText.max_nodes"),
    ],
)
def test_bad_knob_of_a_search_is_named(knobs, culprit):
    with pytest.raises(ValueError, match=culprit):
        SearchText(**knobs)

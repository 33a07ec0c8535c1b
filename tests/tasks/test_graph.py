"""Graph by hand, and its verifier against all orders of all right steps."""

import itertools

import pytest

from o1jax.tasks import Graph, StepCheck
from o1jax.tasks.graph import NAMES, inputs, needed

TASK = Graph()
QUESTION = "c = a + b , a = 5 , b = a * 3 , d = b - 2 , c ?"
A, B, C, D = "a = 5", "b = a * 3 = 15", "c = a + b = 20", "d = b - 2 = 13"


def checks(*steps):
    return TASK.check_steps(TASK.parse(QUESTION), "".join(s + ";" for s in steps))


def grade(*steps):
    return TASK.grade(TASK.parse(QUESTION), "".join(s + ";" for s in steps))


def test_by_hand():
    example = TASK.parse(QUESTION)
    assert example.question == QUESTION
    assert example.steps == (A, B, C)
    assert (example.answer, example.difficulty) == ("20", 3)
    assert grade(A, B, C) == 1.0
    assert grade(A, B, D, C) == 1.0  # true, though not needed
    assert grade(A, B) == 0.0


@pytest.mark.parametrize(
    "steps, reason",
    [
        ([B], "uses a too early"),
        ([A, C], "uses b too early"),
        ([A, A], "a is known already"),
        ([A, "b = a * 3 = 16"], "b is 15: b = a * 3 = 15"),
        ([A, "b = a * 3"], "b is 15: b = a * 3 = 15"),
        ([A, "b = a * 4 = 20"], "is not the definition of b"),
        ([A, "b = 3 * a = 15"], "is not the definition of b"),
        (["a = 5 = 5"], "a is 5: a = 5"),
        (["a = 6"], "is not the definition of a"),
        (["z = 5"], "defines an unknown variable"),
        (["a 5"], "is not of the form b = a * 3 = 15"),
        ([""], "is not of the form b = a * 3 = 15"),
        ([A, B, C, D], "comes after the answer"),
    ],
)
def test_wrong_last_step(steps, reason):
    assert [c.correct for c in checks(*steps)] == [True] * (len(steps) - 1) + [False]
    assert checks(*steps)[-1].reason == reason
    assert grade(*steps) == 0.0


def test_steps_behind_a_wrong_one_are_wrong():
    assert checks(B, A) == [
        StepCheck(15, False, "uses a too early"),
        StepCheck(21, False, "follows a wrong step"),
    ]


def test_exactly_the_orders_that_respect_the_inputs_are_right():
    # Diamond with a distractor: a -> b, a -> c, (b, c) -> d; e reads b.
    example = TASK.parse("d=b+c, e=b-1, c=a*2, b=a+1, a=3, d?")
    step = {
        "a": "a = 3",
        "b": "b = a + 1 = 4",
        "c": "c = a * 2 = 6",
        "d": "d = b + c = 10",
        "e": "e = b - 1 = 3",
    }
    right = set()
    for length in range(6):
        for order in itertools.permutations("abcde", length):
            text = "".join(step[name] + " ; " for name in order)
            if TASK.grade(example, text):
                right.add("".join(order))
    assert right == {"abcd", "acbd", "abecd", "abced", "acbed"}
    for length in range(6):
        for order in itertools.permutations("abcde", length):
            prefix = "".join(order)
            best = float(any(whole.startswith(prefix) for whole in right))
            assert TASK.state_value(example, [step[n] for n in order]) == best


def test_generated_graphs_have_the_declared_shape():
    task = Graph(min_variables=4, max_variables=7, distractors=3)
    sizes, extras, two, multiplied = set(), set(), 0, 0
    for i in range(500):
        example = task.example(0, "train", i)
        definitions, values, query = example.hidden
        order = [step.split()[0] for step in example.steps]
        assert order == needed(definitions, query) and order[-1] == query
        sizes.add(len(order))
        extras.add(len(definitions) - len(order))
        for definition in definitions.values():
            reads = inputs(definition)
            assert len(reads) == len(set(reads)) <= 2
            two += len(reads) == 2
            if "*" in definition:  # no factor is 0, known or computed
                multiplied += 1
                if len(reads) == 2:
                    assert 0 not in [values[name] for name in reads]
                else:
                    assert definition[2] != "0"
    assert sizes == {4, 5, 6, 7}
    assert extras == {0, 1, 2, 3}
    assert two > 500 and multiplied > 500  # more than one of each per example


def test_one_input_makes_a_path():
    task = Graph(max_inputs=1, distractors=0)
    for i in range(50):
        example = task.example(0, "train", i)
        names = [step.split()[0] for step in example.steps]
        reads = [inputs(example.hidden.definitions[name]) for name in names]
        assert reads == [[], *([name] for name in names[:-1])]


def test_neither_name_nor_place_tells_the_order():
    """The query is defined first, and named a to m, about as often as chance says."""
    first = early = 0
    for i in range(1000):
        definitions, _, query = TASK.example(0, "train", i).hidden
        first += (next(iter(definitions)) == query) - 1 / len(definitions)
        early += query in NAMES[:13]
    # Variances: below 1/4 and 1/4 a question, so 5 deviations are below 80 of 1,000.
    assert abs(first) < 80
    assert abs(early - 500) < 80


@pytest.mark.parametrize(
    "question, why",
    [
        ("a = b , b = a , a ?", "a depends on itself"),
        ("a = 1 , b = b + 1 , a ?", "b depends on itself"),
        ("a = b , a ?", "b is not defined"),
        ("a = 5 , c ?", "c is not defined"),
        ("a = 5 , a = 6 , a ?", "a is defined twice"),
        ("a = 23 , a ?", "23 is not below the modulus 23"),
        ("a = 5 / 2 , a ?", "expected the form"),
        ("a = 5 , b", "expected a query"),
        ("a = 5", "expected a query"),
    ],
)
def test_malformed_question(question, why):
    with pytest.raises(ValueError, match=why):
        TASK.parse(question)


def test_a_user_may_write_what_the_generator_does_not():
    example = TASK.parse("b = 3 - a, a = 07 + 1, c = b, c?")
    # 7 + 1 = 8; 3 - 8 = -5 = 18 - 23
    assert example.steps == ("a = 7 + 1 = 8", "b = 3 - a = 18", "c = b = 18")
    assert TASK.grade(example, " ; ".join(example.steps) + " ;") == 1.0

"""Answers: what is read, what is refused, and that no answer can cost much or raise."""

import operator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from o1jax.tasks import answers
from o1jax.tasks.answers import (
    equal,
    evaluate,
    final_answer,
    numbers_used,
    parse_number,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))
MATH_TEXT = st.text("0123456789+-*/^(). ,nae\u2212\u00d7\uff11", max_size=40)


@pytest.mark.parametrize(
    "text, value",
    [
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        (" 42 ", 42),
        ("42.", 42),
        ("007", 7),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("-.25", Fraction(-1, 4)),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("3/4", Fraction(3, 4)),
        ("-6 / 4", Fraction(-3, 2)),
        ("1,000/4", 250),
        ("\u22125", -5),  # the Unicode minus
        ("1" * 100, int("1" * 100)),
    ],
)
def test_number(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "-", ".", "nan", "NaN", "inf", "-Infinity", "1e5", "1e999999999", "0x10"]
    + [
        "1_000",
        "12,34",
        "1,23,456",
        ",5",
        "1 2",
        "1/0",
        "1/2/3",
        "/2",
        "1/",
        "3 apples",
    ]
    + ["--5", "1.2.3", "\uff11\uff12", "\u0663", "\u00b2", "\u00bd", "\ud800", "1\x00"]
    + ["1" * 101, "9" * 1_000_000, "1," * 500_000],
)
def test_not_a_number(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    "text, value",
    [
        ("3", 3),
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),  # groups to the left
        ("8 / 4 / 2", 1),
        ("1 / 3 + 1 / 6", Fraction(1, 2)),  # exact
        ("2 ** 3 ** 2", 512),  # groups to the right
        ("2^10", 1024),
        ("-2 ** 2", -4),  # as in Python and on paper
        ("(-2) ** 2", 4),
        ("2 ** -1", Fraction(1, 2)),
        ("2 * -3 + 1", -5),
        ("- - 3", 3),
        ("+3 - +2", 1),
        ("0 ** 0", 1),
        ("(-1) ** 999999999", -1),
        ("1 ** -5", 1),
        ("6 \u00f7 2 \u00d7 3 \u2212 1", 8),
        ("1.5 * 2.", 3),
        ("((((7))))", 7),
    ],
)
def test_evaluate(text, value):
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "()", "(", ")", "(1", "1)", ")1(", "1 +", "* 1", "1 2", "2(3)", "(2)3"]
    + ["1 / 0", "0 ** -1", "1 / (2 - 2)", "4 ** 0.5", "(1 + 2))", "1 * * 2", "(1 +) 2"]
    + [
        "nan",
        "x + 1",
        "1e5",
        "1,000 + 1",
        "__import__('os')",
        "1 if 1 else 2",
        "1 // 2",
    ]
    + ["9**9**9", "9**9**9**9**9", "2**513", "0.5**513", "2**-513", "(2**300)*(2**300)"]
    + ["\uff11 + 1", "\ud800", "(" * 10**6, "(" * 100 + "1" + ")" * 99, "1+" * 500_000]
    + ["9" * 200, "-" * 70 + "1"],
)
def test_evaluate_refuses(text):
    assert evaluate(text) is None


def test_limits_of_evaluate_are_exact():
    assert evaluate("1+1", max_chars=3) == 2
    assert evaluate("1+1", max_chars=2) is None
    assert evaluate("(1+1)", max_nodes=3) == 2  # two numbers and a sign
    assert evaluate("(1+1)", max_nodes=2) is None
    assert evaluate("2**7", max_bits=8) == 128  # 128 has 8 bits
    assert evaluate("2**8", max_bits=8) is None
    assert evaluate("2**-8", max_bits=8) is None
    assert evaluate("256 - 1", max_bits=8) is None  # on the way, too
    assert evaluate("(" * 127 + "1" + ")" * 127) == 1  # no recursion


@pytest.mark.parametrize("text", ["3**999999", "(9**99)**99", "7**-400", "9**9**9"])
def test_no_large_number_is_computed_before_it_is_refused(monkeypatch, text):
    """b bits to the power e have at most b*e <= 2*(b-1)*e bits, and (b-1)*e <= 512."""
    seen, bits = [], answers._bits
    monkeypatch.setattr(answers, "_bits", lambda v: seen.append(bits(v)) or seen[-1])
    assert evaluate(text) is None
    assert 0 < max(seen) <= 2 * 512


LEAVES = st.integers(0, 20).map(lambda n: (str(n), Fraction(n)))
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def combine(children):
    def join(sign, left, right, brackets):
        if left[1] is None or right[1] is None or (sign == "/" and not right[1]):
            value = None
        else:
            value = SIGNS[sign](left[1], right[1])
        return f"({left[0]}{brackets}{sign} ({right[0]}))", value

    pair = st.builds(join, st.sampled_from("+-*/"), children, children, st.just(" "))
    negative = children.map(lambda c: (f"-({c[0]})", None if c[1] is None else -c[1]))
    return pair | negative


@given(st.recursive(LEAVES, combine, max_leaves=10))
def test_evaluate_is_fraction_arithmetic(case):
    text, value = case
    assert evaluate(text, max_chars=10_000, max_nodes=1000, max_bits=10_000) == value


@given(st.lists(st.sampled_from(["1", "2", "3", "+", "-", "*", "**"]), max_size=9))
def test_evaluate_groups_like_python(words):
    """Python's own parser is the judge of precedence, on text that is safe for it."""
    text = " ".join(words)
    try:
        tree = compile(text, "", "eval")
        expected = eval(tree, {}, {}) if text.count("**") <= 1 else None
    except SyntaxError:
        assert evaluate(text) is None
        return
    if isinstance(expected, int):
        assert evaluate(text) == expected


@given(st.fractions(max_denominator=10**6))
def test_a_printed_number_is_read_back(value):
    assert parse_number(str(value)) == value


@given(st.integers(0, 10**12))
def test_separators_and_decimals_are_read_back(n):
    assert parse_number(f"-{n:,}") == -n
    assert parse_number(f"{n // 100:,}.{n % 100:02}") == Fraction(n, 100)


def test_numbers_used_keeps_repeats():
    assert numbers_used("(3 + 5) * 3 - 1.5") == [3, 5, 3, Fraction(3, 2)]
    assert numbers_used("3 +") is None


def test_final_answer():
    text = "6 * 7 = 42\n#### 41\nNo.\n#### 42 \nbye"
    assert final_answer(text, "####") == "42"
    assert final_answer("The answer is 5.", "The answer is") == "5."
    assert final_answer("no mark", "####") is None
    assert final_answer("####  \n", "####") is None
    assert final_answer("#" * 1_000_000 + "1", "####") == "1"
    with pytest.raises(ValueError, match="prefix"):
        final_answer("x", "")


def test_equal():
    assert equal("0.50", "1/2")
    assert equal("1,000", "1000.")
    assert equal("four  apples ", "four apples")
    assert not equal("4", "four")
    assert not equal("4", "5")
    assert not equal("x" * 20_000, "x" * 20_000)  # too long to be an answer


def test_verifiers():
    assert answers.exact("x =  3\n", "x = 3") == 1.0
    assert answers.exact("3", "03") == 0.0
    assert answers.numeric("0.75", "3/4") == 1.0
    assert answers.numeric("0.74", "3/4") == 0.0
    assert answers.numeric("three", "3") == 0.0
    assert answers.expression("(3 + 5) * 7", "56") == 1.0
    assert answers.expression("3 + 5 * 7", "56") == 0.0


def test_expression_may_use_each_number_once():
    uses = lambda text: answers.expression(text, "22", [3, 5, 7])
    assert uses("3 * 5 + 7") == 1.0
    assert uses("22") == 0.0
    assert uses("7 + 5 + 5 + 5") == 0.0  # 5 reused, 3 left out
    assert uses("3 * 5 + 7 + 0") == 0.0
    assert uses("3 * 5 + 7 +") == 0.0


@pytest.mark.parametrize(
    "verify, gold",
    [
        (answers.exact, " "),
        (answers.exact, "x" * 20_000),
        (answers.numeric, "nan"),
        (answers.numeric, ""),
        (answers.numeric, "9**9"),
        (answers.expression, "9**9**9"),
        (answers.expression, "1 / 0"),
        (answers.expression, "(" * 10**6),
    ],
)
def test_unreadable_gold_is_an_error_never_a_reward(verify, gold):
    with pytest.raises(ValueError, match="gold answer") as caught:
        verify(gold, gold)
    assert len(str(caught.value)) < 120


@given(st.one_of(ANY_TEXT, MATH_TEXT))
def test_any_answer_is_graded(text):
    rewards = (
        answers.exact(text, "7"),
        answers.numeric(text, "7"),
        answers.expression(text, "7"),
        answers.expression(text, "7", [3, 4]),
    )
    assert set(rewards) <= {0.0, 1.0}
    assert equal(text, text)
    final_answer(text, "=")
    numbers_used(text)

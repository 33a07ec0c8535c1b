r"""Answers that spelling alone makes the same; its mistakes are in docs/answers.md."""

from fractions import Fraction

import pytest

from o1jax.tasks.latex import MAX_LENGTH, Quantity, quantity, same, spelled


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("\u221242", "-42"),
        ("1{,}234", "1234"),
        ("1,234,567", r"1\,234\,567"),
        ("1 234 567", "1234567"),
        (r"1\frac{1}{2}", "3/2"),
        (r"\frac12", "0.5"),
        (r"\dfrac{\frac12}{3}", "1/6"),
        ("42%", "0.42"),
        (r"42\%", "42"),
        ("5 apples", "5"),
        (r"\$5.00", "5"),
        (r"10\text{ cm}^2", "10 cm^{2}"),
        (r"45^\circ", "45\u00b0"),
        ("x = 5", "5"),
        ("2^{10}", "1024"),
        ("1.5e3", r"1.5\times 10^3"),
        (r"\boxed{\boxed{\text{Yes}}}", "yes"),
        (r"\left(A\right)", "A"),
        (r"\text{ (B) }", "B"),
        (r"(-\infty, 3)", r"\left(-\infty,3\right)"),
    ],
)
def test_the_same(answer, gold):
    assert same(answer, gold) is True
    assert same(gold, answer) is True


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("1.234", "1234"),
        ("11/2", "1 1/2"),
        ("1 1/2", "11/2"),
        ("42 km", "42 m"),
        ("10 cm^3", "10 cm^2"),
        ("0.999999999", "1"),
        ("0.3333333", "1/3"),
        ("4.2%", "0.42"),
        ("No", "Yes"),
        ("", "5"),
        (r"\boxed{}", "5"),
        ("9" * (MAX_LENGTH + 1), "9"),
    ],
)
def test_not_the_same(answer, gold):
    assert same(answer, gold) is False


@pytest.mark.parametrize(
    "answer, gold",
    [
        ("5x", "5"),  # a product, not a unit
        ("5 or 6", "5"),
        ("5 or more", "5"),
        ("2, 1", "1, 2"),
        ("(1,234)", "1234"),  # a pair
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("9**9**9", "1"),  # too large to be computed here
        ("5/0", "5"),
        ("x", "y"),
        ("4 2", "42"),
        (r"\text{unclosed", "5"),
    ],
)
def test_spelling_cannot_tell(answer, gold):
    assert same(answer, gold) is None


def test_long_texts_and_deep_braces_are_read_in_bounded_time():
    for text in ("{" * 10**6, r"\frac{" * 10**5, r"\boxed{" * 10**5, "7" * 10**6):
        assert same(text, "7") is False
        assert same(text, text) is True
    for text in (r"\frac{" * 160, r"\text{" * 160, "(" * 900, "-" * 900):
        assert same(text, "7") is not True


def test_what_a_quantity_is():
    assert quantity("-2.5%") == Quantity(Fraction(-5, 2), True, "")
    assert quantity("3 Feet") == Quantity(Fraction(3), False, "feet")
    assert quantity("seven") is None
    assert spelled(r"$\displaystyle\text{It is }7.$") == "It is 7"

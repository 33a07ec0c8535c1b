"""Answers in text: safe parsing, equality, and outcome verifiers over them.

In: text that a model wrote, so anything at all. Out: exact fractions, or None where it
is no number; a verifier returns 1.0 or 0.0 and never raises for the answer. Nothing is
evaluated by Python: a small shunting-yard parser (Dijkstra 1961) with bounded length,
operators and integer size. A gold answer that can't be read raises ValueError.
"""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

MAX_NUMBER = 100  # characters of a number
MAX_ANSWER = 10_000  # characters of an answer that is compared as text

# Only 0-9 are digits: int() would also take those of other scripts, which a tokenizer
# or a reader may show as something else. No exponents, so no `1e999999999`.
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?")
_POINT = re.compile(r"[+-]?\.[0-9]+")
_TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)|(\*\*|[-+*/^()]))")
_SIGNS = str.maketrans({"\u2212": "-", "\u00d7": "*", "\u00f7": "/"})  # minus times div

# Larger binds tighter. "neg" and "pos" are the signs, looser than powers: -2**2 is -4.
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "pos": 3, "**": 4}


def parse_number(text: str) -> Fraction | None:
    """The value of an integer, decimal or fraction such as -1,234.5 or 3/4.

    Thousands separators, a Unicode minus and blanks around the parts are read. NaN,
    infinity, exponents, digits other than 0-9, a denominator of 0 and more than
    MAX_NUMBER characters give None.
    """
    text = text.strip() if len(text) <= MAX_NUMBER else ""
    parts = [part.strip() for part in text.translate(_SIGNS).split("/")]
    if len(parts) > 2 or not all(map(_is_decimal, parts)):
        return None
    top, *bottom = [Fraction(part.replace(",", "").rstrip(".")) for part in parts]
    if not bottom:
        return top
    return top / bottom[0] if bottom[0] else None


def _is_decimal(text: str) -> bool:
    return bool(_DECIMAL.fullmatch(text) or _POINT.fullmatch(text))


def evaluate(
    expression: str, *, max_chars: int = 256, max_nodes: int = 64, max_bits: int = 512
) -> Fraction | None:
    """The exact value of arithmetic with + - * / ** ^ and brackets; None if malformed.

    `^` is a power, powers group to the right, and a sign binds looser than a power, as
    in -2**2 = -4. None also beyond the limits: characters, numbers and operators, bits
    of any numerator or denominator on the way (`9**9**9` stops before it is computed).
    """
    postfix = _postfix(expression, max_chars, max_nodes)
    if postfix is None:
        return None
    stack: list[Fraction] = []
    for item in postfix:
        if isinstance(item, Fraction):
            result = item
        elif item in ("neg", "pos"):
            result = -stack.pop() if item == "neg" else stack.pop()
        else:
            right = stack.pop()
            result = _apply(item, stack.pop(), right, max_bits)
        if result is None or _bits(result) > max_bits:
            return None
        stack.append(result)
    return stack[0]


def numbers_used(
    expression: str, *, max_chars: int = 256, max_nodes: int = 64
) -> list[Fraction] | None:
    """The numbers written in an expression, in order, repeats kept; None if malformed.

    Their signs are operators: `-3 + 5` uses 3 and 5.
    """
    postfix = _postfix(expression, max_chars, max_nodes)
    if postfix is None:
        return None
    return [item for item in postfix if isinstance(item, Fraction)]


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _apply(
    operator: str, left: Fraction, right: Fraction, max_bits: int
) -> Fraction | None:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if operator == "/":
        return left / right if right else None
    if right.denominator != 1 or (not left and right < 0):
        return None
    # bits - 1 is a lower bound on the growth per factor: 0 for 0, 1 and -1 only.
    exponent = abs(right.numerator)
    if _bits(left) > 1:
        return left**right if (_bits(left) - 1) * exponent <= max_bits else None
    return left ** (2 - exponent % 2 if exponent else 0)


def _postfix(
    expression: str, max_chars: int, max_nodes: int
) -> list[Fraction | str] | None:
    """Numbers and operators in the order of evaluation; no recursion at any depth."""
    if len(expression) > max_chars:
        return None
    text = expression.translate(_SIGNS).rstrip()
    output: list[Fraction | str] = []
    waiting: list[str] = []
    at, nodes, operand_next = 0, 0, True
    while at < len(text):
        token = _TOKEN.match(text, at)
        if not token:
            return None
        at, (number, symbol) = token.end(), token.groups()
        nodes += symbol not in ("(", ")")
        if nodes > max_nodes or (not operand_next and (number or symbol == "(")):
            return None
        if number:
            if len(number) > MAX_NUMBER:
                return None
            output.append(Fraction(number.rstrip(".")))
            operand_next = False
        elif symbol == "(":
            waiting.append(symbol)
        elif operand_next:
            if symbol not in "+-":
                return None
            waiting.append("neg" if symbol == "-" else "pos")
        elif symbol == ")":
            while waiting and waiting[-1] != "(":
                output.append(waiting.pop())
            if not waiting:
                return None
            waiting.pop()
        else:
            symbol = "**" if symbol == "^" else symbol
            level = _PRECEDENCE[symbol] + (symbol == "**")  # ** groups to the right
            while waiting and _PRECEDENCE.get(waiting[-1], 0) >= level:
                output.append(waiting.pop())
            waiting.append(symbol)
            operand_next = True
    if operand_next or "(" in waiting:
        return None
    return output + waiting[::-1]


def final_answer(text: str, prefix: str) -> str | None:
    """What follows the last `prefix` on its line, stripped; None if nothing does."""
    if not prefix:
        raise ValueError("final_answer needs a prefix, such as '####'")
    start = text.rfind(prefix)
    if start < 0:
        return None
    start += len(prefix)
    end = text.find("\n", start)
    return text[start : len(text) if end < 0 else end].strip() or None


def equal(a: str, b: str) -> bool:
    """Whether two answers are the same number, or else the same words."""
    first, second = parse_number(a), parse_number(b)
    if first is not None or second is not None:
        return first == second
    return max(len(a), len(b)) <= MAX_ANSWER and a.split() == b.split()


def exact(answer: str, gold: str) -> float:
    """1.0 if the answer has the words of the gold answer, blanks aside."""
    if not gold.strip() or len(gold) > MAX_ANSWER:
        raise ValueError(f"gold answer is empty or too long: {gold[:60]!r}")
    return float(len(answer) <= MAX_ANSWER and answer.split() == gold.split())


def numeric(answer: str, gold: str) -> float:
    """1.0 if the answer is the gold number: 0.50 is 1/2."""
    right = parse_number(gold)
    if right is None:
        raise ValueError(f"gold answer is not a number: {gold[:60]!r}")
    return float(parse_number(answer) == right)


def expression(answer: str, gold: str, numbers: Sequence[int] | None = None) -> float:
    """1.0 if the answer is arithmetic with the gold value.

    With `numbers`, it must use each of them exactly once, and no others.
    """
    right = evaluate(gold)
    if right is None:
        raise ValueError(f"gold answer is not arithmetic: {gold[:60]!r}")
    if numbers is not None and Counter(numbers) != Counter(numbers_used(answer) or ()):
        return 0.0
    return float(evaluate(answer) == right)

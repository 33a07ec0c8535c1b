r"""Whether two written answers are the same, as far as rules of spelling decide it.

In: answers as people and models write them, in LaTeX or plain. Out: True, False, or
None where neither is plain: then a computer algebra system may know (mathematics.py).
Exact fractions, units, percent, mixed numbers; nothing is evaluated but arithmetic with
bounded integers (answers.py). The rules follow Hendrycks et al. 2021, arXiv 2103.03874,
appendix; those that call different answers the same are left out.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from o1jax.tasks.answers import evaluate
from o1jax.tasks.final import last_box, plain

MAX_LENGTH = 1000  # characters; a longer answer is the same only letter for letter

_WORDS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{")
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|[,;:! ]|\$)|\\?\$|~|\\degree"
    r"|\^\s*\\circ|\^\s*\{\s*\\circ\s*\}|[\u00b0\u2009\u202f\u00a0]"
)
_SPELLED = (
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*([0-9])\s*([0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s*([0-9A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:cdot|times)|\u00d7|\u00b7"), "*"),
    (re.compile(r"\\div|\u00f7"), "/"),
    (re.compile("[\u2212\u2012\u2013\u2014]"), "-"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\(?:le|leq|leqslant)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:ge|geq|geqslant)(?![A-Za-z])"), r"\\ge "),
)
_THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_GROUPED = re.compile(r"-?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?")
_BLANK = re.compile(r"(?<![0-9]) | (?![0-9])")  # not 1 1/2: it is not 11/2
_LIST = re.compile(r"\(|\[|\\\{|\{")
_NAMED = re.compile(r"[A-Za-z]\s*(?:=|\\in(?![A-Za-z]))\s*(?=\S)")
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_MIXED = re.compile(
    r"(-?)([0-9]+)(?:\s*\\frac\{([0-9]+)\}\{([0-9]+)\}|\s+([0-9]+/[0-9]+))"
)
_POWER = re.compile(r"\^\s*\{([^{}]*)\}")
_SCIENTIFIC = re.compile(r"([+-]?[0-9]+(?:\.[0-9]*)?)[eE]([+-]?[0-9]{1,3})")
_PERCENT = re.compile(r"\s*\\?%$|\s+percent$")
_UNIT = re.compile(r"(.*[0-9)}])(\s*)([A-Za-z][A-Za-z ]*?)\s*(\^?[23]|\^\{[23]\})?\.?")
# Those that may stand close to the number; one letter may be a variable.
_UNITS = frozenset(
    ("mm", "cm", "km", "kg", "mg", "ms", "min", "hr", "ft", "lb", "oz", "ml", "mph")
)
_SHORT = frozenset("mgshL")  # behind a blank
_NO_UNIT = frozenset(("or", "and", "to", "not", "if", "mod", "choose", "but"))
_CHOICE = re.compile(r"\(?([A-Za-z])\)")


class Quantity(NamedTuple):
    """A number with what stands behind it."""

    value: Fraction
    percent: bool
    unit: str  # in small letters; "" for none


def same(answer: str, gold: str) -> bool | None:
    """True or False where both are plain numbers, or one text; None if unclear."""
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return answer.split() == gold.split()
    a, b = spelled(answer), spelled(gold)
    if not a or not b:
        return False
    if bool(_NAMED.match(a)) != bool(_NAMED.match(b)):
        a, b = _NAMED.sub("", a, count=1), _NAMED.sub("", b, count=1)
    if _BLANK.sub("", a) == _BLANK.sub("", b):
        return True
    first, second = quantity(a), quantity(b)
    if first and second:
        return _equal(first, second)
    if _choice(a).lower() == _choice(b).lower():
        return True
    if re.fullmatch("[A-Za-z ]+", a) and re.fullmatch("[A-Za-z ]{2,}", b):
        return False  # two words
    return None


def spelled(answer: str) -> str:
    r"""The answer without boxes, dollar signs, \text and spelling of no meaning."""
    inside = last_box(answer)
    text = plain(answer if inside is None else inside)
    for _ in range(10):
        if not (found := _WORDS.search(text)):
            break
        depth, end = 1, found.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        # A closing brace that is missing leaves the text as it is.
        inner = text[found.end() : end - 1] if not depth else text[found.end() :]
        text = f"{text[: found.start()]} {inner} {text[end:]}"
    text = _DROPPED.sub("", text)
    for pattern, spelling in _SPELLED:
        text = pattern.sub(spelling, text)
    text = plain(" ".join(text.split()))
    if _GROUPED.fullmatch(text):
        text = text.replace(" ", "")
    if not _LIST.match(text):  # (1,234) is a pair
        text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return text


def quantity(text: str) -> Quantity | None:
    """The number that a spelled answer is; None if it is none."""
    number = _PERCENT.sub("", text)
    percent, unit = number != text, ""
    value = _value(number)
    if value is None and (found := _UNIT.fullmatch(number)):
        before, blank, name, power = found.groups()
        known = name in _UNITS or (blank and (name in _SHORT or len(name) > 2))
        if known and _NO_UNIT.isdisjoint(name.split()):
            value, unit = _value(before), f"{name.lower()}{power or ''}"
    return None if value is None else Quantity(value, percent, unit)


def _value(text: str) -> Fraction | None:
    if mixed := _MIXED.fullmatch(text):
        sign, whole, top, bottom, plain_fraction = mixed.groups()
        part = plain_fraction or f"{top}/{bottom}"
        text = f"{sign}({whole}+{part})"
    if scientific := _SCIENTIFIC.fullmatch(text):
        text = f"{scientific[1]}*10^({scientific[2]})"
    for _ in range(8):
        before = text
        text = _FRACTION.sub(r"((\1)/(\2))", _POWER.sub(r"^(\1)", text))
        if text == before:
            break
    return evaluate(text)


def _equal(a: Quantity, b: Quantity) -> bool:
    if a.unit and b.unit and _singular(a.unit) != _singular(b.unit):
        return False
    if a.percent != b.percent:
        # "What percent" is answered by 42 as by 42 %, which is 0.42.
        plain_one, percent = (b, a) if a.percent else (a, b)
        return plain_one.value in (percent.value, percent.value / 100)
    return a.value == b.value


def _singular(unit: str) -> str:
    return re.sub(r"[\^{} ]|s(?![a-z])", "", unit)


def _choice(text: str) -> str:
    found = _CHOICE.fullmatch(text)
    return found[1] if found else text

r"""Answers made to deceive a verifier: `python benchmarks/math_answers.py`.

In: pairs of a gold answer and a response, with what a careful teacher would say of
them. Out: docs/answers.md, what each verifier gets wrong: the rules of tasks/latex.py
alone, math-verify alone on the whole response, and o1jax's combination. Extra `math`.
The cases were written down before any of the three was run on them.
"""

import argparse
import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from o1jax.tasks.final import find_answer
from o1jax.tasks.latex import same
from o1jax.tasks.mathematics import PROCESS, SECONDS, grade_math
from o1jax.tasks.worker import Worker

ROOT = Path(__file__).parent.parent


class Case(NamedTuple):
    """A response in which the answer stands in a box, unless it has marks itself."""

    kind: str
    gold: str
    answer: str
    right: bool
    whole: bool = False  # the answer is the response as it is

    @property
    def response(self) -> str:
        return self.answer if self.whole else f"So it is \\boxed{{{self.answer}}}."


def right(kind: str, gold: str, *answers: str) -> list[Case]:
    return [Case(kind, gold, answer, True) for answer in answers]


def wrong(kind: str, gold: str, *answers: str) -> list[Case]:
    return [Case(kind, gold, answer, False) for answer in answers]


def texts(kind: str, gold: str, good: tuple[str, ...], bad: tuple[str, ...]) -> list:
    return [
        Case(kind, gold, answer, verdict, True)
        for answers, verdict in ((good, True), (bad, False))
        for answer in answers
    ]


MEGA = 1_000_000
CASES: list[Case] = [
    *right("numbers", "42", "42.", "42.0", "+42", "042", " 42 ", "$42$", "{42}"),
    *wrong("numbers", "42", "4 2", "42.01", "-42", "24", "", "nan", "\\infty", "42i"),
    *right("numbers", "-42", "\u221242", "\u201342", "-42.00", "-(42)"),
    *wrong("numbers", "1", "0.999999999", "0.9999999", "1.0000001", "9**9**9"),
    *right("numbers", "0", "-0", "0.0", "0/5"),
    *right("numbers", "1000000", "10^6", "1e6", "1.0\\times 10^{6}", "1\\,000\\,000"),
    *wrong("numbers", "1000000", "1000001", "999999.9999999", "10^5"),
    *right("numbers", "42", "\uff14\uff12", "forty-two"),
    *right("thousands", "1234", "1,234", "1{,}234", "1\\,234", "1 234", "1,234.00"),
    *wrong("thousands", "1234", "1.234", "1,23,4", "12,34", "1,2345"),
    *right("thousands", "12345678", "12,345,678"),
    *wrong("thousands", "(1,234)", "1234", "(1234)"),
    *wrong("thousands", "1,2", "12"),
    *right("units", "5", "5 apples", "\\$5.00", "5\\text{ cm}", "5~\\mathrm{km}"),
    *right("units", "42 km", "42", "42 km", "42\\text{ kilometers}", "42\\,\\text{km}"),
    *wrong("units", "42 km", "42 m", "42 cm", "4.2 km", "42 km/h"),
    *right("units", "10\\text{ cm}^2", "10", "10\\text{ cm}^{2}", "10 cm^2"),
    *wrong("units", "10\\text{ cm}^2", "10\\text{ cm}^3", "100"),
    *right("units", "45", "45^\\circ", "45\u00b0", "45^{\\circ}", "45 degrees"),
    *wrong("units", "5", "5x", "5 xy", "5 or more", "5 of 6, so 1"),
    *right("units", "1 hour", "1 hr", "60 minutes"),
    *right("percent", "42\\%", "42", "42%", "42\\%", "0.42", "42 percent"),
    *right("percent", "0.42", "42\\%", "42%", "\\frac{42}{100}"),
    *wrong("percent", "0.42", "42", "0.42\\%", "4.2\\%"),
    *right(
        "fractions", "1/2", "0.5", "\\frac12", "\\frac{2}{4}", "\\dfrac{1}{2}", ".5"
    ),
    *right("fractions", "\\frac{3}{2}", "1\\frac{1}{2}", "1 1/2", "1.5", "3/2"),
    *wrong("fractions", "\\frac{3}{2}", "2/3", "11/2", "1\\frac{2}{1}", "1.4999"),
    *wrong("fractions", "1/3", "0.33", "0.3333333", "0.333333333333", "1/3.0000001"),
    *right(
        "fractions", "-\\frac{1}{2}", "\\frac{-1}{2}", "-1/2", "-0.5", "\\frac{1}{-2}"
    ),
    *right("fractions", "\\frac{1}{6}", "\\frac{\\frac12}{3}", "\\tfrac{1}{6}", "1/6"),
    *wrong("fractions", "5", "5/0", "0/0", "\\frac{5}{0}"),
    *right("powers", "1024", "2^{10}", "2^10", "4^5", "2**10"),
    *wrong("powers", "1024", "2^{11}", "2^1 0", "10^{24}"),
    *right("powers", "2\\sqrt{2}", "\\sqrt{8}", "\\sqrt8", "2\\sqrt2", "2^{3/2}"),
    *wrong("powers", "2\\sqrt{2}", "2.828", "2.8284271", "\\sqrt{2}", "22\\sqrt{}"),
    *right("powers", "\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", "\\sqrt{1/2}"),
    *right("powers", "3", "\\log_2 8", "\\sqrt{9}", "\\sqrt[3]{27}", "|-3|"),
    *right("powers", "2\\pi", "2\u03c0", "2 \\pi", "\\pi\\cdot 2", "\\pi + \\pi"),
    *wrong("powers", "2\\pi", "6.28", "6.283185", "\\pi", "2", "\\pi^2"),
    *right("algebra", "x^2+2x+1", "(x+1)^2", "1+2x+x^2", "x^{2} + 2 x + 1"),
    *wrong("algebra", "x^2+2x+1", "x^2+2x", "y^2+2y+1", "x^2+2x+1+0.0001", "(x-1)^2"),
    *right("algebra", "5", "x=5", "x = 5", "y=5", "x\\in\\{5\\}"),
    *wrong("algebra", "x=5", "x=6", "y=5", "x>5", "x \\ne 5", "x=5,6"),
    *right("algebra", "y=2x+1", "2x+1", "y = 1 + 2x", "y-2x-1=0"),
    *right("algebra", "3+4i", "4i+3", "3 + 4 i"),
    *wrong("algebra", "3+4i", "3-4i", "5", "3+4j"),
    *right("algebra", "\\frac{x}{x+1}", "1-\\frac{1}{x+1}", "x/(x+1)"),
    *right("tuples", "(1,2)", "(1, 2)", "\\left(1,2\\right)", "(1.0, 2)", "(2/2, 4/2)"),
    *wrong("tuples", "(1,2)", "(2,1)", "(1,2]", "[1,2]", "\\{1,2\\}", "(1,2,3)", "1"),
    *right("sets", "\\{1,2\\}", "\\{2,1\\}", "\\{1, 2, 2\\}", "1,2", "2, 1", "1 and 2"),
    *wrong("sets", "\\{1,2\\}", "\\{1\\}", "\\{1,2,3\\}", "1", "\\{1,-2\\}", "(1,2)"),
    *right("sets", "2,-2", "\\pm 2", "-2, 2", "x=2,-2", "x = 2 \\text{ or } x = -2"),
    *wrong("sets", "2", "\\pm 2", "2,-2", "2 \\text{ or } 3", "2, 3", "1,2,3,4,5"),
    *right("sets", "\\emptyset", "\\{\\}", "\\varnothing"),
    *right("intervals", "(-\\infty,3)", "x<3", "(-\\infty, 3)", "-\\infty<x<3"),
    *wrong(
        "intervals", "(-\\infty,3)", "(-\\infty,3]", "x>3", "x\\le 3", "(3,\\infty)"
    ),
    *right("intervals", "[0,\\infty)", "x\\ge 0", "x \\geq 0", "[0,+\\infty)"),
    *right("intervals", "(0,1)\\cup(2,3)", "(2,3)\\cup(0,1)", "(0, 1) \\cup (2, 3)"),
    *right(
        "matrices",
        "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
        "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}",
        "\\begin{pmatrix}1&2\\\\3&\\frac{8}{2}\\end{pmatrix}",
    ),
    *wrong(
        "matrices",
        "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}",
        "\\begin{pmatrix}1&2\\end{pmatrix}",
        "1,2,3,4",
    ),
    *right("words", "Yes", "yes", "\\text{Yes}", "\\textbf{yes}", "Yes."),
    *wrong("words", "Yes", "No", "Yes and no", "Yes or No", "eyes", "true"),
    *right("words", "\\text{(B)}", "B", "(B)", "\\text{B}", "\\textbf{(B) }"),
    *wrong("words", "\\text{(B)}", "A", "(A)", "A, B", "8", "BB"),
    *right("words", "\\text{Tuesday}", "Tuesday", "tuesday"),
    *wrong("words", "\\text{Tuesday}", "Thursday", "T", "day"),
    *texts(
        "which counts",
        "5",
        (
            "\\boxed{\\boxed{5}}",
            "\\boxed{3} is wrong, so \\boxed{5}",
            "#### 5",
            "<answer>5</answer>",
            "The answer is 5.",
            "First 3, then 4.\nThe final answer is $5$.",
            "\\fbox{5}",
            "3 + 2 = 5",
        ),
        (
            "\\boxed{5} or rather \\boxed{6}",
            "\\boxed{5 \\text{ or } 6}",
            "\\boxed{5, 6}",
            "\\boxed{}",
            "\\boxed{6}, not 5",
            "#### 5 or 6",
            "5\n#### 6",
            "<answer>1 2 3 4 5 6 7 8 9</answer>",
            "The answer is 1, 2, 3, 4 or 5.",
            "The answer is not 5.",
            "5 apples and 6 pears make 11.",
            "I do not know. Maybe 5? Or 7.",
            "",
            "5 5 5 5 5 5",
            "\\boxed{5=6}",
            "\\boxed{5 \\ne 5}",
        ),
    ),
    *wrong(
        "bombs",
        "7",
        "9**9**9**9",
        "9^{9^{9^{9}}}",
        "(((((7!)!)!)!)!)!",
        "10^{10^{10^{10}}}",
        "\\sum_{n=1}^{10^{12}} \\frac{1}{n}",
        "\\prod_{n=1}^{10^{9}} n",
        "\\int_0^1 x^{x^{x^{x}}} dx",
        "\\int e^{\\sin(x^x)} dx",
        "(x+y+z+w)^{500}",
        "\\binom{10^{9}}{10^{8}}",
        "1" + "+1" * 900,
        "\\sqrt{" * 200 + "7" + "}" * 200,
        "{" * 5_000,
        "(" * 5_000,
        "\\frac{" * 2_000,
        "__import__('os').abort()",
        "\\lim_{x\\to 0}\\sin(x^{-x^{-x}})",
    ),
    *[
        Case("1 MB", "7", text, False, whole)
        for text, whole in (
            ("7" * MEGA, True),
            ("7 " * (MEGA // 2), True),
            ("\\boxed{" * (MEGA // 7), True),
            ("{" * MEGA, False),
            ("\\frac{7}{" * (MEGA // 9), True),
            ("x+" * (MEGA // 2) + "7", False),
            ("7" + " " * MEGA + "8", False),
        )
    ],
    Case("1 MB", "7", "so " * (MEGA // 3) + "\\boxed{7}", True, True),
]


class Verdict(NamedTuple):
    """What a verifier said."""

    right: bool
    seconds: float
    fault: str = ""


class Verifiers:
    """The three that are compared."""

    def __init__(self) -> None:
        self._library = Worker(PROCESS, seconds=SECONDS)
        self.named: dict[str, Callable[[Case], Verdict]] = {
            "rules alone": self._rules,
            "math-verify alone": self._alone,
            "o1jax": self._combined,
        }

    def _rules(self, case: Case) -> Verdict:
        began = time.perf_counter()
        said = same(find_answer(case.response), case.gold)
        return Verdict(said is True, time.perf_counter() - began)

    def _alone(self, case: Case) -> Verdict:
        began = time.perf_counter()
        gold = f"\\boxed{{{case.gold}}}"  # as its README asks: LaTeX in an environment
        reply = self._library("whole", case.response, gold)
        return Verdict(reply.value is True, time.perf_counter() - began, reply.fault)

    def _combined(self, case: Case) -> Verdict:
        began = time.perf_counter()
        grade = grade_math(case.response, case.gold)
        return Verdict(grade == 1, time.perf_counter() - began)


def main() -> None:
    """Compares them and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "answers.md")
    out = parser.parse_args().out
    verifiers = Verifiers().named
    said: dict[str, list[Verdict]] = {name: [] for name in verifiers}
    for i, case in enumerate(CASES):
        for name, ask in verifiers.items():
            said[name].append(ask(case))
        print(f"{i + 1} of {len(CASES)}", end="\r", flush=True)
    out.write_text("".join(page(said)))
    print("".join(page(said)))


def page(said: dict[str, list[Verdict]]) -> list[str]:
    """Lines of docs/answers.md."""
    version = importlib.metadata.version("math-verify")
    good = sum(case.right for case in CASES)
    lines = [
        "# Answers made to deceive\n\n",
        f"Made by `python benchmarks/math_answers.py`: {len(CASES)} responses, {good} "
        "of them right, judged by the\nrules of `o1jax/tasks/latex.py` alone, by "
        f"math-verify {version} alone (whole response, its defaults, in a\nworker "
        f"process with {SECONDS:g} s of processor time), and by both as "
        '`grade_math` (`verifier = "math"`) has them.\nWrong for right is a *false '
        "positive*: training learns from it, so it is the worse one. The cases\nwere "
        "written before the verifiers were run on them. The first run showed one "
        "error of the rules, which\nwas mended (`4 2` was 42, and so `1 1/2` was "
        "11/2); what is wrong now stays.\n\n",
        "| | cases |" + "".join(f" {name} |" for name in said) + "\n",
        "|---|---|" + "---|" * len(said) + "\n",
    ]
    kinds = list(dict.fromkeys(case.kind for case in CASES))
    for kind in [*kinds, ""]:
        rows = [i for i, case in enumerate(CASES) if not kind or case.kind == kind]
        cells = [
            _cell([CASES[i] for i in rows], [v[i] for i in rows]) for v in said.values()
        ]
        title = kind or "**all**"
        lines.append(
            f"| {title} | {len(rows)} |" + "".join(f" {c} |" for c in cells) + "\n"
        )
    lines.append(
        "\nA cell is false positives / false negatives; `.` is neither. Slowest: "
        + ", ".join(
            f"{name} {max(v.seconds for v in all_):.1f} s"
            for name, all_ in said.items()
        )
        + ".\n"
    )
    for title, kind in (("False positives", False), ("False negatives", True)):
        lines.append(f"\n## {title}\n\n")
        lines.append(
            "| gold | response |" + "".join(f" {name} |" for name in said) + "\n"
        )
        lines.append("|---|---|" + "---|" * len(said) + "\n")
        for i, case in enumerate(CASES):
            faults = [v[i].right != case.right for v in said.values()]
            if case.right is kind and any(faults):
                marks = "".join(
                    f" {'x' if fault else ''}{_why(v[i])} |"
                    for fault, v in zip(faults, said.values())
                )
                shown = case.response if case.whole else case.answer
                lines.append(f"| {_code(case.gold)} | {_code(shown)} |{marks}\n")
    return lines


def _cell(cases: list[Case], verdicts: list[Verdict]) -> str:
    positive = sum(v.right and not c.right for c, v in zip(cases, verdicts))
    negative = sum(c.right and not v.right for c, v in zip(cases, verdicts))
    return f"{positive} / {negative}" if positive or negative else "."


def _why(verdict: Verdict) -> str:
    return f" ({verdict.fault})" if verdict.fault else ""


def _code(text: str) -> str:
    text = text if len(text) <= 60 else f"{text[:40]}... ({len(text):,} characters)"
    return (
        "`" + text.replace("\n", " \u23ce ").replace("|", "\\|") + "`" if text else ""
    )


if __name__ == "__main__":
    main()

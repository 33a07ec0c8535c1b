"""Every family of reasoning-gym, tried: `python benchmarks/gym_families.py`.

In: the library, extra `gym`. Out: docs/gym.md, a table of all families: whether it
loads, samples, is the same in another process, and grades its worked answer as right
and garbage as wrong; those that do not, with the reason. Minutes on one core.
"""

import argparse
import importlib.metadata
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from o1jax.tasks.answers import equal
from o1jax.tasks.gym import PROCESS, SECONDS, Gym, families
from o1jax.tasks.worker import Worker

ROOT = Path(__file__).parent.parent
GARBAGE = (
    *("garbage", "0", "1", "-1", "[]", "{}", "None", "True", "Yes", "a", "A1"),
    *("up down left right", "the answer", "[[0, 0], [0, 0]]", "0.5", "1 2 3"),
)
REASONS = {
    "composite": "a mixture of others, which its options must name",
    "boxnet": "no worked answer comes with its questions",
    "rush_hour": "no worked answer comes with its questions",
}
# Of whose questions an answer to another may be a right one.
SEVERAL = ("propositional_logic", "n_queens")
HEAD = """# Families of reasoning-gym

Made by `python benchmarks/gym_families.py`: reasoning-gym {version}, {questions}
questions of each family at its own defaults. **{right} of {all}** load, sample, and
grade their worked answer as right and garbage as wrong.

- *garbage* is the highest score of {garbage} fixed texts, the question itself and the
  answers to the family's other questions, where they are not the question's own.
  `Gym.threshold` is {threshold}; *wrong as right* counts what is above it.
- *left out* are questions whose worked answer their own scorer does not call right.
- *again* says that a second process made the same questions and answers, in another
  order.
- *ms* is the median time to make a question; one of the test split takes 16 draws.

| family | worked answer right | garbage | wrong as right | again | ms | |
|---|---|---|---|---|---|---|
"""


class Row(NamedTuple):
    """What was found of a family."""

    family: str
    right: int = 0  # worked answers graded as right
    known: int = 0  # worked answers
    garbage: float = 0.0  # the highest score
    fooled: int = 0  # garbage graded as right
    tried: int = 0
    left_out: int = 0  # questions
    again: bool = False
    milliseconds: float = 0.0
    reason: str = ""

    @property
    def good(self) -> bool:
        """Loads, samples and grades."""
        return 0 < self.known == self.right and not self.fooled and self.again

    def line(self) -> str:
        """Of the table."""
        if not self.known:
            return f"| {self.family} | | | | | | **{self.reason}** |"
        note = "" if self.good else f"**{self.reason or 'see the numbers'}**"
        if self.left_out:
            note += f"{self.left_out} left out"
        return (
            f"| {self.family} | {self.right} of {self.known} | {self.garbage:.2g} | "
            f"{self.fooled} of {self.tried} | {'yes' if self.again else '**no**'} | "
            f"{self.milliseconds:.0f} | {note} |"
        )


def look(family: str, questions: int, other: Worker) -> Row:
    """Tries one family; `other` makes its questions again."""
    task = Gym(family)
    examples, seconds = [], []
    try:
        number, left_out = 7, 0
        while len(examples) < questions:
            began = time.perf_counter()
            if (example := task.numbered(number)) is not None:
                examples.append(example)
                seconds.append(time.perf_counter() - began)
            left_out += example is None
            number += 1
    except ValueError as error:
        return Row(family, reason=REASONS.get(family, str(error)))
    asked = [("make", family, (), example.hidden) for example in examples]
    made = [reply.value for reply in reversed(other.batch(reversed(asked)))]
    again = [(m["question"].strip(), m["answer"]) for m in made] == [
        (e.question, e.answer) for e in examples
    ]
    tagged = lambda answer: f"<answer>{answer}</answer>"
    known = [e for e in examples if e.answer]
    scores = []
    for example in examples:
        others = [] if family in SEVERAL else [e.answer for e in examples]
        texts = [*GARBAGE, example.question, *others]
        wrong = [text for text in texts if text and not equal(text, example.answer)]
        scores += [(task.score(example, tagged(text)), text) for text in wrong]
    highest, _ = max(scores)
    return Row(
        family,
        right=sum(task.grade(e, tagged(e.answer)) == 1 for e in known),
        known=len(known),
        garbage=highest,
        fooled=sum(score >= task.threshold for score, _ in scores),
        tried=len(scores),
        left_out=left_out,
        again=again,
        milliseconds=1000 * statistics.median(seconds),
        reason=REASONS.get(family, ""),
    )


def main() -> None:
    """Tries them all and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=8, help="of each family")
    parser.add_argument("--only", nargs="*", help="families; prints, writes nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gym.md")
    args = parser.parse_args()
    rows, other = [], Worker(PROCESS, seconds=SECONDS)
    for family in args.only or families():
        rows.append(look(family, args.questions, other))
        print(rows[-1].line(), flush=True)
    if args.only:
        return
    head = HEAD.format(
        version=importlib.metadata.version("reasoning-gym"),
        questions=args.questions,
        right=sum(row.good for row in rows),
        all=len(rows),
        garbage=len(GARBAGE),
        threshold=Gym.threshold,
    )
    args.out.write_text(head + "".join(f"{row.line()}\n" for row in rows))


if __name__ == "__main__":
    main()

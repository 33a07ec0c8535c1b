"""Recorded search trees as training texts: searches in full, or journeys.

In: a file of trees, one JSON object a line (search.trace.write_traces), and their task.
Out: a task whose train examples are the trees, each with its own question, in turn; its
other splits are the task's own examples with plain steps.
"""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from o1jax.config import configurable
from o1jax.data.behaviours.draft import bare
from o1jax.data.behaviours.journey import journey
from o1jax.data.behaviours.task import Behaviours
from o1jax.data.lines import read_lines
from o1jax.data.search_text.spaces import space
from o1jax.data.search_text.task import SearchText, as_example
from o1jax.data.search_text.trees import tree_trace
from o1jax.tasks import Countdown
from o1jax.tasks.steps import check_int
from o1jax.tasks.task import STEP_END, Example, Task, split_of

COLUMNS = {"parent": int, "step": str, "visits": int, "value": (int, float)}


@configurable
@dataclass(frozen=True)
class TreeText:
    """What is told of each tree.

    A tree without a right answer has no journey; its search ends in `<fail>`. Trees of
    questions that are not in the train split are left out, and so are those whose text
    would be too long, or holds what is no word: a policy may write a special token.
    """

    path: str  # of the trees; those of a stage Grow: trees/NAME.jsonl
    task: Task = field(default_factory=Countdown)
    form: Literal["journey", "search"] = "journey"
    turns: int = 1  # of a journey: wrong turns at each step of the way
    depth: int = 2  # of a journey: steps of a wrong turn
    # Of a journey: share of right steps that are checked, as all wrong turns are. At 0
    # a policy learns that what is checked is wrong.
    checks: float = 0.5
    max_words: int = 256  # of a response
    max_nodes: int = 64  # of a search

    def __post_init__(self) -> None:
        if self.form not in ("journey", "search"):
            raise ValueError("form must be 'journey' or 'search'")
        check_int(self, "turns", 0, 100)
        check_int(self, "depth", 1, 100)
        if not 0 <= self.checks <= 1:
            raise ValueError("checks must be from 0 to 1")
        self.symbols()  # refuses a task that nobody can write about

    @functools.cached_property
    def _texts(self) -> Behaviours | SearchText:
        """The task in whose language the texts are, and which grades them."""
        if self.form == "journey":
            return Behaviours(task=self.task, max_words=self.max_words)
        return SearchText(
            task=self.task, max_words=self.max_words, max_nodes=self.max_nodes
        )

    @functools.cached_property
    def _examples(self) -> list[Example]:
        trees = read_lines(self.path, _tree)
        trees = [t for t in trees if split_of(t.question) == "train"]
        told = [example for tree in trees if (example := self._told(tree))]
        known = {*self.symbols(), STEP_END}
        made = [e for e in told if known.issuperset(" ".join(e.steps).split())]
        if not made:
            raise ValueError(f"{self.path}: no {self.form} of a train question in it")
        return made

    def _told(self, tree: SimpleNamespace) -> Example | None:
        example = self.task.parse(tree.question)
        if self.form == "search":
            trace = tree_trace(space(self.task, example), tree, self._texts.limits)
            return as_example(example, trace)
        text = journey(
            self.task,
            example,
            tree,
            turns=self.turns,
            depth=self.depth,
            checks=self.checks,
            max_words=self.max_words,
        )
        return text and text.as_example()

    def within(self, folder: Path) -> "TreeText":
        """The same, of a run in `folder`, whose own file comes before one elsewhere."""
        return _placed(self, folder) if (folder / self.path).exists() else self

    @property
    def name(self) -> str:
        return f"{self.task.name}-{self.form}"

    @property
    def value_needs_answer(self) -> bool:
        return self.task.value_needs_answer

    def symbols(self) -> list[str]:
        """Words that the tokenizer keeps as one piece each."""
        return self._texts.symbols()

    def example(self, seed: int, split: str, index: int) -> Example:
        """Tree `index` of the file, from its beginning again behind the last one."""
        if split == "train":
            return self._examples[index % len(self._examples)]
        return bare(self.task.example(seed, split, index)).as_example()

    def parse(self, question: str) -> Example:
        """A user's question, with the plain steps of a solution."""
        return self._texts.parse(question)

    def grade(self, example: Example, response: str) -> float:
        """As Behaviours or SearchText do."""
        return self._texts.grade(_plain(example), response)

    def check_steps(self, example: Example, response: str) -> list:
        """As Behaviours or SearchText do."""
        return self._texts.check_steps(_plain(example), response)

    def state_value(self, example: Example, steps: Any) -> float:
        """As Behaviours or SearchText do."""
        return self._texts.state_value(_plain(example), steps)

    def measure(self, examples: Any, texts: Any) -> dict[str, float]:
        """As Behaviours or SearchText do."""
        return self._texts.measure([_plain(e) for e in examples], texts)


@functools.lru_cache(maxsize=8)  # a file is read once
def _placed(text: TreeText, folder: Path) -> TreeText:
    return replace(text, path=str(folder / text.path))


def _plain(example: Example) -> Example:
    """Without its text, which may be of either language."""
    return replace(example, hidden=None)


def _tree(record: dict[str, Any]) -> SimpleNamespace:
    """The columns that a text needs; ValueError names one that is not there."""
    tree = SimpleNamespace(
        question=record.get("question"), chosen=record.get("chosen", 0)
    )
    if not isinstance(tree.question, str):
        raise ValueError('"question" is not a text')
    count = len(record["parent"]) if isinstance(record.get("parent"), list) else 0
    for name, kind in COLUMNS.items():
        column = record.get(name)
        if not isinstance(column, list) or len(column) != count or not count:
            raise ValueError(f'"{name}" is no list with an entry for each node')
        if not all(isinstance(x, kind) and not isinstance(x, bool) for x in column):
            raise ValueError(f'"{name}" holds something of another type')
        setattr(tree, name, column)
    if any(not 0 <= p < n for n, p in enumerate(tree.parent[1:], start=1)):
        raise ValueError('"parent" names no earlier node')
    if type(tree.chosen) is not int or not 0 <= tree.chosen < count:
        raise ValueError('"chosen" is no node')
    return tree

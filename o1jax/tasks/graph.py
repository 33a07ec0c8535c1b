"""Graph: shuffled definitions of variables modulo m, one of them queried.

Question `c = a + b , a = 5 , b = a * 3 , d = b - 2 , c ?`; a step repeats a definition
whose inputs are known and adds its value: `a = 5 ; b = a * 3 = 15 ; c = a + b = 20 ;`.
The error to make and to catch is using a variable too early. Difficulty is the number
of variables that the query needs. After iGSM (Ye et al. 2024, arXiv 2407.20311),
without its story text and its categories.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from o1jax.config import configurable
from o1jax.tasks.chain import OPERATORS, apply, units
from o1jax.tasks.steps import MAX_QUESTION, StepTask, check_int, integers, malformed
from o1jax.tasks.task import STEP_END, Example

NAMES = "abcdefghijklmnopqrstuvwxyz"

_CLAUSE = re.compile(
    r"\s*([a-z])\s*=\s*([a-z]|[0-9]{1,4})\s*(?:([-+*])\s*([a-z]|[0-9]{1,4})\s*)?"
)
_QUERY = re.compile(r"\s*([a-z])\s*\?\s*")

Definition = tuple[str, ...]  # ("5",), ("a",) or ("a", "*", "3")


class Problem(NamedTuple):
    """A question, understood."""

    definitions: dict[str, Definition]
    values: dict[str, int]
    query: str


class State(NamedTuple):
    """Where a solution stands."""

    problem: Problem
    known: frozenset[str]


def inputs(definition: Definition) -> list[str]:
    """The variables that a definition reads, left to right."""
    return [word for word in definition[::2] if word in NAMES]


def needed(definitions: dict[str, Definition], query: str) -> list[str]:
    """The variables that the query needs, itself last: inputs first, left to right.

    Raises ValueError, naming the variable, for a cycle or a missing definition.
    """
    order: list[str] = []
    opened: set[str] = set()

    def visit(name: str) -> None:
        if name not in definitions:
            raise ValueError(f"{name} is not defined")
        opened.add(name)
        for source in inputs(definitions[name]):
            if source not in opened:
                visit(source)
            elif source not in order:
                raise ValueError(f"{source} depends on itself")
        order.append(name)

    visit(query)
    return order


@configurable
@dataclass(frozen=True)
class Graph(StepTask):
    """`min_variables` to `max_variables` needed ones, and up to `distractors` more."""

    min_variables: int = 3
    max_variables: int = 6
    max_inputs: int = 2
    distractors: int = 2
    modulus: int = 23

    def __post_init__(self) -> None:
        check_int(self, "modulus", 2, 1000)
        check_int(self, "max_inputs", 1, 2)
        check_int(self, "min_variables", 1, len(NAMES))
        check_int(self, "max_variables", self.min_variables, len(NAMES))
        check_int(self, "distractors", 0, len(NAMES) - self.max_variables)

    @property
    def name(self) -> str:
        return "graph"

    def symbols(self) -> list[str]:
        """Words that the tokenizer keeps as one piece each."""
        numbers = map(str, range(self.modulus))
        return [STEP_END, "=", ",", "?", *OPERATORS, *NAMES, *numbers]

    def make(self, rng: np.random.Generator) -> Example:
        """One random example."""
        below = integers(rng)
        count = self.min_variables + below(self.max_variables - self.min_variables + 1)
        sources = self._sources(count, below(self.distractors + 1), below)
        names = list(NAMES)
        _shuffle(names, below, len(sources))
        definitions: dict[str, Definition] = {}
        values: dict[str, int] = {}
        for name, reads in zip(names, sources):
            operands = [names[i] for i in reads]
            definitions[name] = self._define(operands, values, below)
            values[name] = self._evaluate(definitions[name], values)
        shown = names[: len(sources)]
        _shuffle(shown, below)
        return self._example(
            Problem({n: definitions[n] for n in shown}, values, names[count - 1])
        )

    def _sources(
        self, count: int, extra: int, below: Callable[[int], int]
    ) -> list[list[int]]:
        """What each variable reads, by position: `count` needed ones, then the extra.

        The last needed one is the query. Each of the others gets one reader behind it,
        so that all are needed; some get a second one.
        """
        sources: list[list[int]] = [[] for _ in range(count)]
        for i in range(count - 2, -1, -1):
            free = [j for j in range(i + 1, count) if len(sources[j]) < self.max_inputs]
            sources[free[below(len(free))]].append(i)
        for j in range(2, count):
            if 0 < len(sources[j]) < self.max_inputs and below(2):
                others = [i for i in range(j) if i not in sources[j]]
                sources[j].append(others[below(len(others))])
        for j in range(count, count + extra):
            first = below(j)
            pair = [first, (first + 1 + below(j - 1)) % j]  # two different ones
            sources.append(pair[: min(j, below(self.max_inputs + 1))])
        for reads in sources:
            if len(reads) == 2 and below(2):
                reads.reverse()
        return sources

    def _define(
        self,
        operands: Sequence[str],
        values: dict[str, int],
        below: Callable[[int], int],
    ) -> Definition:
        """A random definition that reads these variables.

        Factors are coprime with the modulus, so that a product by 0 can't hide a wrong
        value of the other factor.
        """
        if not operands:
            return (str(below(self.modulus)),)
        operator, factors = OPERATORS[below(3)], units(self.modulus)
        if len(operands) == 1:
            times = operator == "*"
            number = factors[below(len(factors))] if times else below(self.modulus)
            return operands[0], operator, str(number)
        if operator == "*" and not all(values[name] in factors for name in operands):
            operator = OPERATORS[below(2)]
        return operands[0], operator, operands[1]

    def _evaluate(self, definition: Definition, values: dict[str, int]) -> int:
        """The value of a definition whose inputs are known."""
        left, *more = [int(values.get(word, word)) for word in definition[::2]]
        return apply(definition[1], left, more[0], self.modulus) if more else left

    def parse(self, question: str) -> Example:
        """A user's question such as `b = a * 3, a = 5, b ?`."""
        if len(question) > MAX_QUESTION:
            raise malformed("graph", question, f"longer than {MAX_QUESTION} characters")
        *clauses, last = question.split(",")
        definitions: dict[str, Definition] = {}
        for clause in clauses:
            found = _CLAUSE.fullmatch(clause)
            if not found:
                raise malformed("graph", question, "expected the form b = a * 3 , b ?")
            name, *words = found.groups()
            if name in definitions:
                raise malformed("graph", question, f"{name} is defined twice")
            words = [
                w if w in {*NAMES, *OPERATORS} else str(int(w)) for w in words if w
            ]
            for word in words:
                if word.isdecimal() and int(word) >= self.modulus:
                    why = f"{word} is not below the modulus {self.modulus}"
                    raise malformed("graph", question, why)
            definitions[name] = tuple(words)
        query = _QUERY.fullmatch(last)
        if not query:
            raise malformed(
                "graph", question, "expected a query such as b ? at its end"
            )
        values: dict[str, int] = {}
        try:
            for name in [query[1], *definitions]:
                for source in needed(definitions, name):
                    values[source] = self._evaluate(definitions[source], values)
        except ValueError as error:
            raise malformed("graph", question, str(error)) from None
        return self._example(Problem(definitions, values, query[1]))

    def _example(self, problem: Problem) -> Example:
        definitions, values, query = problem
        shown = [f"{name} = {' '.join(definitions[name])}" for name in definitions]
        order = needed(definitions, query)
        return Example(
            question=" , ".join([*shown, f"{query} ?"]),
            steps=tuple(_step(problem, name) for name in order),
            answer=str(values[query]),
            difficulty=len(order),
            hidden=problem,
        )

    def start(self, example: Example) -> State:
        """No variable is known."""
        problem = example.hidden
        if not isinstance(problem, Problem):
            problem = self.parse(example.question).hidden
        return State(problem, frozenset())

    def advance(self, state: State, step: str) -> tuple[State, str]:
        """A step is right if its inputs are known and its value is true.

        Any order that respects the inputs is right, and so is a variable that the query
        doesn't need; one that is known already is not.
        """
        (definitions, values, query), known = state
        words = step.split()
        if query in known:
            return state, "comes after the answer"
        if len(words) < 3 or words[1] != "=":
            return state, "is not of the form b = a * 3 = 15"
        name = words[0]
        if name not in definitions:
            return state, "defines an unknown variable"
        if name in known:
            return state, f"{name} is known already"
        definition = definitions[name]
        if tuple(words[2 : 2 + len(definition)]) != definition:
            return state, f"is not the definition of {name}"
        for source in inputs(definition):
            if source not in known:
                return state, f"uses {source} too early"
        right = _step(state.problem, name)
        if words != right.split():
            return state, f"{name} is {values[name]}: {right}"
        return State(state.problem, known | {name}), ""

    def done(self, state: State) -> bool:
        """Whether the queried variable is known."""
        return state.problem.query in state.known

    def value(self, state: State) -> float:
        """1.0: right steps can always be continued to the query."""
        return 1.0


def _step(problem: Problem, name: str) -> str:
    """The one right step for a variable; a bare number is its own value."""
    definition = problem.definitions[name]
    if len(definition) == 1 and not inputs(definition):
        return f"{name} = {definition[0]}"
    return f"{name} = {' '.join(definition)} = {problem.values[name]}"


def _shuffle(
    items: list, below: Callable[[int], int], count: int | None = None
) -> None:
    """Shuffle in place (Fisher-Yates); with `count`, only that many of the front."""
    for i in range(len(items) if count is None else count):
        j = i + below(len(items) - i)
        items[i], items[j] = items[j], items[i]

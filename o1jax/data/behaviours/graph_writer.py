"""Texts about graphs. Mistakes: a variable used too early, or a wrong value."""

from o1jax.data.behaviours.marks import WHY, ordinal
from o1jax.data.behaviours.residues import another_way, computes
from o1jax.data.behaviours.writer import Another, Belief, Below, Written
from o1jax.tasks import chain as chains
from o1jax.tasks import graph
from o1jax.tasks.graph import Graph, inputs, needed
from o1jax.tasks.task import Example


class GraphWriter:
    """`<analysis> c ? , a = 5` the query and what is given as a number;
    `<plan> #1 a , #2 b , #3 c` an order of the variables.
    """

    def __init__(self, task: Graph) -> None:
        self._task = task
        self.words = ()
        self.most_steps = task.max_variables + task.distractors

    def analysis(self, example: Example) -> str:
        definitions, _, query = self._problem(example)
        given = [
            f"{name} = {' '.join(definitions[name])}"
            for name in definitions
            if not inputs(definitions[name])
        ]
        return " , ".join([f"{query} ?", *given])

    def plan(self, example: Example) -> str:
        names = enumerate((step.split()[0] for step in example.steps), start=1)
        return " , ".join(f"{ordinal(i)} {name}" for i, name in names)

    def plans(self, example: Example, plan: str) -> bool:
        definitions, _, query = self._problem(example)
        known: list[str] = []
        for i, item in enumerate(plan.split(" , ")[: len(definitions) + 1], start=1):
            number, _, name = item.partition(" ")
            if number != ordinal(i) or name not in definitions or name in known:
                return False
            if any(source not in known for source in inputs(definitions[name])):
                return False
            known.append(name)
        return known[-1:] == [query] and len(known) == plan.count(" , ") + 1

    def _problem(self, example: Example) -> graph.Problem:
        return self._task.start(example).problem

    def begin(self, example: Example) -> Belief:
        problem = self._problem(example)
        return problem, {}, tuple(needed(problem.definitions, problem.query))

    def right(self, belief: Belief, step: str) -> Written:
        problem, known, order = belief
        words = step.split()
        known = known | {words[0]: int(words[-1])}
        return Written(step, (problem, known, order))

    def follow(self, belief: Belief, below: Below) -> Written | None:
        problem, known, order = belief
        name = next((name for name in order if name not in known), None)
        if name is None or problem.query in known:
            return None
        return self._define(belief, name, self._value(problem, known, name))

    def slip(self, belief: Belief, below: Below) -> Written | None:
        """A variable whose inputs are not known, with a guess; or a wrong value."""
        problem, known, order = belief
        early = [
            name
            for name, definition in problem.definitions.items()
            if name not in known and any(s not in known for s in inputs(definition))
        ]
        if early and below(3):
            name = early[below(len(early))]
            return self._define(belief, name, below(self._task.modulus))
        name = next(name for name in order if name not in known)
        other = 1 + below(self._task.modulus - 1)
        wrong = (self._value(problem, known, name) + other) % self._task.modulus
        return self._define(belief, name, wrong)

    def another(self, belief: Belief, step: str, below: Below) -> Another | None:
        """Another variable that is ready; else another way to the step's value."""
        problem, known, _ = belief
        name = step.split()[0]
        ready = [
            other
            for other, definition in problem.definitions.items()
            if other not in known and other not in (name, problem.query)
            if all(source in known for source in inputs(definition))
        ]
        if ready:
            first = ready[below(len(ready))]
            value = self._value(problem, known, first)
            return Another(self._define(belief, first, value).step, True, step)
        definition = problem.definitions[name]
        if len(definition) == 1:
            return None
        left, right = (int(known.get(word, word)) for word in definition[::2])
        why = another_way(definition[1], left, right, self._task.modulus)
        return Another(step, True, f"{why} {WHY} {step}")

    def derives(self, why: str, step: str) -> bool:
        return computes(why, step.split()[-1:], self._task.modulus)

    def _value(self, problem: graph.Problem, known: dict[str, int], name: str) -> int:
        """By what is believed of the inputs; a missing one counts as 0."""
        left, *more = problem.definitions[name][::2]
        read = lambda word: int(word) if word.isdecimal() else known.get(word, 0)
        if not more:
            return read(left)
        operator = problem.definitions[name][1]
        return chains.apply(operator, read(left), read(more[0]), self._task.modulus)

    def _define(self, belief: Belief, name: str, value: int) -> Written:
        problem, known, order = belief
        step = graph_step(problem.definitions[name], name, value)
        return Written(step, (problem, known | {name: value}, order))


def graph_step(definition: graph.Definition, name: str, value: int) -> str:
    """A graph's step with any value; a bare number is its own."""
    if len(definition) == 1 and definition[0].isdecimal():
        return f"{name} = {value}"
    return f"{name} = {' '.join(definition)} = {value}"

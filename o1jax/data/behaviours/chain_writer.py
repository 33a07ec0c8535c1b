"""Texts about chains. Mistakes: another operation, one too many, any other number."""

from o1jax.data.behaviours.marks import WHY, ordinal
from o1jax.data.behaviours.residues import another_way, computes
from o1jax.data.behaviours.writer import Another, Belief, Below, Written
from o1jax.tasks import chain as chains
from o1jax.tasks.chain import Chain
from o1jax.tasks.task import Example


class ChainWriter:
    """`<analysis> 7 , #3` start and number of steps; `<plan> #1 + 5 , #2 * 3`.

    There is one right path; another way to a step is another operation: + 5 is - 18.
    """

    def __init__(self, task: Chain) -> None:
        self._modulus = task.modulus
        self.words = tuple(chains.OPERATORS)
        self.most_steps = task.max_steps

    def analysis(self, example: Example) -> str:
        words = example.question.split()
        return f"{words[0]} , {ordinal(len(words) // 2 - 1)}"

    def plan(self, example: Example) -> str:
        tasks = enumerate(_operations(example), start=1)
        return " , ".join(f"{ordinal(i)} {op} {n}" for i, (op, n) in tasks)

    def plans(self, example: Example, plan: str) -> bool:
        return plan == self.plan(example)

    def begin(self, example: Example) -> Belief:
        return int(example.question.split()[0]), tuple(_operations(example))

    def right(self, belief: Belief, step: str) -> Written:
        return Written(step, (int(step), belief[1][1:]))

    def follow(self, belief: Belief, below: Below) -> Written | None:
        value, operations = belief
        if not operations:
            return None
        after = chains.apply(operations[0][0], value, operations[0][1], self._modulus)
        return Written(str(after), (after, operations[1:]))

    def slip(self, belief: Belief, below: Below) -> Written | None:
        """Another operation, one too many or few, or any other number."""
        value, ((operator, n), *rest) = belief
        right = chains.apply(operator, value, n, self._modulus)
        others = [chains.apply(o, value, n, self._modulus) for o in chains.OPERATORS]
        near = [(right + 1) % self._modulus, (right - 1) % self._modulus]
        near += [x for x in others if x != right]
        kind = below(len(near) + 1)
        far = (right + 1 + below(self._modulus - 1)) % self._modulus
        wrong = near[kind] if kind < len(near) else far
        return Written(str(wrong), (wrong, tuple(rest)))

    def another(self, belief: Belief, step: str, below: Below) -> Another | None:
        value, ((operator, n), *_) = belief
        why = another_way(operator, value, n, self._modulus)
        return Another(step, True, f"{why} {WHY} {step}")

    def derives(self, why: str, step: str) -> bool:
        return computes(why, step.split()[-1:], self._modulus)


def _operations(example: Example) -> list[tuple[str, int]]:
    words = example.question.split()[1:-1]
    return list(zip(words[::2], map(int, words[1::2])))

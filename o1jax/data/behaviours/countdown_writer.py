"""Texts about countdown. Mistakes: a dead end, or a wrong sum, often the target."""

from collections.abc import Sequence

from o1jax.data.behaviours.marks import ordinal
from o1jax.data.behaviours.writer import Another, Belief, Below, Written
from o1jax.tasks import countdown
from o1jax.tasks.countdown import Countdown, legal_moves, reachable
from o1jax.tasks.task import Example


class CountdownWriter:
    """`<analysis> 9 12 19 , 22 , #2` numbers, target, number of steps;
    `<plan> #1 19 + 12 , #2 31 - 9`.
    """

    def __init__(self, task: Countdown) -> None:
        self._task = task
        self.words = ()
        self.most_steps = task.numbers - 1

    def analysis(self, example: Example) -> str:
        numbers, target = self._asked(example)
        shown = " ".join(map(str, numbers))
        return f"{shown} , {target} , {ordinal(len(numbers) - 1)}"

    def plan(self, example: Example) -> str:
        halves = (step.partition(" = ")[0] for step in example.steps)
        tasks = enumerate(halves, start=1)
        return " , ".join(f"{ordinal(i)} {half}" for i, half in tasks)

    def plans(self, example: Example, plan: str) -> bool:
        remaining, target = self._asked(example)
        halves = plan.split(" , ")
        if len(halves) != len(remaining) - 1:
            return False
        for i, half in enumerate(halves, start=1):
            moves = legal_moves(remaining, self._task.max_value)
            named = {f"{ordinal(i)} {m.left} {m.operator} {m.right}": m for m in moves}
            if (move := named.get(half)) is None:
                return False
            remaining = move.remaining
        return remaining == (target,)

    def _asked(self, example: Example) -> countdown.State:
        return self._task.start(example)

    def begin(self, example: Example) -> Belief:
        return self._asked(example)

    def right(self, belief: Belief, step: str) -> Written:
        remaining = tuple(map(int, step.rpartition(" , ")[2].split()))
        return Written(step, countdown.State(remaining, belief.target))

    def follow(self, belief: Belief, below: Below) -> Written | None:
        moves = legal_moves(belief.remaining, self._task.max_value)
        return self._taken(moves[below(len(moves))], belief) if moves else None

    def slip(self, belief: Belief, below: Below) -> Written | None:
        """A dead end, or a wrong sum: at the end often the target itself."""
        remaining, target = belief
        moves = legal_moves(remaining, self._task.max_value)
        dead = self._dead(moves, target)
        if dead and below(2):
            return self._taken(dead[below(len(dead))], belief)
        move = moves[below(len(moves))]
        other = (move.result + 1 + below(self._task.max_value)) % (
            self._task.max_value + 1
        )
        if len(remaining) == 2 and move.result != target and below(2):
            other = target
        rest = list(move.remaining)
        rest.remove(move.result)
        wrong = move._replace(result=other, remaining=tuple(sorted((*rest, other))))
        return self._taken(wrong, belief)

    def another(self, belief: Belief, step: str, below: Below) -> Another | None:
        """A dead end if there is one, else another move that may do as well."""
        moves = legal_moves(belief.remaining, self._task.max_value)
        moves = [move for move in moves if move.step != step]
        dead = self._dead(moves, belief.target)
        moves = dead or moves
        if not moves:
            return None
        return Another(moves[below(len(moves))].step, not dead, step)

    def derives(self, why: str, step: str) -> bool:
        return False  # an `<other>` of countdown is a step

    def _dead(
        self, moves: Sequence[countdown.Move], target: int
    ) -> list[countdown.Move]:
        most = self._task.max_value
        return [m for m in moves if not reachable(m.remaining, most) >> target & 1]

    def _taken(self, move: countdown.Move, belief: Belief) -> Written:
        return Written(move.step, countdown.State(move.remaining, belief.target))

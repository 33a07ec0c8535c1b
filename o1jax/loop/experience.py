"""What a round of learning is made of: fresh responses, sampled and graded.

In: the policy as it is and a place in the stream of training questions. Out: a
`Collected`: responses of one shape, what each is worth, and which of them count. While
one chunk is graded the device samples the next. What search trees give: tree_data.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from o1jax.loop.answer import Answerer, Answers
from o1jax.loop.filters import Filters, questions_kept, responses_kept
from o1jax.loop.reward_data import FRESH
from o1jax.loop.searching import step_end_ids
from o1jax.loop.traces import closing
from o1jax.loop.workdir import Workdir
from o1jax.rollout.sampling import SamplingConfig
from o1jax.tasks.task import Example, Task
from o1jax.types import Params, Trajectory

LOOKED_AT = 256  # questions that tell how long prompts are


class Collected(NamedTuple):
    """R responses, those of a question in a row; numpy."""

    examples: list[Example]  # [R]
    texts: list[str]  # [R]
    rows: Trajectory  # [R, T]
    step_end: np.ndarray  # bool[R, T]
    grades: np.ndarray  # f64[R]  the task's
    reward: np.ndarray  # f64[R]  what is paid for the whole response
    keep: np.ndarray  # bool[R]  to learn from
    position: int  # of the stream of questions, behind those asked
    facts: dict[str, float]  # metrics of the collection
    trees: Sequence[Any] = ()  # (Nodes, Prompts, bool[B] to learn from) of responses

    def metrics(self, samples: int) -> dict[str, float]:
        """What is said of a round, whoever learns from it.

        samples: of each question; 0 where they are as many as a tree had.
        """
        mean = lambda x: float(x.mean()) if len(x) else 0.0
        right = self.grades >= 1
        said = {
            "reward": mean(self.reward),
            "pass@1": mean(right),
            "length": mean(self.rows.length - self.rows.prompt_length),
            "finished": mean(self.rows.finished),
            "kept": mean(self.keep),
        }
        if samples > 1:
            said[f"pass@{samples}"] = mean(right.reshape(-1, samples).any(axis=1))
        return said | self.facts


# (rows, step_end, grades) -> f64[R], the outcome that is paid for each response
Worth = Callable[[Trajectory, np.ndarray, np.ndarray], np.ndarray]


class Questions:
    """The training questions of a stage, in order; no other stage comes to them."""

    def __init__(self, run: Workdir, index: int, task: Task) -> None:
        self._run, self._task = run, task
        self._first = (4 + index) * FRESH
        looked = [self.at(i) for i in range(LOOKED_AT)]
        self.longest = max(map(self.size, looked))  # tokens of a prompt

    def at(self, number: int) -> Example:
        seed = self._run.experiment.seed
        return self._task.example(seed, "train", self._first + number)

    def take(self, position: int, count: int) -> tuple[list[Example], int]:
        """(`count` questions from there on, the position behind them).

        One that is longer than the first ones were is passed over.
        """
        taken: list[Example] = []
        while len(taken) < count:
            if self.size(example := self.at(position)) <= self.longest:
                taken.append(example)
            position += 1
        return taken, position

    def size(self, example: Example) -> int:
        encode = self._run.experiment.template.encode_prompt
        return len(encode(self._run.tokenizer, example.question))


class Sampling:
    """Draws the responses of a round."""

    def __init__(
        self,
        run: Workdir,
        questions: Questions,
        task: Task,
        *,
        count: int,
        samples: int,
        sampling: SamplingConfig,
        requests: int,
        filters: Filters,
        hint: str = "",
    ) -> None:
        """count: questions of a round; hint: see `hinted`, "" for none."""
        self._run, self._questions, self._task = run, questions, task
        self._count, self._samples, self._filters = count, samples, filters
        self._ends = step_end_ids(run)
        longest = questions.longest
        if hint:
            some = [hinted(questions.at(i), hint) for i in range(LOOKED_AT)]
            longest = max(longest, *map(questions.size, some))
        chunk = min(requests, count * samples)
        self.answer = Answerer(run, [], sampling, chunk=chunk, length=longest)
        # Tokens of a row: a prompt and the longest response.
        self.width = longest + run.experiment.sampler.max_new_tokens

    def __call__(
        self, params: Params, key: jax.Array, position: int, worth: Worth
    ) -> Collected:
        """The responses of a round; books them as rollout.

        Questions that the filters leave out are replaced by others, in as many draws
        as the filters allow; then they fill the round up and do not count.
        """
        groups: list[Collected] = []
        kept = asked = 0
        for draw in range(self._filters.draws):
            examples, position = self._questions.take(position, self._count)
            own = jax.random.fold_in(key, draw)
            found = self._draw(params, own, examples, position, worth)
            groups.append(found)
            kept += int(self._kept(found).sum())
            asked += self._count
            if kept >= self._count:
                break
        return self._join(groups, asked)

    def hints(
        self, params: Params, key: jax.Array, found: Collected, hint: str, worth: Worth
    ) -> Collected | None:
        """Responses to the questions that nothing right was found for, given a hint.

        Their prompts are those of the questions alone, so that what is right can be
        learned as if nobody had helped: STaR's rationalization, arXiv 2203.14465.
        """
        right = (found.grades >= 1).reshape(-1, self._samples).any(axis=1)
        failed = np.flatnonzero(np.repeat(~right, self._samples))
        if not len(failed):
            return None
        rest = pick(found, failed)
        helped = [hinted(e, hint) for e in rest.examples[:: self._samples]]
        task = _Unhinted(self._task)
        answers = self.answer(
            params, key, self._samples, task=task, kind="rollout", examples=helped
        )
        plain = behind_prompts(answers.rows, rest.rows)
        return self._collected(rest.examples, answers, plain, found.position, worth)

    def _draw(
        self,
        params: Params,
        key: jax.Array,
        examples: list[Example],
        position: int,
        worth: Worth,
    ) -> Collected:
        answers = self.answer(
            params,
            key,
            self._samples,
            task=self._task,
            kind="rollout",
            examples=examples,
        )
        each = [example for example in examples for _ in range(self._samples)]
        return self._collected(each, answers, answers.rows, position, worth)

    def _collected(
        self,
        examples: list[Example],
        answers: Answers,
        rows: Trajectory,
        position: int,
        worth: Worth,
    ) -> Collected:
        step_end = closing(rows.tokens, rows.prompt_length, rows.length, self._ends)
        reward = worth(rows, step_end, answers.grades.ravel())
        shape = answers.grades.shape
        keep = responses_kept(self._filters, answers.texts, answers.finished)
        keep &= questions_kept(self._filters, reward.reshape(shape), answers.grades)[
            :, None
        ]
        return Collected(
            examples=examples,
            texts=[text for texts in answers.texts for text in texts],
            rows=rows,
            step_end=step_end,
            grades=answers.grades.ravel(),
            reward=reward,
            keep=keep.ravel(),
            position=position,
            facts={},
        )

    def _kept(self, found: Collected) -> np.ndarray:
        """bool[Q]: questions of which something is kept."""
        return found.keep.reshape(-1, self._samples).any(axis=1)

    def _join(self, groups: list[Collected], asked: int) -> Collected:
        """A round's number of questions: those kept come first."""
        every = concatenate(groups)
        kept = self._kept(every)
        order = np.argsort(~kept, kind="stable")[: self._count]
        at = (order[:, None] * self._samples + np.arange(self._samples)).ravel()
        reward = every.reward.reshape(-1, self._samples)
        equal = (reward == reward[:, :1]).all(axis=1)
        facts = {"asked": float(asked), "zero_variance": float(equal.mean())}
        for name in groups[0].facts:  # what each draw says itself
            facts[name] = float(np.mean([group.facts[name] for group in groups]))
        return pick(every, at)._replace(facts=facts)


def concatenate(groups: Sequence[Collected]) -> Collected:
    """All their responses; position and facts of the last."""
    lists = {
        name: [x for group in groups for x in getattr(group, name)]
        for name in ("examples", "texts")
    }
    arrays = {
        name: jax.tree.map(
            lambda *x: np.concatenate(x), *(getattr(group, name) for group in groups)
        )
        for name in ("rows", "step_end", "grades", "reward", "keep")
    }
    return groups[-1]._replace(**lists, **arrays)


def pick(found: Collected, at: np.ndarray) -> Collected:
    """Some of the responses."""
    return found._replace(
        examples=[found.examples[i] for i in at],
        texts=[found.texts[i] for i in at],
        rows=jax.tree.map(lambda x: x[at], found.rows),
        step_end=found.step_end[at],
        grades=found.grades[at],
        reward=found.reward[at],
        keep=found.keep[at],
    )


def hinted(example: Example, hint: str) -> Example:
    """The example with its answer in the question: hint is such as " {answer}"."""
    question = example.question + hint.format(answer=example.answer)
    return replace(example, question=question, hidden=example)


class _Unhinted:
    """A task that grades a hinted example as the one that it was made of."""

    def __init__(self, task: Task) -> None:
        self._task, self.name = task, task.name

    def grade(self, example: Example, response: str) -> float:
        return self._task.grade(example.hidden, response)


def behind_prompts(rows: Trajectory, plain: Trajectory) -> Trajectory:
    """The responses of `rows` behind the prompts of `plain`, whose rows have room."""
    tokens = np.zeros_like(plain.tokens)
    logprob = np.zeros_like(plain.logprob)
    own = rows.length - rows.prompt_length
    for r, size in enumerate(own):
        begin, source = plain.prompt_length[r], rows.prompt_length[r]
        tokens[r, :begin] = plain.tokens[r, :begin]
        tokens[r, begin : begin + size] = rows.tokens[r, source : source + size]
        logprob[r, begin : begin + size] = rows.logprob[r, source : source + size]
    return rows.replace(
        tokens=tokens,
        prompt_length=plain.prompt_length,
        length=plain.prompt_length + own,
        logprob=logprob,
        value=np.zeros_like(plain.value),
    )

"""What a round of learning is made of: search trees over training questions.

In: the policy as it is and the number of the round. Out: a `Collected` whose responses
are the different finished answers of the trees, graded, and the trees themselves, each
with whether the filters keep it. No answer here is evaluated, so a guide may know the
truth; what a policy gradient reads must be sampled (experience.py), since a step that a
tree chose was not drawn.
"""

import time
from collections.abc import Sequence

import jax
import numpy as np

from o1jax.loop.experience import Collected, Questions
from o1jax.loop.filters import Filters, distinct, trees_kept
from o1jax.loop.methods import Search
from o1jax.loop.searching import Searcher, step_end_ids
from o1jax.loop.traces import closing
from o1jax.loop.workdir import Workdir
from o1jax.reward.outcome import grade
from o1jax.reward.versions import Weights
from o1jax.search.harvest import NONE, finished_paths, packed, trajectories
from o1jax.search.nodes import Nodes
from o1jax.tasks.task import Example, Task
from o1jax.types import Params, Prompts, Spent, Trajectory


class Trees(Searcher):
    """Searches a round's questions at a time, with one compiled program."""

    def __init__(
        self,
        run: Workdir,
        questions: Questions,
        task: Task,
        config: Search,
        *,
        filters: Filters,
        count: int,
        rounds: int,
    ) -> None:
        """count: questions of a round. All rounds' questions are made here."""
        examples, _ = questions.take(0, rounds * count)
        super().__init__(run, examples, task, config, graded=False)
        fits = range(min(self._chunk, count), 0, -1)
        chunk = next((c for c in fits if not (count % c or c % run.shards)), 0)
        if not chunk:
            raise ValueError(
                f"questions ({count}) can't be shared by {run.shards} row shards"
            )
        self._count, self._chunk, self._filters = count, chunk, filters

    def use(self, weights: Weights) -> None:
        """Lets these weights of the reward model guide from now on."""
        self._weights = weights

    def collect(self, params: Params, key: jax.Array, round_: int) -> Collected:
        """The trees of round 0, 1, ...; booked as search."""
        began = time.monotonic()
        found, trees, spent = [], [], Spent()
        first = round_ * self._count
        for start in range(first, first + self._count, self._chunk):
            nodes, *_, account = self._nodes(params, key, start)
            asked = self._examples[start : start + self._chunk]
            spent = spent.plus(Spent(*(float(x.sum()) for x in account)))
            asked_prompts = self._prompts(asked, self._chunk)
            found.append(self._answered(nodes, asked_prompts, asked, start - first))
            trees.append((nodes, asked_prompts))
        seconds = time.monotonic() - began
        self._run.ledger.add_spent("search", spent, seconds=seconds)
        examples = [example for part in found for example in part[0]]
        joined = jax.tree.map(lambda *x: np.concatenate(x), *(p[1] for p in found))
        return self._collected(examples, joined, (round_ + 1) * self._count, trees)

    def some(self, found: Collected) -> tuple[np.ndarray, ...]:
        """tokens, prompt_length, length of an answer of each tree: always as many rows.

        A tree without an answer has a row that is padding.
        """
        rows = found.rows
        tree, at = np.unique(rows.prompt_id, return_index=True)
        tokens = np.zeros((self._count, self.width), np.int32)
        size = np.zeros((2, self._count), np.int32)
        tokens[tree] = rows.tokens[at]
        size[:, tree] = rows.prompt_length[at], rows.length[at]
        return tokens, *size

    def _answered(
        self, nodes: Nodes, asked: Prompts, examples: Sequence[Example], first: int
    ) -> tuple[list[Example], Trajectory]:
        """The finished answers of some trees, each a sequence of tokens of its own.

        prompt_id is the number of the tree in the round, `first` that of the first.
        """
        at = finished_paths(nodes).at
        at = at if at.shape[1] else np.full((len(at), 1), NONE, np.int32)
        text = trajectories(nodes, at, alone=self.config.attempts)
        tree, column = np.nonzero(text.finished)
        seen: set[tuple[int, bytes]] = set()
        kept = []
        for i, (b, c) in enumerate(zip(tree, column)):
            own = (int(b), text.tokens[b, c, : text.length[b, c]].tobytes())
            if own not in seen:
                seen.add(own)
                kept.append(i)
        tree, column = tree[kept], column[kept]
        prompt, size = np.asarray(asked.tokens)[tree], np.asarray(asked.length)[tree]
        own = text.length[tree, column]
        in_prompt = np.arange(prompt.shape[1]) < size[:, None]
        in_text = np.arange(text.tokens.shape[2]) < own[:, None]
        none = np.zeros(prompt.shape, np.float32)
        tokens, logprob = packed(
            np.concatenate([in_prompt, in_text], axis=1),
            (
                np.concatenate([prompt, text.tokens[tree, column]], axis=1),
                np.concatenate([none, text.logprob[tree, column]], axis=1),
            ),
            (0, 0.0),
            self.width,
        )
        rows = Trajectory(
            tokens=tokens,
            prompt_length=size,
            length=(size + own).astype(np.int32),
            logprob=logprob,
            value=np.zeros_like(logprob),
            finished=np.ones(len(tree), bool),
            prompt_id=(first + tree).astype(np.int32),
        )
        return [examples[b] for b in tree], rows

    def _collected(
        self,
        examples: list[Example],
        rows: Trajectory,
        position: int,
        trees: list[tuple[Nodes, Prompts]],
    ) -> Collected:
        decode = self._run.tokenizer.decode
        spans = zip(rows.tokens, rows.prompt_length, rows.length)
        texts = [decode(row[a:b].tolist()) for row, a, b in spans]
        grades = grade(self._task, examples, texts)
        right = {example.question for example, g in zip(examples, grades) if g >= 1}
        found = len(right) / self._count  # questions with a right answer
        kept = trees_kept(self._filters, rows.prompt_id, grades, self._count)
        keep = kept[rows.prompt_id]
        if self._filters.duplicates:  # of the text: tokens may spell it in other ways
            keep = keep & distinct(rows.prompt_id, texts)
        parts = np.split(kept, len(trees))
        ends = step_end_ids(self._run)
        return Collected(
            examples=examples,
            texts=texts,
            rows=rows,
            step_end=closing(rows.tokens, rows.prompt_length, rows.length, ends),
            grades=grades,
            reward=grades,
            keep=keep,
            position=position,
            facts={
                "answers": len(grades) / self._count,  # different ones a question
                "found": found,
                "reward": found,
                "trees_kept": float(kept.mean()),
            },
            trees=[(*tree, part) for tree, part in zip(trees, parts)],
        )

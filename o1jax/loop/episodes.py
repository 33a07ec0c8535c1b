"""Draws episodes of two attempts: self-correction, learned and measured.

In: a policy and questions. Out: a `Collected` whose episodes are two rows each: one of
prompt and first attempt, one of prompt, first attempt, mark and second attempt. Nothing
tells the policy whether its first attempt was right. Kumar et al. 2024, arXiv
2409.12917; what attempts are paid: turns.py.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from o1jax.loop.answer import Answerer, Answers
from o1jax.loop.experience import (
    Collected,
    Questions,
    Sampling,
    Worth,
    behind_prompts,
    concatenate,
    pick,
)
from o1jax.loop.filters import questions_kept, responses_kept
from o1jax.loop.held_out import HeldOut, build_held_out
from o1jax.loop.marks import stop_ids
from o1jax.loop.text_meter import text_shares
from o1jax.loop.traces import closing
from o1jax.loop.turns import Turns, corrections
from o1jax.loop.workdir import Workdir
from o1jax.statistics import bootstrap_interval, pass_at_k
from o1jax.tasks.task import Example, Task
from o1jax.types import Params, Trajectory

SECOND = 2**21  # folded into the key of the first attempts; above any draw or request


class Episodes(Sampling):
    """Draws the two attempts of each episode.

    A question has 2G rows, G first attempts and then the G second ones, so that each
    group of G is the same turn of the same question: they are each other's baseline.
    """

    def __init__(
        self,
        run: Workdir,
        questions: Questions,
        task: Task,
        *,
        turns: Turns,
        **options: Any,
    ) -> None:
        """options: those of Sampling."""
        super().__init__(run, questions, task, **options)
        self.turns, self._attempts = turns, self._samples
        self._samples = 2 * self._attempts  # rows of a question
        self._stop = stop_ids(run)[0]
        try:
            self._mark = run.tokenizer.encode(turns.mark)
        except ValueError as error:
            raise ValueError(f"Turns.mark: {error}") from error
        longest = self.width + 1 + len(self._mark)
        chunk = min(options["requests"], self._count * self._attempts)
        sampling = options["sampling"]
        self._again = Answerer(run, [], sampling, chunk=chunk, length=longest)
        self._most = run.experiment.sampler.max_new_tokens
        self.width = longest + self._most

    def attempts(
        self,
        params: Params,
        key: jax.Array,
        examples: list[Example],
        samples: int,
        *,
        kind: str,
    ) -> tuple[Answers, Answers]:
        """`samples` episodes of each question; booked as `kind`."""
        ask = {"task": self._task, "kind": kind}
        first = self.answer(params, key, samples, examples=examples, **ask)
        own = jax.random.fold_in(key, SECOND)
        each = [example for example in examples for _ in range(samples)]
        prompts = self._prompts(first.rows)
        again = self._again(params, own, 1, examples=each, prompts=prompts, **ask)
        return first, _grouped(again, samples)

    def divergence(self, kl: np.ndarray) -> dict[str, float]:
        """Metrics of the nats of each row of a round, by turn."""
        first, second = kl.reshape(-1, 2, self._attempts).mean(axis=(0, 2))
        if self.turns.teach:  # nobody drew them
            return {}
        by_turn = {"kl_first": float(first), "kl_second": float(second)}
        return {"kl": float(first + second) / 2} | by_turn

    def kl_coef(self, coef: float, rows: int) -> np.ndarray:
        """f32[rows]: the coefficient of each row of a round."""
        more = np.repeat([self.turns.first_kl, 0.0], self._attempts)
        return np.tile(coef + more, rows // len(more)).astype(np.float32)

    def _draw(
        self,
        params: Params,
        key: jax.Array,
        examples: list[Example],
        position: int,
        worth: Worth,
    ) -> Collected:
        G, filters, turns = self._attempts, self._filters, self.turns
        each = [example for example in examples for _ in range(G)]
        if turns.teach:
            ask = {"task": self._task, "kind": "rollout"}
            own = self.answer(params, key, G, examples=examples, **ask)
            plain = own.rows.tokens, own.rows.prompt_length
            prompts = [row[:size].tolist() for row, size in zip(*plain)]
            first = self._worked(each, prompts, own)
            second = self._worked(each, self._prompts(own.rows), own)
        else:
            first, second = self.attempts(params, key, examples, G, kind="rollout")
        # An attempt is judged alone, as if it were the first.
        alone = behind_prompts(second.rows, first.rows)
        turn = [
            self._collected(each, first, first.rows, position, worth),
            self._collected(each, second, alone, position, worth),
        ]
        paid = turns.paid(turn[0].reward, turn[1].reward)
        of_question = lambda x: x.reshape(-1, G)
        kept = [
            questions_kept(filters, of_question(x), of_question(first.grades))
            for x in paid
        ]
        kept = (kept[0] | kept[1])[:, None]
        equal = [(of_question(x) == of_question(x)[:, :1]).all(axis=1) for x in paid]
        facts = {"zero_variance": float(np.mean(equal)), "paid": float(np.mean(paid))}
        if turns.teach:  # the rows are right, the policy's attempts need not be
            facts |= _said(own.grades, own.grades.mean())
        else:
            facts |= _said(second.grades, turn[1].reward.mean())
            each_turn = corrections(first.grades >= 1, second.grades >= 1)
            facts |= {name: float(x.mean()) for name, x in each_turn.items()}
        rows = [_wide(x.rows, self.width) for x in (first, second)]
        for i, answers in enumerate((first, second)):
            keep = kept & responses_kept(filters, answers.texts, answers.finished)
            if turns.teach == "wrong" and i:
                keep &= own.grades < 1
            own_rows = rows[i]
            place = own_rows.tokens, own_rows.prompt_length, own_rows.length
            turn[i] = turn[i]._replace(
                rows=own_rows,
                step_end=closing(*place, self._ends),
                reward=paid[i],
                keep=keep.ravel(),
            )
        at = np.arange(len(each)).reshape(-1, G)
        order = np.concatenate([at, at + len(each)], axis=1).ravel()
        return pick(concatenate(turn), order)._replace(facts=facts)

    def _prompts(self, rows: Trajectory) -> list[list[int]]:
        """What is in front of each second attempt."""
        found = []
        for text, size, finished in zip(rows.tokens, rows.length, rows.finished):
            end = [] if finished else [self._stop]
            found.append([*text[:size].tolist(), *end, *self._mark])
        return found

    def _worked(
        self, each: list[Example], prompts: list[list[int]], like: Answers
    ) -> Answers:
        """The worked solutions behind these prompts, shaped like other answers."""
        run = self._run
        template, tokenizer = run.experiment.template, run.tokenizer
        solutions = [template.encode(tokenizer, example)[1] for example in each]
        if (longest := max(map(len, solutions))) > self._most:
            raise ValueError(
                f"Turns.teach: a worked solution takes {longest} tokens, "
                f"SamplerConfig.max_new_tokens is {self._most}"
            )
        tokens = np.zeros((len(each), self.width), np.int32)
        for row, prompt, solution in zip(tokens, prompts, solutions):
            row[: len(prompt)] = prompt
            row[len(prompt) : len(prompt) + len(solution)] = solution
        none = np.zeros(tokens.shape, np.float32)
        size = np.array([len(x) for x in prompts], np.int32)
        own = np.array([len(x) for x in solutions])
        rows = Trajectory(
            tokens=tokens,
            prompt_length=size,
            length=size + own.astype(np.int32),
            logprob=none,
            value=none,
            finished=np.ones(len(each), bool),
            prompt_id=like.rows.prompt_id,
        )
        alike = lambda x: x.reshape(like.grades.shape)
        return Answers(
            texts=_in_groups([template.response(e) for e in each], self._attempts),
            grades=np.ones(like.grades.shape),
            tokens=alike(own),
            finished=alike(rows.finished),
            rows=rows,
        )


def build_sampling(
    run: Workdir, questions: Questions, task: Task, config: Any
) -> Sampling:
    """What draws the responses of an Improve stage: one attempt each, or two."""
    options = {
        "count": config.questions,
        "samples": config.samples,
        "sampling": config.sampling,
        "requests": config.requests,
        "filters": config.filters,
    }
    if config.turns is not None:
        return Episodes(run, questions, task, turns=config.turns, **options)
    hint = getattr(config.learner, "hint", "")
    return Sampling(run, questions, task, hint=hint, **options)


def build_measure(
    run: Workdir, config: HeldOut, task: Task, sampling: Sampling
) -> Callable[[Params], dict[str, Any]]:
    """As held_out.build_held_out; of two attempts the second is what is spoken of."""
    if not isinstance(sampling, Episodes):
        return build_held_out(run, config, task, sampling.answer)
    seed, samples = run.experiment.seed, config.samples
    examples = [task.example(seed, "valid", i) for i in range(config.problems)]
    key = jax.random.fold_in(run.key, 8)

    def measure(params: Params) -> dict[str, Any]:
        both = sampling.attempts(params, key, examples, samples, kind="evaluate")
        first, second = (answers.grades >= 1 for answers in both)
        ks = sorted({1, samples})
        found = pass_at_k(second.sum(axis=1), samples, ks).per_problem
        each = {f"pass@{k}": p for k, p in zip(ks, found)}
        each |= corrections(first, second)
        said = {name: list(bootstrap_interval(p)) for name, p in each.items()}
        shares = text_shares(task, examples, both[1].texts)
        said |= {name: [share] for name, share in shares.items()}
        return said | {"length": float(np.mean(both[1].tokens))}

    return measure


def _said(grades: np.ndarray, reward: float) -> dict[str, float]:
    """Of the last attempts that the policy wrote in a round, f64[Q, G]."""
    right = grades >= 1
    solved = {"pass@1": right, f"pass@{right.shape[1]}": right.any(axis=1)}
    return {"reward": float(reward)} | {k: float(v.mean()) for k, v in solved.items()}


def _grouped(answers: Answers, samples: int) -> Answers:
    """One answer to each of N requests as `samples` to each of N / samples."""
    alike = lambda x: x.reshape(-1, samples)
    return Answers(
        texts=_in_groups([text for (text,) in answers.texts], samples),
        grades=alike(answers.grades),
        tokens=alike(answers.tokens),
        finished=alike(answers.finished),
        rows=answers.rows,
    )


def _in_groups(texts: list[str], samples: int) -> list[list[str]]:
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


def _wide(rows: Trajectory, width: int) -> Trajectory:
    """With padding up to so many tokens."""
    more = ((0, 0), (0, width - rows.tokens.shape[1]))
    pad = {name: np.pad(getattr(rows, name), more) for name in ("tokens", "logprob")}
    return rows.replace(**pad, value=np.pad(rows.value, more))

"""A2: what selectors earn among the same samples, and when a plateau is none."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from o1jax.data.template import Template
from o1jax.loop.answer import Answers
from o1jax.loop.reproduce import a2, pool
from o1jax.loop.reproduce.claim import Evidence, Predictions, Tier
from o1jax.tasks import Chain
from o1jax.types import Trajectory

P = np.array([0.5, 0.2, 0.2, 0.1])  # of the four samples, under the policy


class Answered:
    """In place of an Answerer: one problem, where 3 is right and 4 is likely."""

    def __init__(self, run, examples, sampling, *, chunk):
        self.run = run

    def __call__(self, params, key, samples, *, task):
        self.run.ledger.spent += 80.0
        # The log-prob of a text is spread over its tokens.
        logprob = np.repeat(np.log(P)[:, None] / 2, 2, axis=1)
        none = np.zeros(4, int)
        return Answers(
            texts=[["4 ;", "3 ;", "3 ;", "3"]],
            grades=np.array([[0.0, 1.0, 1.0, 0.0]]),
            tokens=np.array([[2, 2, 2, 2]]),
            finished=np.ones((1, 4), bool),
            rows=Trajectory(
                tokens=none,
                prompt_length=none,
                length=none,
                logprob=logprob,
                value=none,
                finished=none,
                prompt_id=none,
            ),
        )


class Ledger:
    spent = 5.0

    def total(self):
        return {"flops": self.spent}


def test_selectors_earn_what_counting_subsets_says(monkeypatch):
    monkeypatch.setattr(pool, "Answerer", Answered)
    task = Chain(min_steps=1, max_steps=1)
    experiment = SimpleNamespace(task=task, template=Template())
    run = SimpleNamespace(experiment=experiment, ledger=Ledger())
    examples = [task.parse("1 + 2 =")]
    found = a2.select(run, {}, jax.random.key(0), examples, a2.Select(4))
    assert (found.right.tolist(), found.samples.tolist()) == ([2], [4])
    assert (found.tokens.tolist(), found.flops.tolist()) == ([8.0], [80.0])
    (majority,), (vote,), (likeliest,) = (found.extra[name] for name in a2.SELECTORS)
    # One drawn: half of the samples are right, and the unclosed one has no vote.
    # Two of a, b, c, d = 4, 3, 3, no answer: ab and ac tie; bc, bd, cd give 3, ad 4.
    assert majority == pytest.approx([2 / 4, (2 * 0.5 + 3) / 6, 1])
    # Weights 5, 2, 2: 4 wins ab and ac, and all four together with 5 against 4.
    assert vote == pytest.approx([2 / 4, 3 / 6, 0])
    # The likeliest: a of ab, ac, ad; one that is right of bc, bd, cd.
    assert likeliest == pytest.approx([2 / 4, 3 / 6, 0])


def evidence(selected, chances=(0.01, 0.3)):
    """Three seeds whose selectors all earn `selected` [K] on every problem."""
    rng = np.random.default_rng(0)
    problems, samples = 200, 1024
    rows = []
    for _ in range(3):
        chance = np.resize(chances, problems)
        curve = [list(selected)] * problems
        ones = np.ones(problems)
        rows.append(
            Predictions(
                rng.binomial(samples, chance),
                np.full(problems, samples),
                *[ones] * 2,
                extra={name: curve for name in a2.SELECTORS},
            )
        )
    return Evidence(Tier("x.gin", (), problems), (0, 1, 2), [], {a2.ARM: rows})


def passed(found):
    rises, *less, plateau, gap = (check.passed for check in found.checks)
    return rises, less, plateau, gap


def test_a_plateau_passes_and_what_is_none_fails():
    flat = np.minimum(0.5, 0.3 + 0.05 * np.arange(11))  # 0.5 from k = 16 on
    assert passed(a2.analyse(evidence(flat))) == (True, [True] * 3, True, True)
    # Half of the problems gain 0.85 in coverage: a quarter of the mean is 0.11.
    rising = 0.3 + 0.04 * np.arange(11)  # gains 0.24, and 0.04 in each doubling
    assert passed(a2.analyse(evidence(rising))) == (True, [False] * 3, False, True)
    # Coverage is 1 from k = 16 on: there is nothing for it to gain.
    easy = a2.analyse(evidence(flat, chances=(0.9,)))
    assert passed(easy)[0] is False
    # Selectors that find nearly all: no gap.
    best = a2.analyse(evidence(np.full(11, 0.95)))
    assert passed(best)[-1] is False


def test_the_report_shows_every_selector_at_every_k():
    found = a2.analyse(evidence(np.linspace(0.3, 0.5, 11)))
    json.dumps([found.checks, found.sections])  # plain numbers and truths only
    curves, gains = found.sections
    rows = curves["table"]["rows"]
    assert [row[0] for row in rows] == [2**i for i in range(11)]
    assert rows[-1][2:] == [[pytest.approx(0.5)] * 3] * 3
    assert [row[0] for row in gains["table"]["rows"]][-1] == "256 to 1024"
    # Two of ten equal steps of the selectors.
    assert gains["table"]["rows"][0][2] == [pytest.approx(0.04)] * 3
    labels = [one["label"] for one in curves["figure"]["series"]]
    assert labels == ["coverage", *a2.SELECTORS.values()]

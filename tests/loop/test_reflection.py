"""A policy that checks its steps: walks of known rates come to what is expected."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from o1jax.loop.experiment import Experiment
from o1jax.loop.imitate import Imitate
from o1jax.loop.reflection import (
    Judged,
    Reflect,
    Reflection,
    measured_rates,
    rates_by_step,
)
from o1jax.loop.self_evaluation import SelfEvaluation
from o1jax.loop.self_verification import Rates, plain, retry, trace_back
from o1jax.loop.workdir import Workdir
from o1jax.policy.policy import PolicyConfig
from o1jax.rollout.decode import SamplerConfig
from o1jax.tasks import Chain

TASK = Chain(min_steps=3, max_steps=3, modulus=5)
CHECK = SelfEvaluation("= =", "1", "2")  # the run has no better words
RATES = Rates(0.7, 0.3, 0.2, accept_behind=0.45)
WALKS = 1500


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run that has done nothing yet."""
    experiment = Experiment(
        task=TASK,
        policy=PolicyConfig(vocab=16, width=16, layers=1, heads=2, ff=16),
        sampler=SamplerConfig(rows=8, max_new_tokens=6),
        stages=(Imitate(),),
    )
    return Workdir(experiment, tmp_path_factory.mktemp("reflection"))


class Known(Reflection):
    """Draws steps and checks them at known rates, in place of a policy."""

    def __init__(self, run, examples, config, rng):
        super().__init__(run, examples, TASK, config, steps=4)
        self._draw, self._rng = self._drawn, rng

    def _drawn(self, params, key, samples, *, task, kind, examples, prompts):
        """A step a request, which says whether it is right, or the end."""
        decode = self._run.tokenizer.decode
        texts, self._truth = [], []
        for example, prompt in zip(examples, prompts):
            kept = [s.strip() for s in decode(prompt).split("=")[-1].split(";")[:-1]]
            right = tuple(example.steps)
            alive = tuple(kept) == right[: len(kept)]
            if len(kept) == 3:
                texts.append("")
                continue
            good = alive and self._rng.random() < RATES.right
            value = int(right[len(kept)]) + (not good)
            texts.append(f"{value % 5} ;")
            self._truth.append((alive, good))
        # A step is its number and the mark that closes it: two tokens.
        ids = np.zeros((len(texts), 2), np.int32)
        for row, text in zip(ids, texts):
            if text:
                row[:] = self._run.tokenizer.encode(text)
        none, all_ = np.zeros(len(texts), int), np.full(len(texts), 2)
        rows = SimpleNamespace(tokens=ids, prompt_length=none, length=all_)
        return SimpleNamespace(texts=[[text] for text in texts], rows=rows)

    def _ask_about(self, params, asked):
        """Sure of each step; wrongly so at the known rates."""
        assert len(asked) == len(self._truth)
        chance = [
            (1 - RATES.false_reject if good else RATES.false_accept)
            if alive
            else RATES.accept_behind
            for alive, good in self._truth
        ]
        return (self._rng.random(len(chance)) < chance).astype(float)


def walked(run, **how):
    """(answers of one question, the config)."""
    config = Reflect(check=CHECK, draws=200, step_tokens=3, **how)
    examples = [TASK.example(0, "test", 1)]
    known = Known(run, examples, config, np.random.default_rng(0))
    return known({}, jax.random.key(0), WALKS)


@pytest.mark.parametrize(
    "how, expected",
    [
        ({"heed": False}, plain(RATES, 3)),
        ({}, retry(RATES, 3)),
        ({"attempts": 2}, retry(RATES, 3, 2)),
        ({"attempts": 2, "back": True}, trace_back(RATES, 3, 2)),
    ],
)
def test_walks_come_to_what_is_expected(run, how, expected):
    found = walked(run, **how)
    columns = np.stack([found.right, found.answered, found.draws], axis=1)
    error = columns.std(axis=0) / np.sqrt(WALKS)
    assert np.all(np.abs(columns.mean(axis=0) - expected) <= 4 * error + 1e-9)
    # The meter finds the rates that the draws were made with.
    rates = measured_rates(found.judged)
    assert rates.false_accept == pytest.approx(RATES.false_accept, abs=0.05)
    assert rates.false_reject == pytest.approx(RATES.false_reject, abs=0.05)
    assert rates.accepts_behind == pytest.approx(0.45, abs=0.06)
    assert rates.right == pytest.approx(0.7, abs=0.05)


def test_a_policy_checks_itself(run):
    """What is accepted depends on the threshold, what is drawn first does not."""
    examples = [TASK.example(0, "test", i) for i in range(3)]
    params = run.current_params()

    def answered(**how):
        config = Reflect(check=CHECK, draws=5, step_tokens=3, accepted="3 ;", **how)
        reflection = Reflection(run, examples, TASK, config, steps=4, chunk=8)
        return reflection(params, jax.random.key(1), 16)

    every = answered(threshold=0.0)
    none = answered(threshold=1.1)
    assert every.draws.shape == (48,)
    assert all(one.accepted for walk in every.judged for one in walk)
    assert not any(one.accepted for walk in none.judged for one in walk)
    assert sum(map(len, none.judged)) > 5
    first = lambda found: [walk[0].right for walk in found.judged if walk]
    assert first(every) == first(none)
    # Nothing was accepted, so no answer has a step: none is right.
    assert not none.right.any()
    assert np.all(none.draws[~none.answered] <= 5)


def test_checks_are_booked_as_draws_are(run, monkeypatch):
    """Against the same walks, whose checks cost nothing: 8 rows a call are read."""
    examples = [TASK.example(0, "test", i) for i in range(3)]
    params, rounds = run.current_params(), []
    config = Reflect(check=CHECK, draws=3, step_tokens=3, threshold=0.0)

    def spent():
        before = run.ledger.total()
        reflection = Reflection(run, examples, TASK, config, steps=4, chunk=8)
        reflection(params, jax.random.key(1), 16)
        after = run.ledger.total()
        return {name: after[name] - before[name] for name in ("tokens", "flops")}

    def free(reflection, params, asked):
        rounds.append(len(asked))
        return np.ones(len(asked))

    whole = spent()
    monkeypatch.setattr(Reflection, "_ask_about", free)
    draws = spent()
    calls = sum(-(-count // 8) for count in rounds)
    assert calls
    prompt = max(len(run.tokenizer.encode(e.question)) for e in examples)
    tokens = (whole["tokens"] - draws["tokens"]) / calls / 8
    assert tokens >= prompt + 4 * 3 + 2  # 4 steps, and the question about them
    # The matrices: 4 x 16 x 16 of attention, 3 x 16 x 16 of the MLP, 16 x 16 behind.
    read = (whole["flops"] - draws["flops"]) / calls / 8 / tokens
    assert read >= 2 * 7 * 16 * 16


def test_rates_by_hand():
    walk = [
        Judged(0, True, True, True),
        Judged(1, True, False, True),
        Judged(2, False, False, False),
        Judged(2, False, False, True),
    ]
    other = [Judged(0, True, True, False), Judged(1, True, True, True)]
    rates = measured_rates([walk, other])
    assert rates == Rates(0.75, 1.0, 1 / 3, accept_behind=0.5)
    # Of first steps none is wrong, so they have the rates of all; third ones as well.
    second = Rates(0.5, 1.0, 0.0)
    assert rates_by_step([walk, other], 3) == [rates, second, rates]
    with pytest.raises(ValueError, match="all drawn steps are right"):
        measured_rates([other])


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="back needs attempts"):
        Reflect(back=True)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        replace(Reflect(), draws=0)

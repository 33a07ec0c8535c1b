"""A policy that checks its steps: walks of known rates come to what is expected."""

import copy
from dataclasses import replace

import jax
import numpy as np
import pytest
from known_checks import RATES, SAID, STEPS, KnownTask, known_policy

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
WALKS, ROWS = 1504, 256  # each a multiple of the devices


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


@pytest.fixture(scope="module")
def known(run):
    """The same run with a policy whose rates are known, and its questions."""
    examples = [TASK.example(0, "test", i) for i in range(8)]
    encode = run.experiment.template.encode_prompt
    (length,) = {len(encode(run.tokenizer, e.question)) for e in examples}
    known = copy.copy(run)
    known.policy = known_policy(run.tokenizer, length)
    return known, examples, length


@pytest.mark.parametrize(
    "how, expected",
    [
        ({"heed": False}, plain(RATES, STEPS)),
        ({"accepted": SAID}, retry(RATES, STEPS)),
        ({"attempts": 2, "accepted": SAID}, retry(RATES, STEPS, 2)),
        ({"attempts": 2, "back": True}, trace_back(RATES, STEPS, 2)),
    ],
)
def test_walks_come_to_what_is_expected(known, how, expected):
    run, examples, prompt = known
    config = Reflect(check=CHECK, draws=200, step_tokens=4, **how)
    # Fewer rows than walks: who ends makes room for the next.
    reflection = Reflection(run, examples, KnownTask(), config, steps=4, chunk=ROWS)
    before = run.ledger.total()["tokens"]
    found = reflection({}, jax.random.key(0), WALKS // len(examples))
    spent = run.ledger.total()["tokens"] - before
    columns = np.stack([found.right, found.answered, found.draws], axis=1)
    error = columns.std(axis=0) / np.sqrt(WALKS)
    assert np.all(np.abs(columns.mean(axis=0) - expected) <= 4 * error + 1e-9)
    # Every step has three tokens; the end of an answer one.
    assert np.all(found.tokens == 3 * found.draws + found.answered)
    if not config.heed:
        # All walks keep step: 3 draws of 3 tokens and one of 1, with 2 of a check. Each
        # question is read once, and no token of a walk twice.
        assert spent == 8 * prompt + -(-WALKS // ROWS) * ROWS * (3 * (3 + 2) + 1 + 2)
    # The meter finds the rates that the draws were made with.
    rates = measured_rates(found.judged)
    assert rates.false_accept == pytest.approx(RATES.false_accept, abs=0.05)
    assert rates.false_reject == pytest.approx(RATES.false_reject, abs=0.05)
    assert rates.accepts_behind == pytest.approx(0.45, abs=0.06)
    assert rates.right == pytest.approx(0.7, abs=0.05)


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

"""A policy trained against a reward: it gets what it is paid for, and is watched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.loop.optimise import Optimise, optimise
from o1jax.loop.reproduce import a11_training as a11
from o1jax.loop.reproduce.claim import Evidence, Predictions, Tier
from o1jax.loop.workdir import Workdir

FAST = OptimizerConfig(0.02, 1, "constant", weight_decay=0.0)
CONFIG = Optimise(
    steps=12, questions=4, samples=4, optimizer=FAST, microbatches=2, refresh_every=5
)


@pytest.fixture(scope="module")
def run(finished):
    """The finished tiny run; nothing is written."""
    return Workdir(load(finished.workdir / "config.gin").experiment, finished.workdir)


def short(scale, tokens, prompt_length, length, step_end):
    """Pays for brevity, which the task does not ask for."""
    return -scale * (length - prompt_length).astype(jnp.float32)


def test_the_proxy_rises_and_the_policy_moves(run):
    params = run.newest_params()
    before = jax.tree.map(np.array, params)
    asked = []

    def refresh(policy, step):
        asked.append(step)
        return jnp.float32(1)

    key = jax.random.key(0)
    trained, seen = optimise(
        run, params, short, jnp.float32(1), CONFIG, key, refresh=refresh
    )
    assert asked == [5, 10]
    assert seen.gold.shape == seen.proxy.shape == seen.kl.shape == (12,)
    # The first step's samples are the first policy's own; they get shorter.
    np.testing.assert_allclose(seen.kl[0], 0, atol=1e-4)
    assert seen.proxy[-3:].mean() > seen.proxy[:3].mean() + 0.5
    assert seen.kl[-3:].mean() > 0.1
    jax.tree.map(np.testing.assert_array_equal, before, params)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, trained)
    assert max(jax.tree.leaves(moved)) > 0
    spent = {row["kind"]: row for row in run.ledger.table()}
    assert spent["rollout"]["flops"] > 0 and spent["train"]["flops"] > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"samples": 1}, "the others are the baseline"),
        ({"questions": 3, "samples": 3}, "microbatches must divide"),
        ({"refresh_every": -1}, "refresh_every must not be negative"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Optimise(**options)


def evidence(fall, test):
    """Three seeds alike; gold rises and falls by d (a - b log d), proxy rises."""
    steps = np.arange(a11.STEPS)
    kl = (steps / 40.0) ** 2
    d = np.sqrt(kl)
    law = d * (0.4 - fall * np.log(np.maximum(d, 1e-9)))
    arms = {}
    for name, rate in test.items():
        gold = 0.3 + law
        facts = {
            "labels": 256,
            "gold": gold.tolist(),
            "proxy": (0.3 + d / 3).tolist(),
            "kl": kl.tolist(),
        }
        right = np.where(np.arange(40) < 40 * rate, 8, 0)
        ones = np.ones(40)
        one = Predictions(right, np.full(40, 8), ones, ones, {}, facts)
        arms[name] = [one] * 3
    return Evidence(Tier("x.gin", (), 40), (0, 1, 2), [], arms)


NAMES = (f"frozen-{a11.FEW}", f"frozen-{a11.MORE}", "refreshed")


def passed(found):
    return [check.passed for check in found.checks]


def test_the_checks_know_the_published_shape():
    good = a11.analyse(evidence(0.4, dict(zip(NAMES, (0.2, 0.5, 0.8)))))
    assert passed(good) == [True] * 5
    # Gold that goes on rising with the proxy, and models that are all alike.
    flat = a11.analyse(evidence(0.0, dict.fromkeys(NAMES, 0.5)))
    assert passed(flat)[:4] == [False] * 4
    (section,) = good.sections
    assert [row[0] for row in section["table"]["rows"]] == list(NAMES)
    assert len(section["figure"]) == 3


def test_arms_differ_in_labels_and_refreshing_alone():
    few, more, refreshed = (arm.method for arm in a11.CLAIM.tiers["nano"].arms)
    assert few.reward.traces.problems == refreshed.reward.traces.problems == a11.FEW
    assert more.reward.traces.problems == a11.MORE == a11.FEW * (1 + a11.REFRESHES)
    assert refreshed.optimise.refresh_every * (1 + a11.REFRESHES) == a11.STEPS
    assert few.optimise == more.optimise

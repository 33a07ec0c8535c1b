"""A trunk that stays reads once: the same scores, losses and gradients as ever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.reward.frozen import (
    StepReading,
    linear_objective,
    linear_scores,
    read_rows_of,
    reads_once,
    step_reader,
)
from o1jax.reward.losses import reward_objective
from o1jax.reward.model import RewardModelConfig, build_reward_model
from o1jax.types import StepLabels

# Row 0 has steps that end at 3, 4 and 7, row 1 one at 3 and tokens of no closed step.
ENDS = [(0, 3), (0, 4), (0, 7), (1, 3), (2, 3)]
AT = np.array([[3, 4, 7], [3, 0, 0], [3, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def labels():
    rng = np.random.default_rng(0)
    length = np.array([8, 6, 4], np.int32)
    tokens = rng.integers(1, 12, (3, 8)).astype(np.int32)
    step_end = np.zeros((3, 8), bool)
    step_end[tuple(zip(*ENDS))] = True
    return StepLabels(
        tokens=np.where(np.arange(8) < length[:, None], tokens, 0),
        prompt_length=np.array([2, 1, 3], np.int32),
        length=length,
        step_end=step_end,
        label=np.where(step_end, rng.random((3, 8)), 0).astype("f4"),
        # The middle step of row 0 has no label.
        weight=(step_end & (np.arange(8) != 4)).astype("f4"),
    )


@pytest.fixture(scope="module")
def reading(make, labels):
    """Of the five steps, in order."""
    size, _, params = make()
    of = labels.tokens, labels.prompt_length, labels.length, labels.step_end
    found = jax.jit(step_reader(size))(params, *of, AT)
    there = np.arange(3) < labels.step_end.sum(axis=1)[:, None]
    return StepReading(*(np.asarray(x)[there] for x in found))


def build(make, **config):
    """A model on the tiny policy, its read-out of random numbers; its parameters."""
    size, _, policy = make()
    model = build_reward_model(RewardModelConfig(trunk="frozen", **config), size)
    params = jax.jit(model.init)(jax.random.key(1), policy)
    rng = np.random.default_rng(3)
    fill = lambda x: jnp.asarray(rng.normal(1.0, 0.3, x.shape), x.dtype)
    return model, params | {"readout": jax.tree.map(fill, params["readout"])}


@pytest.mark.parametrize(
    "config", [{"readout": "head"}, {"readout": "head", "heads": 3}, {}], ids=str
)
def test_a_reading_scores_as_the_model_does(make, labels, reading, config):
    model, params = build(make, **config)
    of = labels.tokens, labels.prompt_length, labels.length, labels.step_end
    whole = np.asarray(jax.jit(model.score)(params, *of)).reshape(-1, 3, 8)
    found = linear_scores(model.config, params["readout"], reading)
    assert found.shape == (config.get("heads", 1), 5)
    np.testing.assert_allclose(found, whole[:, *zip(*ENDS)], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("level", ["step", "outcome"])
@pytest.mark.parametrize("readout", ["head", "logodds"])
def test_it_learns_the_same_from_a_reading(make, labels, reading, readout, level):
    model, params = build(make, readout=readout)
    every_time = reward_objective(model, level=level)
    once, rows = linear_objective(model, level=level), read_rows_of(labels, reading)
    grads = [
        jax.jit(jax.grad(objective.total, has_aux=True))(params, batch)
        for objective, batch in ((every_time, labels), (once, rows))
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *grads
    )
    assert float(once.weight(rows)) == float(every_time.weight(labels))
    (learned, _) = grads[1]
    assert all(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(learned["readout"]))


def test_rows_of_a_reading_have_a_place_a_step(labels, reading):
    rows = read_rows_of(labels, reading)
    assert rows.labels.step_end.tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert rows.labels.weight.tolist() == [[1, 0, 1], [1, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(rows.labels.label[0], labels.label[0, [3, 4, 7]])
    np.testing.assert_array_equal(rows.reading.log_odds[1:, 0], reading.log_odds[3:])
    assert rows.tokens.shape == (3, 0)
    # An ensemble's heads see a row as often as its number says: it differs by row.
    assert rows.labels.tokens[:, 0].tolist() == [0, 1, 2]


def test_only_linear_readouts_of_a_frozen_trunk_read_once():
    once = lambda **config: reads_once(RewardModelConfig(**config))
    assert once(trunk="frozen") and once(trunk="frozen", readout="head")
    assert not once(trunk="frozen", readout="label") and not once(readout="head")

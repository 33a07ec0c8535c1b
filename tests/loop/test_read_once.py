"""Texts are read once for all read-outs, are found again, and a killed reading goes on;
a stage learns from solutions that others marked."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.data.flawed import Flawed
from o1jax.loop import read_once as module
from o1jax.loop.checkpoint_read import restore_params
from o1jax.loop.ledger import Ledger
from o1jax.loop.read_once import _checksum, read_once
from o1jax.loop.reward_model import TrainReward, train_reward
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.reward.frozen import step_reader
from o1jax.reward.model import RewardModelConfig
from o1jax.types import StepLabels


@pytest.fixture
def read(tmp_path, make, monkeypatch):
    """A function (rows, params) -> reading, of a run that counts calls and tokens."""
    size, _, policy = make()
    calls, inner = [], jax.jit(step_reader(size))

    def reader(*args):
        if len(calls) == read.stop_at:
            raise KeyboardInterrupt
        calls.append(np.shape(args[1]))
        return inner(*args)

    monkeypatch.setattr(module, "_reader", lambda size: reader)
    monkeypatch.setattr(module, "count_flops", lambda *_: SimpleNamespace(flops=7))
    monkeypatch.setattr(module, "SAVE_EVERY", -1.0)  # after each call
    monkeypatch.setattr(module, "LOGITS", 12 * 16)  # one long row or two short ones

    def read(rows, params=policy, owner="prm"):
        run = SimpleNamespace(path=tmp_path, policy_config=size, ledger=Ledger())
        run.mesh, run.shards = build_mesh(MeshConfig(), jax.devices()[:1]), 1
        found = read_once(run, params, rows, owner=owner)
        return found, run.ledger.state()["accounts"]["reward"]

    read.calls, read.stop_at, read.policy = calls, -1, policy
    return read


@pytest.fixture
def rows():
    length = np.array([16, 7, 16, 8, 6], np.int32)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 12, (5, 16)).astype(np.int32)
    step_end = np.zeros((5, 16), bool)
    step_end[np.arange(5), length - 1] = True
    step_end[[0, 3], 4] = True
    return StepLabels(
        tokens=np.where(np.arange(16) < length[:, None], tokens, 0),
        prompt_length=np.full(5, 2, np.int32),
        length=length,
        step_end=step_end,
        label=step_end.astype("f4"),
        weight=step_end.astype("f4"),
    )


def test_a_reading_that_was_stopped_goes_on(read, rows):
    read.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        read(rows)
    read.stop_at = -1
    found, spent = read(rows)
    # Rows of one width by as many as the logits allow: 6, 7 and 8 tokens, 16, 16.
    assert read.calls == [(1, 6), (2, 8), (1, 16), (1, 16)]
    # All that this stage read, for a run that goes on books what one at once does.
    assert spent == {"tokens": 6 + 16 + 32, "flops": 28}
    assert found.state.shape == (7, 16) and found.log_odds.shape == (7,)
    again, spent = read(rows, owner="another stage")
    assert len(read.calls) == 4 and spent["tokens"] == 0
    np.testing.assert_array_equal(found.state, again.state)
    # Each step in its place: a row alone says the same.
    alone = jax.tree.map(lambda x: x[3:4], rows)
    np.testing.assert_allclose(read(alone)[0].state, found.state[4:6], atol=1e-5)


def test_other_weights_read_anew_but_other_heads_do_not(read, rows):
    read(rows)
    count = len(read.calls)
    heads = {name: jax.tree.map(lambda x: x + 1, read.policy[name]) for name in HEADS}
    read(rows, read.policy | heads)
    assert len(read.calls) == count
    norm = jax.tree.map(lambda x: x * 1.1, read.policy["final_norm"])
    read(rows, read.policy | {"final_norm": norm})
    assert len(read.calls) == 2 * count


HEADS = ("value", "process")

EXPERIMENT = """
Experiment.task = @Stories()
Experiment.template = @TextTemplate()
Experiment.stages = [@TrainReward()]
TokenizerConfig.kind = 'text'
TokenizerConfig.vocab_size = 320
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
TrainReward.solutions = @Flawed()
Flawed.min_steps = 2
Flawed.max_steps = 2
TrainReward.model = @RewardModelConfig()
RewardModelConfig.readout = 'head'
RewardModelConfig.trunk = 'frozen'
RewardModelConfig.heads = 2
TrainReward.traces = @TraceConfig()
TraceConfig.problems = 24
TrainReward.held_out = @held/TraceConfig()
held/TraceConfig.problems = 16
TrainReward.rows = 8
TrainReward.steps = 4
"""


def test_a_stage_learns_from_marked_solutions(tmp_path):
    file = tmp_path / "tiny.gin"
    file.write_text(EXPERIMENT)
    run = Workdir(load(file).experiment, tmp_path)
    (stage,) = run.experiment.stages
    record = train_reward(run, 0, stage)
    told = Flawed(2, 2).marked(0, "train", 24)
    assert record.results["traces"] == 24
    assert record.results["right"] == np.mean([s.first_error < 0 for s in told])
    # Up to the first error, the last step and the answer included.
    known = [s.first_error + 1 if s.first_error >= 0 else len(s.steps) for s in told]
    assert record.results["labels"] == sum(known)
    assert record.results["judged"]["traces"] == 16
    assert len(list((tmp_path / "readings").iterdir())) == 2
    # The trunk read each text once: training adds nothing to what the reading cost.
    spent = run.ledger.state()["accounts"]
    for kind, texts in (("reward", 24), ("evaluate", 16)):
        assert 50 * texts < spent[kind]["tokens"] < 400 * texts
    # Its checkpoint is the heads alone; read back, they are on the policy's trunk.
    assert set(restore_params(run.rewards(0)).params) == {"readout"}
    run.finish(0, record)
    net = run.reward_model("reward")[1].params["net"]
    jax.tree.map(np.testing.assert_array_equal, net, run.current_params())


def test_solutions_teach_steps_only():
    with pytest.raises(ValueError, match="solutions are for learns 'steps'"):
        TrainReward(
            solutions=Flawed(),
            learns="outcome",
            model=RewardModelConfig(trunk="frozen"),
        )


def test_a_change_of_any_weight_is_another_reading():
    """A sign, a place, the last bit: what a sum of sizes would not tell."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8)), jnp.float32)
    ulp = x.at[2, 3].set(jnp.nextafter(x[2, 3], 9.0))
    others = [-x, x[::-1], x.T.reshape(x.shape), ulp]
    sums = [int(jax.jit(_checksum)(y)) for y in (x, *others)]
    assert len(set(sums)) == 5
    # Of numbers written down: bits 0x3F80 of 1 at places 0 and 1, mixed and added.
    total = 0
    for place in range(2):
        bits = 0x3F80 ^ (place * 0x9E3779B9 % 2**32)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            bits = (bits ^ bits >> shift) * factor % 2**32
        total += bits
    assert int(_checksum(jnp.ones(2, jnp.bfloat16))) == total % 2**32

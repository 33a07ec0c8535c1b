"""Adapters that improve: what they stand on stays, and what is saved is small."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.config import load
from o1jax.learn.distil import DistilConfig
from o1jax.learn.kl import KLControl
from o1jax.learn.optimizer import OptimizerConfig
from o1jax.learn.policy_objective import PolicyGradient
from o1jax.learn.terms import Critic, Divergence, Surrogate
from o1jax.loop import improve_sections
from o1jax.loop.checkpoint import Checkpoints
from o1jax.loop.checkpoint_read import restore_params
from o1jax.loop.contrast import Distil
from o1jax.loop.held_out import HeldOut
from o1jax.loop.improve import Improve, improve
from o1jax.loop.improvement import Improvement
from o1jax.loop.methods import Search
from o1jax.loop.payment import Payment
from o1jax.loop.workdir import Workdir
from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.policy.lora import LoraConfig, merge

# PPO whose critic has adapters of its own, and a reference: the base.
STAGE = Improve(
    name="adapted",
    lora=LoraConfig(rank=2, alpha=4.0),
    learner=PolicyGradient(
        "gae", (Surrogate(), Critic(), Divergence()), "token", kl=KLControl(0.1)
    ),
    critic="own",
    payment=Payment(overlong=6),  # what one that knows nothing can learn: to be short
    questions=4,
    samples=4,
    rounds=3,
    optimizer=OptimizerConfig(0.02, 0, "constant", weight_decay=0.1),
    held_out=HeldOut(0, 4, 2),
    checkpoint_every=1,
)
# Of the tiny policy: width 16, one layer, two heads of 8, ff 16. A kernel of n inputs
# and m outputs has 2 (n + m) numbers: q, k, v 16 to 48, o 16 to 16, up and gate 16 to
# 32, down 16 to 16. The critic has as many and its head, 16 + 1.
LEARNING = 2 * 2 * (64 + 32 + 48 + 32) + 17


@pytest.fixture(scope="module")
def adapted(finished, tmp_path_factory):
    """A function of a folder: (run, its stage's index, begun at the tiny run's end)."""
    experiment = load(finished.workdir / "config.gin").experiment
    old = Workdir(experiment, finished.workdir)
    first = jax.tree.map(np.asarray, old.newest_params())

    def begin(name):
        stages = (*experiment.stages, STAGE)
        folder = tmp_path_factory.mktemp(name)
        shutil.copy(finished.workdir / "tokenizer.model", folder)
        run = Workdir(replace(experiment, stages=stages), folder)
        run.mesh = build_mesh(MeshConfig(), jax.devices()[:1])
        run.params = shard(first, TRANSFORMER_RULES, run.mesh)
        return run, len(stages) - 1

    return begin, first


@pytest.fixture(scope="module")
def whole(adapted):
    """(run, record) of the stage, from its beginning to its end."""
    run, index = adapted[0]("whole")
    return run, improve(run, index, STAGE)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_only_the_adapters_learn_and_killed_they_go_on(adapted, tmp_path):
    begin, first = adapted
    run, index = begin("rounds")
    at = Improvement(run, index, STAGE)
    equal(at.policy, first)  # B is 0
    with Checkpoints(tmp_path) as saved:
        seen = [at.round()]
        saved.save(at.rounds, at.arrays(), at.position(), at.extra())
        seen += [at.round()]
        ended = jax.tree.map(np.asarray, at.state.params)
        at.resume(saved)
    assert at.rounds == 1
    assert at.round() == seen[1]
    equal(at.state.params, ended)
    # The reference is the base, not a copy, and no update has touched it.
    assert all(
        a is b for a, b in zip(*map(jax.tree.leaves, (at._nets.frozen[0], at._first)))
    )
    equal(at._first, first)
    assert abs(seen[0]["kl"]) < 1e-5 < seen[1]["kl"]
    assert max(s["logprob_gap"] for s in seen) < 1e-5
    # What samples is the base with the adapters merged, by hand of one kernel.
    lora = at.state.params["policy"]["lora"]
    own = lora["mlp"]["down"]
    expected = first["layers"]["mlp"]["down"] + 2 * (own["a"] @ own["b"])
    policy = at.policy
    np.testing.assert_allclose(policy["layers"]["mlp"]["down"], expected, rtol=1e-6)
    assert np.abs(expected - first["layers"]["mlp"]["down"]).max() > 1e-3
    for name in ("embed", "unembed", "final_norm", "value"):
        equal(policy[name], first[name])
    # The critic's value head is of the critic only.
    head = at.state.params["critic"]["lora"]["value"]
    assert np.abs(head["kernel"] - first["value"]["kernel"]).max() > 1e-3


def test_ended_behind_its_last_checkpoint_it_is_finished_from_there(adapted, whole):
    run, _ = whole
    index = len(run.experiment.stages) - 1
    ended = run.params
    run.params = shard(adapted[1], TRANSFORMER_RULES, run.mesh)
    record = improve(run, index, STAGE)
    assert record.results["rounds"] == STAGE.rounds
    equal(run.params, ended)
    assert [p.name for p in run.checkpoints(index).glob("??????")] == ["000003"]


def test_what_is_kept_is_small_until_the_stage_is_done(whole, adapted):
    run, record = whole
    index = len(run.experiment.stages) - 1
    small = restore_params(run.path / "adapters" / run.checkpoints(index).name)
    assert sum(x.size for x in jax.tree.leaves(small.params)) == LEARNING
    assert record.results["learning"] == LEARNING
    size = sum(x.size for x in jax.tree.leaves(adapted[1]))
    assert record.results["parameters"] == size > 3 * LEARNING
    # What others read is a policy like any other: base and adapters.
    base_and = {"base": adapted[1], "lora": small.params["policy"]["lora"]}
    read = run.newest_params()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        read,
        merge(base_and, STAGE.lora),
    )
    equal(read, run.params)


def test_the_report_says_how_many_parameters_learn(whole):
    _, record = whole
    table = improve_sections.section([record], 0)["table"]
    row = dict(zip(table["columns"], table["rows"][0]))
    part = 100 * LEARNING / record.results["parameters"]
    assert row["parameters that learn"] == f"{LEARNING:,} ({part:.1f} %)"


@pytest.mark.parametrize(
    "options",
    [
        {"learner": PolicyGradient("gae", (Critic(),))},
        {"learner": Distil(loss=DistilConfig(value_coef=0.5)), "search": Search()},
    ],
)
def test_a_value_head_that_no_adapter_reaches_is_named(options):
    with pytest.raises(ValueError, match=r"lora\.value is off"):
        Improve(lora=LoraConfig(), **options)
    Improve(lora=LoraConfig(value=True), **options)

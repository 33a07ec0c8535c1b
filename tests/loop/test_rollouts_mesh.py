"""Continuations of traces over a mesh are those of one device."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from o1jax.loop.ledger import Ledger
from o1jax.loop.rollouts import Continuer, Programs
from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.parallel.sharding import TRANSFORMER_RULES, shard
from o1jax.rollout.decode import SamplerConfig
from o1jax.rollout.sampling import SamplingConfig

R, T = 3, 8  # traces do not divide by the shards


@pytest.fixture(scope="module")
def traces():
    rng = np.random.default_rng(1)
    return SimpleNamespace(
        tokens=rng.integers(3, 12, (R, T)).astype(np.int32),
        ends=np.array([[2, 5], [3, -1], [1, 4]], np.int32),
        prompt_length=np.ones(R, np.int32),
        texts=["", "", ""],
        examples=[0, 1, 2],
    )


def planned(config, policy, mesh, decode, devices):
    """As much of a run as is asked for."""
    return SimpleNamespace(
        mesh=build_mesh(mesh, devices),
        policy=policy,
        policy_config=config,
        experiment=SimpleNamespace(
            sampler=SamplerConfig(max_new_tokens=5, stop_ids=(1, 2)), decode=decode
        ),
        tokenizer=SimpleNamespace(decode=lambda ids: " ".join(map(str, ids))),
        ledger=Ledger(),
    )


def ended(run, params, traces):
    """(texts, verdicts, tokens booked) of calls for one or two places of a trace."""
    programs = Programs(run, SamplingConfig(), T)
    task = SimpleNamespace(grade=lambda example, text: float(len(text) % 2))
    ask = Continuer(run, programs, params, traces, jax.random.key(5), task=task)
    found = [
        ask(np.array([0, 2]), np.array([2, 1]), 2),
        ask(np.arange(3), np.ones(3, int), 2),
        ask(np.array([0, 0, 2]), np.array([1, 2, 2]), 3),
    ]
    spent = run.ledger.state()["accounts"]["reward"]
    return [c.text for c in ask.continued], found, spent["tokens"]


def test_each_device_continues_its_own_traces(make, traces):
    config, policy, params = make(layers=1)
    found = []
    for mesh, decode in (
        (MeshConfig(1, 1, 1), None),
        (MeshConfig(2, 4, 1), None),
        (MeshConfig(2, 4, 1), MeshConfig(4, 1, 2)),
    ):
        devices = jax.devices()[: 8 if mesh.fsdp > 1 else 1]
        run = planned(config, policy, mesh, decode, devices)
        placed = shard(params, TRANSFORMER_RULES, run.mesh)
        found.append(ended(run, placed, traces))
    alone, *meshes = found
    for texts, right, tokens in meshes:
        assert texts == alone[0]
        for mine, expected in zip(right, alone[1], strict=True):
            np.testing.assert_array_equal(mine, expected)
        assert tokens > 0
    assert len({text for some in alone[0] for text in some}) > 4


def test_a_beginning_may_be_asked_for_once_in_a_call(make, traces):
    config, policy, params = make(layers=1)
    run = planned(config, policy, MeshConfig(1, 1, 1), None, jax.devices()[:1])
    ask = Continuer(
        run,
        Programs(run, SamplingConfig(), T),
        params,
        traces,
        jax.random.key(5),
        task=None,
    )
    with pytest.raises(ValueError, match="twice"):
        ask(np.array([0, 0]), np.array([2, 2]), 2)

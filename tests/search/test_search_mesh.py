"""A whole search over text on a mesh: trees of different shards don't communicate.

What the same programs become on a TPU slice: benchmarks/search_tpu.py.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from o1jax.parallel.mesh import ROWS, MeshConfig, build_mesh, put_batch
from o1jax.parallel.sharding import DECODE_RULES, TRANSFORMER_RULES, shard
from o1jax.search.mcts import Mcts
from o1jax.search.steps import Steps, StepSearch
from o1jax.types import Prompts

STEP_END, STOP = 10, 11
LAYERS = 1
SEARCH = Mcts(simulations=12, leaves=2, max_depth=3)
# Two problems to each of four shards. The last shard has nothing but padding, so it
# makes no iteration while the others make theirs.
PROMPTS = Prompts(
    tokens=np.random.default_rng(1).integers(0, 10, (8, 5)).astype(np.int32),
    length=np.array([2, 5, 1, 4, 3, 5, 1, 1], np.int32),
    prompt_id=np.array([0, 1, 2, -1, 4, 5, -1, -1], np.int32),
)
KEYS = jax.random.split(jax.random.key(3), 8)
# The logits of all tokens on every device; the table cuts them by vocabulary.
COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-\w+)(-start)?\("
)
# Of data 4 x tensor 2, devices that differ along tensor alone.
NEIGHBOURS = ("{{0,1},{2,3},{4,5},{6,7}}", "[4,2]<=[8]")


@pytest.fixture(scope="module")
def search(make):
    """(params, keys, prompts) -> SearchResult; operations of the policy are named."""
    policy = make(layers=LAYERS)[1]
    scope = jax.named_scope("policy")
    policy = policy._replace(start=scope(policy.start), extend=scope(policy.extend))
    searcher = StepSearch(policy, Steps(children=3, tokens=3), (STEP_END,), (STOP,))
    whole = partial(searcher.search, config=SEARCH)
    # What is one number for all trees becomes one for each shard.
    return lambda *arguments: jax.tree.map(jnp.atleast_1d, whole(*arguments))


@pytest.fixture(scope="module")
def on_mesh(make, search):
    """(mesh, rules) -> (the compiled program, its arguments)."""

    def compiled(mesh, rules=TRANSFORMER_RULES):
        rows = PartitionSpec(ROWS)
        local = jax.shard_map(
            search,
            mesh=mesh,
            in_specs=(PartitionSpec(), rows, rows),
            out_specs=rows,
            axis_names=set(ROWS),  # tensor is left to the partitioner
            check_vma=False,
        )
        arguments = (
            shard(make(layers=LAYERS)[2], rules, mesh),
            jax.device_put(KEYS, NamedSharding(mesh, rows)),
            put_batch(mesh, PROMPTS),
        )
        return jax.jit(local).lower(*arguments).compile(), arguments

    return compiled


@pytest.fixture(scope="module")
def over_data(on_mesh):
    """(the program on data 4, its result)."""
    program, arguments = on_mesh(build_mesh(MeshConfig(data=4), jax.devices()[:4]))
    return program, program(*arguments)


def collectives(program):
    return [line for line in program.as_text().splitlines() if COLLECTIVE.search(line)]


def along_tensor(line):
    """Whether only devices that differ along tensor take part."""
    if pairs := re.search(r"source_target_pairs=\{\{(.*?)\}\}", line):
        pairs = [pair.split(",") for pair in pairs[1].split("},{")]
        return all(int(a) // 2 == int(b) // 2 for a, b in pairs)
    return any(f"replica_groups={groups}" in line for groups in NEIGHBOURS)


def test_a_shard_does_what_it_does_alone_and_asks_nobody(over_data, search, make):
    program, result = over_data
    assert collectives(program) == []
    assert result.tree.used.tolist()[6:] == [1, 1] and result.tree.used[0] > 5
    alone = jax.jit(search)
    for i in range(0, 8, 2):
        own = partial(jax.tree.map, lambda x, i=i: x[i : i + 2])
        expected = alone(make(layers=LAYERS)[2], own(KEYS), own(PROMPTS))
        for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(expected)):
            part = np.split(np.asarray(x), 4)[i // 2]
            np.testing.assert_array_equal(part, np.asarray(y))


def test_with_the_policy_over_tensor_only_the_policy_communicates(over_data, on_mesh):
    mesh = build_mesh(MeshConfig(data=4, tensor=2))
    program, arguments = on_mesh(mesh, DECODE_RULES)
    found = collectives(program)
    for line in found:
        assert " all-reduce(" in line and along_tensor(line)
        assert "/policy/" in re.search(r'op_name="(.*?)"', line)[1]
    # A call has one behind the embedding and two a layer: attention and mlp. Prompts
    # are read in one place of the program, steps in others.
    calls, rest = divmod(len(found), 1 + 2 * LAYERS)
    assert rest == 0 and calls >= 2
    for x, y in zip(
        jax.tree.leaves(program(*arguments).tree), jax.tree.leaves(over_data[1].tree)
    ):
        if np.issubdtype(x.dtype, np.floating):
            np.testing.assert_allclose(x, y, rtol=3e-5, atol=3e-5)
        else:
            np.testing.assert_array_equal(x, y)


def test_logits_cut_by_vocabulary_are_drawn_from_along_tensor(on_mesh):
    # Compiled only. Among these is a collective-permute, in which XLA's CPU backend
    # makes all 8 devices meet: shards that differ in their number of steps would hang.
    program, _ = on_mesh(build_mesh(MeshConfig(data=4, tensor=2)))
    found = collectives(program)
    assert all(along_tensor(line) for line in found)
    drawing = [line for line in found if "/policy/" not in line]
    assert drawing and len(drawing) < len(found)

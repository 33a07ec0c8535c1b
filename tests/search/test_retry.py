"""Walks with rejection on tables: worked by hand, alone and together, on a mesh."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from tables import (
    best,
    check_nodes,
    check_reward_tokens,
    drawn,
    expand_fn,
    random_table,
    roots,
    states,
    table,
)

from o1jax.search.retry import Retry, retry

KEY = jax.random.key(0)
FAST = {"xla_backend_optimization_level": 0}

#               0
#    1 .6     2 .4     3 .7
#  4  5  6    10 11   7  8  9       all of the last row are finished
# .1 .2 .3   .45 .1  .2 .9 .1
WALK = table(
    {0: [1, 2, 3], 1: [4, 5, 6], 2: [10, 11], 3: [7, 8, 9]},
    [0, 0.6, 0.4, 0.7, 0.1, 0.2, 0.3, 0.2, 0.9, 0.1, 0.45, 0.1],
    finished=range(4, 12),
)
BASE = Retry(threshold=0.5, attempts=3, backtracks=1, depth=2)


@functools.cache
def compiled(config, report_cost):
    def search(params, start):
        root, page = roots(params, start, 3)
        return retry(params, KEY, root, page, expand_fn(3, report_cost), config)

    return jax.jit(search, compiler_options=FAST)


def run(params, config, start=(0,), report_cost=True):
    """The recipe from the states `start`; compiled once for tables of one size."""
    result = compiled(config, report_cost)(params, jnp.array(start, jnp.int32))
    check_nodes(result.nodes)
    if report_cost:
        check_reward_tokens(params, start, result.nodes)
    return result


def test_what_fails_is_traced_back():
    result = run(WALK, BASE)
    # 1 is accepted and all below it rejected; back at the root 2 is rejected, 3 not,
    # nor 8 below it.
    assert drawn(result, 0) == [1, 4, 5, 6, 2, 3, 7, 8]
    assert best(result) == [8] and states(result) == [[8]]
    np.testing.assert_allclose(result.score, [[0.9]])
    assert result.nodes.cost.tolist() == [8]
    # 1 turned out to be worth what is below it; what the guide said of it is kept.
    np.testing.assert_allclose(result.nodes.value[0, 1], 0.3)
    np.testing.assert_allclose(result.nodes.raw_value[0, 1], 0.6)
    np.testing.assert_allclose(result.nodes.logprior[0, 1:9], -math.log(3), rtol=1e-6)


@pytest.mark.parametrize(
    "change, expected",
    [
        # No step is bad enough.
        (dict(threshold=0.0), [1, 4]),
        # Nothing at the root is good enough and there is no way back: the best of it,
        # and the best below that.
        (dict(threshold=0.95), [1, 2, 3, 7, 8, 9]),
        # All below 1 failed, too: the best of it, 6.
        (dict(backtracks=0), [1, 4, 5, 6]),
        # 1, which has failed (0.2), and 2 (0.4) are all that the root may try.
        (dict(attempts=2), [1, 4, 5, 2, 10, 11]),
        (dict(depth=1), [1]),
        # After four draws the best answer so far is 6.
        (dict(budget=4.0), [1, 4, 5, 6]),
        # After one there is none: it stands at 1.
        (dict(budget=1.0), [1]),
    ],
)
def test_every_switch_counts(change, expected):
    result = run(WALK, replace(BASE, **change))
    assert drawn(result, 0) == expected
    ends = {(1, 4): 4, (1, 4, 5, 2, 10, 11): 10, (1,): 1, (1, 4, 5, 6): 6}
    assert best(result) == [ends.get(tuple(expected), 8)]


def test_a_failed_subtree_may_still_be_the_best():
    # Below 1 (0.6) the better child is worth 0.45, more than 2 (0.4): back to it, and
    # to its best child at once, for its attempts are used up.
    value = WALK.value.at[5].set(0.45)
    result = run(WALK._replace(value=value), replace(BASE, attempts=2))
    assert drawn(result, 0) == [1, 4, 5, 2] and best(result) == [5]
    # Of equals, the one drawn first.
    result = run(WALK._replace(value=value.at[2].set(0.45)), replace(BASE, attempts=2))
    assert best(result) == [5]


def test_a_twin_is_rejected_unseen_and_paid_for():
    # 5 is 4 over again, whatever the guide says of it now.
    params = WALK._replace(
        twin=WALK.twin.at[5].set(0), value=WALK.value.at[5].set(0.9), cost=WALK.cost * 3
    )
    result = run(params, BASE)
    assert drawn(result, 0) == [1, 4, 6, 2, 3, 7, 8]
    assert result.nodes.cost.tolist() == [8 * 3]


def test_a_walk_that_gets_nowhere_ends():
    # The only child of 2 calls itself the twin of one that is not there.
    below = {0: [1, -1, -1], 1: [2, -1, -1], 2: [-1, 3, -1]}
    params = table(below, [0, 0.9, 0.6, 0.9], twin={3: 0})
    result = run(params, replace(BASE, depth=4))
    assert drawn(result, 0) == [1, 2] and states(result) == [[2]]
    assert result.nodes.cost.tolist() == [3]


def test_a_budget_needs_a_cost():
    with pytest.raises(ValueError, match="does not report its cost"):
        run(WALK, replace(BASE, budget=4.0), report_cost=False)
    assert run(WALK, BASE, report_cost=False).nodes.cost.tolist() == [0]


def test_problems_of_any_length_do_not_leak():
    # State 0 is padding; the others differ in depth. Together, and among copies.
    params = random_table(5, width=3, children=3)
    config = Retry(threshold=0.8, attempts=2, backtracks=3, depth=4)
    together = run(params, config, range(8))
    assert len(set(together.nodes.used.tolist())) > 3
    assert together.best[0] == 0 and states(together)[0] == [-1]
    assert together.nodes.used[0] == 1 and together.nodes.cost[0] == 0
    for b in range(8):
        other = run(params, config, [b] * 8)
        for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(other)):
            np.testing.assert_array_equal(x[b], y[0])


def walk(params, state, config):
    """(end, states drawn): the walk of one problem in plain Python; no twins."""
    child, value, finished, *_ = map(np.asarray, params)
    made, below, worth, left = [], {}, {}, {}

    def arrive(node, state, depth):
        end = finished[state] or depth == config.depth
        actions = [] if end else range(config.attempts)
        left[node] = [a for a in actions if child[state, a] >= 0]
        below[node], worth[node] = [], value[state]

    path, back = [0], 0
    state_of = {0: state}
    arrive(0, state, 0)
    while left[path[-1]] or below[path[-1]]:
        node = path[-1]
        if left[node]:
            new = len(state_of)
            state_of[new] = int(child[state_of[node], left[node].pop(0)])
            made.append(state_of[new])
            arrive(new, state_of[new], len(path))
            below[node].append(new)
            if worth[new] >= config.threshold:
                path.append(new)
                continue
        if left[node]:
            continue
        most = max(below[node], key=lambda n: worth[n])
        if back < config.backtracks and any(left[n] for n in path[:-1]):
            worth[node] = worth[most]
            path.pop()
            back += 1
        else:
            path.append(most)
    return state_of[path[-1]] if len(path) > 1 else -1, made


def test_random_trees_equal_a_walk_in_plain_python():
    params = random_table(7, width=3, children=3)
    params = params._replace(twin=jnp.full_like(params.twin, -1))
    config = Retry(threshold=0.9, attempts=3, backtracks=4, depth=4)
    result = run(params, config, range(9))
    for b in range(9):
        end, made = walk(params, b, config)
        assert states(result)[b] == [end] and drawn(result, b) == made
    # The pool is as large as it need be, not much larger.
    assert max(result.nodes.used.tolist()) > config.pool / 2


def test_on_a_mesh_each_shard_walks_its_own_problems():
    params = random_table(7, width=3, children=3)
    config = Retry(threshold=0.9, attempts=3, backtracks=4, depth=4)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("data")
    sharded = jax.shard_map(
        compiled(config, True).__wrapped__,
        mesh=mesh,
        in_specs=(PartitionSpec(), rows),
        out_specs=rows,
        check_vma=False,
    )
    jitted = jax.jit(sharded, compiler_options=FAST)
    program = jitted.lower(params, jnp.arange(8)).compile()
    text = program.as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in text
    whole = run(params, config, range(8))
    for x, y in zip(
        jax.tree.leaves(program(params, jnp.arange(8))), jax.tree.leaves(whole)
    ):
        np.testing.assert_array_equal(x, y)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="attempts must be at least 1"):
        Retry(attempts=0)
    with pytest.raises(ValueError, match="backtracks must be at least 0"):
        Retry(backtracks=-1)
    with pytest.raises(ValueError, match=r"attempts \(4\) is above the 3 of a node"):
        run(WALK, Retry(attempts=4))

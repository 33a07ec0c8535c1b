"""Population searches on tables: by hand, against plain Python, and on a mesh."""

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

from o1jax.search.frontier import (
    Frontier,
    beam,
    best_of_n,
    dvts,
    frontier,
    revision,
)

KEY = jax.random.key(0)
FAST = {"xla_backend_optimization_level": 0}

#            0
#   1     2     3     4        one more level: two finished states below each
#  5 6   7 8  9 10  11 12
FORK = table(
    {0: [1, 2, 3, 4], 1: [5, 6], 2: [7, 8], 3: [9, 10], 4: [11, 12]},
    [0, 0.9, 0.8, 0.1, 0.7, 0.1, 0.2, 0.3, 0.95, 0.99, 0.0, 0.4, 0.85],
    finished=range(5, 13),
)


@functools.cache
def compiled(config, children, report_cost, unwanted):
    """The recipe from given states; compiled once for tables of the same size."""

    def search(params, start):
        root, page = roots(params, start, children)
        fn = expand_fn(children, report_cost, unwanted)
        return frontier(params, KEY, root, page, fn, config)

    return jax.jit(search, compiler_options=FAST)


def run(params, config, start=(0,), children=2, report_cost=True, unwanted=99.0):
    """The recipe from the states `start`."""
    search = compiled(config, children, report_cost, unwanted)
    result = search(params, jnp.array(start, jnp.int32))
    check_nodes(result.nodes)
    if report_cost:
        check_reward_tokens(params, start, result.nodes)
    return result


def test_a_beam_keeps_exactly_the_best_of_all():
    result = run(FORK, beam(2, 2, depth=2))
    # 1 and 2 are the best of 1 to 4; of 5, 6, 7 and 8 they are 8 and 7.
    assert states(result) == [[8, 7]] and best(result) == [8]
    np.testing.assert_allclose(result.score, [[0.95, 0.3]])
    # Pruned candidates are nodes as well, in the order of drawing.
    assert drawn(result, 0) == [1, 2, 3, 4, 5, 6, 7, 8]
    nodes = result.nodes
    assert nodes.parent[0].tolist() == [-1, 0, 0, 0, 0, 1, 1, 2, 2]
    assert nodes.action[0].tolist() == [-1, 0, 1, 2, 3, 0, 1, 0, 1]
    assert nodes.finished[0].tolist() == [False] * 5 + [True] * 4
    np.testing.assert_allclose(nodes.value[0, 1:], FORK.value[1:9])
    np.testing.assert_array_equal(nodes.value, nodes.raw_value)
    assert nodes.cost.tolist() == [8] and not nodes.exhausted.any()
    # Four draws of a root weigh the same; below, the prior of two children is even.
    np.testing.assert_allclose(nodes.logprior[0, 1:5], -math.log(4), rtol=1e-6)
    np.testing.assert_allclose(nodes.logprior[0, 5:], -math.log(2), rtol=1e-6)


def test_dvts_keeps_the_best_of_each_group():
    # Groups {1, 2} and {3, 4}: 1 and 4 survive, then 6 of {5, 6} and 12 of {11, 12}.
    result = run(FORK, dvts(2, 2, depth=2))
    assert states(result) == [[6, 12]] and best(result) == [12]
    assert drawn(result, 0) == [1, 2, 3, 4, 5, 6, 11, 12]


def test_best_of_n_draws_one_child_a_step():
    result = run(FORK, best_of_n(4, depth=2))
    assert states(result) == [[5, 7, 9, 11]] and best(result) == [9]
    assert result.nodes.cost.tolist() == [8]


def test_a_lookahead_sees_past_a_deceptive_value():
    # 1 looks better than 2 for two levels; the third pays 0.1 below it, and 0.8.
    params = table(
        {0: [1, 2], 1: [3], 2: [4], 3: [5], 4: [6]},
        [0, 0.9, 0.5, 0.9, 0.5, 0.1, 0.8],
        finished=(5, 6),
    )
    ends, cost = [], []
    for lookahead in (0, 2):
        result = run(params, beam(1, 2, depth=3, lookahead=lookahead))
        ends += best(result)
        cost += result.nodes.cost.tolist()
    assert ends == [5, 6]
    # 1 2 | 3 | 5 against 1 2 and below them 3 4 5 6 | 4 and below it 6 | 6:
    # behind a finished state there is nothing to look at.
    assert cost == [4, 9]
    # What was thrown away is no node; a node tells both what it is worth and would be.
    assert drawn(result, 0) == [1, 2, 4, 6]
    np.testing.assert_allclose(result.nodes.raw_value[0, 1:5], [0.9, 0.5, 0.5, 0.8])
    np.testing.assert_allclose(result.nodes.value[0, 1:5], [0.1, 0.8, 0.8, 0.8])


# Three problems of one, two and three levels, and one of padding.
LENGTHS = table(
    {
        0: [1, 2, 3, 4],
        5: [6, 7, 8, 9],
        7: [10, 11],
        12: [13, 14, 14, 14],
        13: [15, 16],
        15: [17, 18],
    },
    # 0 to 4:  finished at once
    [0, 0.1, 0.9, 0.3, 0.2]
    # 5:  6 finished, 7 goes on to 10 and 11, 8 and 9 are dead ends
    + [0, 0.6, 0.5, 0.2, 0.1, 0.55, 0.65]
    # 12:  13, then 15 or the dead end 16, then 17 and 18; 14 finished
    + [0, 0.3, 0.0, 0.4, 0.2, 0.9, 0.1]
    # 19:  padding
    + [0.5],
    finished=(1, 2, 3, 4, 6, 10, 11, 14, 17, 18, 19),
)


def test_finished_survivors_compete_and_problems_end_when_they_do():
    config = beam(2, 2, depth=5)
    result = run(LENGTHS, config, (0, 5, 12, 19))
    # 5: survivors 6 0.6 and 7 0.5; then 6 stays beside the new 10 0.55 and 11 0.65.
    # 12: 13 and 14; 15 and 16 push 14 out; 16 leads nowhere and stays with 0.2.
    assert states(result) == [[2, 3], [11, 6], [17, 16], [-1, -1]]
    assert best(result) == [2, 11, 17, 19]
    # 4 draws at each root; then 2 below 7; 2 below 13 and 2 below 15. Padding is free.
    assert result.nodes.cost.tolist() == [4, 6, 8, 0]
    assert result.nodes.used.tolist() == [5, 7, 9, 1]
    assert result.best[3] == 0 and (result.score[3] == -jnp.inf).all()
    # Each is the same among copies of itself.
    for b, start in enumerate((0, 5, 12, 19)):
        other = run(LENGTHS, config, (start,) * 4)
        for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(other)):
            np.testing.assert_array_equal(x[b], y[0])


def test_the_answer_is_a_finished_survivor_if_there_is_one():
    # After one level 2 is the better state, but 1 is an answer.
    params = table({0: [1, 2]}, [0, 0.4, 0.9], finished=(1,))
    result = run(params, beam(2, 1, depth=1))
    assert states(result) == [[2, 1]] and best(result) == [1]


def test_a_place_that_nobody_takes_stays_empty():
    # One child at each node: the other survivor's place is never filled, nor paid for.
    params = table({0: [1, -1], 1: [2], 2: [3]}, [0, 0.1, 0.2, 0.3])
    result = run(params, beam(2, 1, depth=3), unwanted=-99.0)
    assert drawn(result, 0) == [1, 2, 3] and states(result) == [[3, -1]]
    assert result.score.tolist()[0][1] == -jnp.inf and result.nodes.cost[0] == 3


# The second draw is the first over again; a state that names itself is no twin.
TWINS = table(
    {0: [1, 2, 3, 4]}, [0, 0.9, 0.9, 0.5, 0.1], twin={1: 0, 2: 0}, cost=[0, 3, 5, 1, 1]
)


def test_a_twin_fills_no_place_of_a_beam_and_is_paid_for():
    result = run(TWINS, beam(2, 2, depth=1))
    assert states(result) == [[1, 3]] and drawn(result, 0) == [1, 3, 4]
    assert result.nodes.cost.tolist() == [10]


def test_independent_draws_may_be_equal():
    result = run(TWINS, best_of_n(4))
    assert states(result) == [[1, 2, 3, 4]] and best(result) == [1]
    assert result.nodes.cost.tolist() == [10]


def test_of_equals_the_first_drawn_survives():
    params = FORK._replace(value=jnp.ones(13))
    assert states(run(params, beam(2, 2, depth=2))) == [[5, 6]]
    assert best(run(params, dvts(2, 2, depth=2))) == [5]


def test_revisions_answer_with_the_best_of_a_chain():
    # 1 (0.9) is revised to 5 (0.1), 2 (0.8) to 7 (0.3).
    result = run(FORK, revision(2, 1))
    assert states(result) == [[1, 2]] and best(result) == [1]
    last = run(FORK, replace(revision(2, 1), answer="last"))
    assert states(last) == [[5, 7]] and best(last) == [7]


def test_a_budget_ends_a_problem_between_levels():
    # Level one costs 4 at each root. The second is begun and paid for by all who can.
    config = replace(beam(2, 2, depth=5), budget=5)
    result = run(LENGTHS, config, (0, 5, 12, 19))
    assert result.nodes.cost.tolist() == [4, 6, 6, 0]
    assert states(result)[2] == [15, 16]  # stopped before its end
    with pytest.raises(ValueError, match="does not report its cost"):
        run(LENGTHS, config, report_cost=False)


def by_hand(params, root, config, children):
    """(states of the survivors, states drawn, cost): a beam in plain Python."""
    child, value, finished, cost, twin = map(np.asarray, params)
    worth = lambda node: -float(value[node[0]])
    groups = [[] for _ in range(config.width)]  # survivors (state, path drawn from)
    made, spent = [], 0.0
    for level in range(config.depth):
        new = []
        for w, group in enumerate(groups):
            state = root if level == 0 else (group[0][0] if group else 0)
            stay, below = group, []
            many = range(config.children)
            actions = [w * config.children + k if level == 0 else k for k in many]
            valid = [a for a in actions if a >= children or child[state, a] >= 0]
            if (level == 0 or group) and not finished[state] and valid:
                stay = []
                for a in valid:
                    here = int(child[state, a])
                    spent += float(cost[here])
                    if config.independent or not 0 <= twin[here] < a:
                        below.append((here,))
                        made.append(here)
            new.append((stay, below))
        if config.independent:
            groups = [sorted(stay + below, key=worth)[:1] for stay, below in new]
        else:
            rivals = [x for stay, _ in new for x in stay]
            rivals += [x for _, below in new for x in below]
            rivals = sorted(rivals, key=worth)[: config.width]
            groups = [rivals[w : w + 1] for w in range(config.width)]
    return [g[0][0] if g else -1 for g in groups], made, spent


@pytest.mark.parametrize(
    "config",
    [
        Frontier(3, 2, depth=4),
        Frontier(2, 3, depth=4, independent=True),
    ],
)
def test_random_trees_equal_a_search_in_plain_python(config):
    params = random_table(1, width=6, children=3)
    start = tuple(range(8))
    result = run(params, config, start, children=3)
    for b in start:
        expected, made, cost = by_hand(params, b, config, 3)
        assert states(result)[b] == expected
        assert drawn(result, b) == made
        assert result.nodes.cost[b] == cost
    assert len(set(result.nodes.used.tolist())) > 3  # they do differ


@pytest.mark.parametrize(
    "change, expected",
    [
        (dict(), [8, 7]),
        (dict(width=1), [6]),  # 1 of 1 and 2; 6 of 5 and 6
        (dict(children=1), [7, 5]),  # only first children of 1 and 2
        (dict(depth=1), [1, 2]),
        (dict(independent=True), [6, 12]),
        (dict(lookahead=1), [9, 12]),  # 3 and 4 lead to 9 (0.99) and 11 (0.4)
        (dict(answer="any"), [8, 1]),
        (dict(budget=4.0), [1, 2]),
    ],
)
def test_every_switch_counts(change, expected):
    assert states(run(FORK, replace(Frontier(2, 2, depth=2), **change))) == [expected]


def test_on_a_mesh_each_shard_searches_its_own_problems():
    params = random_table(1, width=6, children=3)
    start = jnp.arange(8)
    config = Frontier(3, 2, depth=4)

    def shard(params, start):
        root, page = roots(params, start, 3)
        return frontier(params, KEY, root, page, expand_fn(3), config)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("data")
    sharded = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(PartitionSpec(), rows),
        out_specs=rows,
        check_vma=False,
    )
    program = jax.jit(sharded, compiler_options=FAST).lower(params, start).compile()
    text = program.as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in text
    whole = run(params, config, tuple(range(8)), children=3)
    for x, y in zip(jax.tree.leaves(program(params, start)), jax.tree.leaves(whole)):
        np.testing.assert_array_equal(x, y)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="width must be at least 1"):
        Frontier(width=0)
    with pytest.raises(ValueError, match="lookahead must be at least 0"):
        Frontier(lookahead=-1)
    with pytest.raises(ValueError, match="budget must be at least 0"):
        Frontier(budget=math.nan)
    with pytest.raises(ValueError, match="answer must be one of last, any"):
        Frontier(answer="first")
    with pytest.raises(ValueError, match=r"children \(3\) is above the 2 of a node"):
        run(FORK, beam(1, 3, depth=1))

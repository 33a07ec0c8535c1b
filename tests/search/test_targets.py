"""What finished trees teach: labels, policy targets and pairs, worked by hand."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forest import FOREST, NOTHING
from toys import random_game, search

from o1jax.search.gumbel import Gumbel, improved_policy
from o1jax.search.harvest import StepText, leaves
from o1jax.search.mcts import Mcts
from o1jax.search.nodes import Nodes, nodes_of
from o1jax.search.select import Node
from o1jax.search.targets import (
    answer_pairs,
    pair_texts,
    policy_targets,
    sibling_pairs,
    step_labels,
)
from o1jax.search.tree import Edges
from o1jax.types import Prompts

PROMPTS = Prompts(
    tokens=np.array([[20, 21], [22, 0], [0, 0]]),
    length=np.array([2, 1, 1]),
    prompt_id=np.array([0, 1, -1]),
)
AT = np.array([[3, 4], [2, -1], [-1, -1]])


def test_step_labels_are_values_behind_each_step():
    found = step_labels(FOREST, PROMPTS, AT)
    assert found.tokens.tolist() == [
        [20, 21, 1, 2, 4, 5, 6],
        [20, 21, 1, 2, 7, 0, 0],
        [22, 5, 6, 11, 0, 0, 0],
    ]
    assert found.prompt_length.tolist() == [2, 2, 1]
    assert found.length.tolist() == [7, 5, 4]
    ends = [[3, 6], [3, 4], [1, 3]]
    for row, at in zip(found.step_end, ends, strict=True):
        assert np.flatnonzero(row).tolist() == at
    f32 = np.float32
    assert found.label[found.step_end].tolist() == [f32(0.6), 1, f32(0.6), 0, 0.75, 1]
    # Node 1 of tree 0 has 4 visits and lies in two rows.
    assert found.weight[found.step_end].tolist() == [2, 2, 2, 1, 2, 1]
    for numbers in (found.label, found.weight):
        assert not numbers[~found.step_end].any()


def test_weights_of_a_step_sum_to_its_visits_over_all_leaves():
    found = step_labels(FOREST, PROMPTS, leaves(FOREST))
    # All nodes but the roots: 4 + 2 + 2 + 1 + 1 + 1 and 2 + 1.
    np.testing.assert_allclose(found.weight.sum(), 11 + 3)
    found = step_labels(FOREST, PROMPTS, leaves(FOREST), by_visits=False)
    np.testing.assert_allclose(found.weight.sum(), 6 + 2)


def test_step_labels_leave_out_what_was_hardly_visited_but_not_an_answer():
    found = step_labels(FOREST, PROMPTS, AT, min_visits=3, by_visits=False)
    # Node 1 of tree 1 has 2 visits: it has no weight. Nodes 3 and 4, 2 are answers.
    assert found.weight[found.step_end].tolist() == [0.5, 1, 0.5, 1, 0, 1]


def test_step_labels_of_returns_that_are_not_between_0_and_1():
    # From [-0.5, 0.7]: 0.6 -> 1.1 / 1.2, 1 is above, 0 -> 0.5 / 1.2.
    found = step_labels(FOREST, PROMPTS, AT[:1], low=-0.5, high=0.7)
    expected = [1.1 / 1.2, 1, 1.1 / 1.2, 0.5 / 1.2]
    np.testing.assert_allclose(found.label[found.step_end], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"low \(1.0\) must be less than high \(1.0\)"):
        step_labels(FOREST, PROMPTS, AT, low=1.0)


def test_step_labels_of_a_fixed_width():
    assert step_labels(FOREST, PROMPTS, AT, width=9).tokens.shape == (3, 9)
    with pytest.raises(ValueError, match="7 tokens does not fit width 6"):
        step_labels(FOREST, PROMPTS, AT, width=6)


def test_policy_targets_are_visits_of_the_children():
    found = policy_targets(FOREST)
    assert found.tree.tolist() == [0, 0, 0, 1, 1]
    assert found.node.tolist() == [0, 1, 2, 0, 1]
    assert found.child.tolist() == [
        [1, 2, 6],
        [3, 4, -1],
        [5, -1, -1],
        [1, -1, -1],
        [2, -1, -1],
    ]
    expected = [[4 / 7, 2 / 7, 1 / 7], [2 / 3, 1 / 3, 0], *[[1, 0, 0]] * 3]
    np.testing.assert_allclose(found.weight, expected, rtol=1e-6)
    assert found.rest.tolist() == [0] * 5


def test_policy_targets_only_of_nodes_visited_enough():
    found = policy_targets(FOREST, min_visits=4)
    assert (found.tree.tolist(), found.node.tolist()) == ([0, 0], [0, 1])
    assert policy_targets(NOTHING).child.shape == (0, 0)
    assert policy_targets(NOTHING, rule="improved").weight.shape == (0, 0)


def test_the_improved_policy_worked_by_hand():
    # Node 0 of tree 1: child 1, of prior 0.5, q = 0.75, 2 visits; raw value 0.6. The
    # rest of the prior is 0.5, of value (0.6 + 2 * 0.75) / 3 = 0.7. sigma = 5.2 q.
    nodes = FOREST.replace(logprior=np.full((3, 7), np.log(0.5), np.float32))
    found = policy_targets(nodes, rule="improved", gumbel=Gumbel(rescale=False))
    one, rest = np.exp(5.2 * 0.75), np.exp(5.2 * 0.7)
    np.testing.assert_allclose(found.weight[3], [one / (one + rest), 0, 0], rtol=1e-5)
    np.testing.assert_allclose(found.rest[3], rest / (one + rest), rtol=1e-5)


@cache
def searched() -> tuple[np.ndarray, Nodes]:
    """The edges and nodes of a search of which some children are never made.

    Answers alone are paid, as over text, and steps are discounted by 0.9.
    """
    game = random_game(8, states=512)
    answer = jnp.arange(512) % 4 == 3
    game = game._replace(
        reward=jnp.where(answer, game.value, 0.0), discount=jnp.where(answer, 0.0, 0.9)
    )
    config = Mcts(simulations=24, rule="gumbel", gumbel=Gumbel(considered=4))
    valid = jnp.arange(8)[None] < jnp.array([8, 5, 3])[:, None]
    result = search(game, jax.random.key(0), jnp.array([0, 1, 2]), config, valid)
    tree, nodes = jax.device_get((result.tree, jax.jit(nodes_of)(result.tree)))
    text = StepText(*(np.zeros((3, 25, *s)) for s in [(1,), (1,), (), ()]))
    return tree.edges.packed, nodes.replace(store=text)


@pytest.mark.parametrize("rescale", [True, False])
def test_the_improved_policy_is_that_of_the_search_which_knows_all_children(rescale):
    own = Gumbel(rescale=rescale)
    packed, nodes = searched()
    found = policy_targets(nodes, rule="improved", gumbel=own, discount=0.9)
    assert len(found.tree) > 10 and (found.rest == 0).any() and (found.rest > 0).any()
    row = (found.tree, found.node)
    node = Node(nodes.visits[row], nodes.value[row], nodes.raw_value[row])
    edges = Edges(packed[row])
    whole = np.asarray(jax.jit(partial(improved_policy, config=own))(node, edges))
    children = edges.child.astype(int)
    for m, child in enumerate(children):
        made = child >= 0
        expected = dict(zip(child[made], whole[m][made]))
        got = dict(zip(found.child[m], found.weight[m]))
        got.pop(-1, None)
        assert got.keys() == expected.keys()
        for key, weight in got.items():
            np.testing.assert_allclose(weight, expected[key], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.rest[m], whole[m][~made].sum(), atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "visits"},
        {"discount": 0.5},
        {"gumbel": Gumbel(rescale=False, value_scale=1.0)},
        {"gumbel": Gumbel(rescale=False, maxvisit_init=5.0)},
        {"gumbel": Gumbel()},
    ],
)
def test_every_option_of_the_improved_policy_changes_it(change):
    options = {"rule": "improved", "gumbel": Gumbel(rescale=False)}
    before = policy_targets(FOREST, **options)
    after = policy_targets(FOREST, **(options | change))
    assert np.abs(before.weight - after.weight).max() > 1e-3


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="rule must be visits or improved, not 'best'"):
        policy_targets(FOREST, rule="best")


def test_sibling_pairs_by_hand():
    # Values below the root .6, .2, .5, below node 1: 1, 0. Gaps 1, .4, .3; not .1.
    found = sibling_pairs(FOREST, margin=0.25)
    assert found.tree.tolist() == [0, 0, 0]
    assert found.prefix.tolist() == [1, 0, 0]
    assert found.chosen.tolist() == [3, 1, 6]
    assert found.rejected.tolist() == [4, 2, 2]
    np.testing.assert_allclose(found.gap, [1, 0.4, 0.3], rtol=1e-6)
    two = sibling_pairs(FOREST, margin=0.25, max_pairs=2)
    assert two.chosen.tolist() == [3, 1]
    # Nodes 4 and 6 have one visit.
    enough = sibling_pairs(FOREST, margin=0.25, min_visits=2)
    assert (enough.chosen.tolist(), enough.rejected.tolist()) == ([1], [2])
    for empty in (sibling_pairs(NOTHING, margin=0.1), answer_pairs(NOTHING, margin=1)):
        assert [column.shape for column in empty] == [(0,)] * 5


def test_two_draws_of_one_step_are_no_pair():
    tokens = FOREST.store.tokens.copy()
    tokens[0, 6, :1], length = 3, FOREST.store.length.copy()
    length[0, 6], tokens[0, 6, 1:] = 1, 0
    store = FOREST.store._replace(tokens=tokens, length=length)
    found = sibling_pairs(FOREST.replace(store=store), margin=0.25)
    assert (found.chosen.tolist(), found.rejected.tolist()) == ([3, 1], [4, 2])


def test_answer_pairs_share_what_they_share():
    # Answers 3, 5, 4 of tree 0 are worth 1, .25, 0; 3 and 4 both go through node 1.
    found = answer_pairs(FOREST, margin=0.5)
    assert found.prefix.tolist() == [1, 0]
    assert found.chosen.tolist() == [3, 3]
    assert found.rejected.tolist() == [4, 5]
    assert found.gap.tolist() == [1, 0.75]
    text = pair_texts(FOREST, found)
    assert text.prefix.tolist() == [[1, 2], [0, 0]]
    assert text.prefix_length.tolist() == [2, 0]
    assert text.chosen.tolist() == [[4, 5, 6, 0, 0], [1, 2, 4, 5, 6]]
    assert text.chosen_length.tolist() == [3, 5]
    assert text.rejected.tolist() == [[7, 0, 0], [3, 8, 9]]
    assert text.rejected_length.tolist() == [1, 3]


def test_answers_found_right_and_wrong_by_a_grader():
    right = np.zeros((3, 7))
    right[0, 5] = 1
    found = answer_pairs(FOREST, margin=1, score=right)
    assert found.chosen.tolist() == [5, 5]
    assert found.rejected.tolist() == [3, 4]
    with pytest.raises(ValueError, match=r"score is \(3, 6\), the nodes are \(3, 7\)"):
        answer_pairs(FOREST, margin=1, score=right[:, 1:])
    with pytest.raises(ValueError, match="margin must be above 0, not 0"):
        answer_pairs(FOREST, margin=0)


def test_few_pairs_of_equal_gap_use_many_answers():
    # Eight answers below the root, the first four right: 16 pairs, of which 4 are kept.
    parent = np.array([[-1] + [0] * 8])
    store = StepText(
        tokens=np.arange(9)[None, :, None],
        logprob=np.zeros((1, 9, 1)),
        length=np.ones((1, 9), int),
        finished=np.arange(9)[None] > 0,
    )
    numbers = np.ones((1, 9))
    nodes = replace(
        NOTHING,
        parent=parent,
        visits=numbers,
        value=numbers,
        raw_value=(np.arange(9)[None] <= 4) * 1.0,
        used=np.array([9]),
        store=store,
    )
    found = answer_pairs(nodes, margin=1, max_pairs=4)
    assert sorted(found.chosen) == [1, 2, 3, 4]
    assert sorted(found.rejected) == [5, 6, 7, 8]
    assert len(answer_pairs(nodes, margin=1, max_pairs=100).gap) == 16

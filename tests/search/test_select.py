"""Rules on one node worked by hand, widening, noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.search.gumbel import (
    Gumbel,
    halving_schedule,
    halving_table,
    improved_policy,
    siblings,
    sigma_completed,
)
from o1jax.search.mcts import Mcts
from o1jax.search.select import (
    Node,
    Puct,
    Ucb,
    Widening,
    admitted,
    puct_score,
    ucb_score,
    with_noise,
)
from o1jax.search.tree import (
    DISCOUNT,
    PENDING,
    VALUE,
    VISITS,
    Edges,
    log_normalised,
    unvisited,
)

NODE = Node(jnp.array([6.0]), jnp.array([0.5]), jnp.array([0.2]))


def edges(prior, visits, value):
    packed = unvisited(jnp.log(jnp.array([prior])))
    packed = packed.at[..., VISITS].set(jnp.array([visits]))
    packed = packed.at[..., VALUE].set(jnp.array([value]))
    return Edges(packed.at[..., DISCOUNT].set(1.0))  # so that q = value


@pytest.mark.parametrize("base", [19652, 2])
def test_puct_by_hand(base):
    # N=6, V=.5. q: .8 and .3 visited, so lowest .3, highest .8; child 2 gets q = 0.
    # prior term: sqrt(6) * (1.25 + log((6 + base + 1) / base)) * p / (n + 1).
    weight = math.sqrt(6) * (1.25 + math.log((6 + base + 1) / base))
    expected = [1 + weight * 0.5 / 4, 0 + weight * 0.2 / 3, 0 + weight * 0.3 / 1]
    children = edges([0.5, 0.2, 0.3], [3.0, 2.0, 0.0], [0.8, 0.3, 0.0])
    np.testing.assert_allclose(
        puct_score(NODE, children, Puct(pb_c_base=base), 0.0)[0], expected, rtol=1e-5
    )


def test_ucb_by_hand_and_unvisited_children_first():
    seen = edges([0.5, 0.5], [3.0, 2.0], [0.8, 0.3])
    bonus = [2 * math.sqrt(math.log(6) / n) for n in (3, 2)]
    np.testing.assert_allclose(
        ucb_score(NODE, seen, Ucb(exploration=2.0), 0.0)[0],
        [0.8 + bonus[0], 0.3 + bonus[1]],
        rtol=1e-5,
    )
    some = edges([0.5, 0.1, 0.4], [6.0, 0.0, 0.0], [99.0, 0.0, 0.0])
    assert jnp.argmax(ucb_score(NODE, some, Ucb(), 0.0)) == 2


def test_a_prior_without_a_valid_child_stays_empty():
    prior = log_normalised(jnp.array([[0.0, math.log(3)], [-jnp.inf, -jnp.inf]]))
    np.testing.assert_allclose(jnp.exp(prior), [[0.25, 0.75], [0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    "visits, admits", [(1, [0]), (2, [0, 2]), (4, [0, 2]), (5, [0, 2, 3])]
)
def test_widening_admits_valid_children_in_their_order(visits, admits):
    # ceil(sqrt(n)) children: 1, 2, 2, 3 of them. Child 1 is invalid: it takes no place.
    children = edges([0.4, 0.0, 0.1, 0.2, 0.3], [0.0] * 5, [0.0] * 5)
    node = NODE._replace(visits=jnp.array([float(visits)]))
    found = admitted(node, children, Widening(first=1.0, power=0.5))
    assert np.flatnonzero(found.valid[0]).tolist() == admits
    np.testing.assert_allclose(jnp.sum(jnp.exp(found.logprior)), 1.0, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 3.0])
def test_noise_is_a_distribution_over_the_valid_children(alpha):
    children = edges([0.7, 0.0, 0.3], [0.0] * 3, [0.0] * 3)
    config = Puct(dirichlet_fraction=0.25, dirichlet_alpha=alpha)
    noisy = jax.vmap(lambda key: with_noise(key, children, config).logprior[0])(
        jax.random.split(jax.random.key(0), 4000)
    )
    prior = np.exp(noisy)
    np.testing.assert_allclose(prior.sum(-1), 1.0, rtol=1e-5)
    assert (prior[:, 1] == 0).all()
    # Dirichlet(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    np.testing.assert_allclose(prior[:, 0].mean(), 0.75 * 0.7 + 0.25 * 0.5, atol=0.01)
    spread = 0.25 * math.sqrt(1 / (4 * (2 * alpha + 1)))
    np.testing.assert_allclose(prior[:, 0].std(), spread, rtol=0.05)


def test_gumbel_scores_by_hand():
    # Child 2 has no visit. p of the visited .5, .2; mean q (.5 .8 + .2 .3) / .7;
    # mixed with the network's value .2 by N = 5: (.2 + 5 mean) / 6.
    mixed = (0.2 + 5 * (0.5 * 0.8 + 0.2 * 0.3) / 0.7) / 6
    children = edges([0.5, 0.2, 0.3], [3.0, 2.0, 0.0], [0.8, 0.3, 0.0])
    completed = np.array([0.8, 0.3, mixed])
    for config, expected in [
        (Gumbel(), (50 + 3) * 0.1 * (completed - 0.3) / 0.5),
        (Gumbel(value_scale=1.0), (50 + 3) * 1.0 * (completed - 0.3) / 0.5),
        (Gumbel(maxvisit_init=7.0), (7 + 3) * 0.1 * (completed - 0.3) / 0.5),
        (Gumbel(rescale=False), (50 + 3) * 0.1 * completed),
    ]:
        sigma = sigma_completed(NODE, children, siblings(children), config)
        np.testing.assert_allclose(sigma[0], expected, rtol=1e-5, atol=1e-6)
        improved = np.array([0.5, 0.2, 0.3]) * np.exp(expected)
        np.testing.assert_allclose(
            improved_policy(NODE, children, config)[0],
            improved / improved.sum(),
            rtol=1e-4,
        )


def test_sums_over_siblings_by_hand():
    children = edges([0.5, 0.2, 0.3], [3.0, 2.0, 0.0], [0.8, 0.3, 9.0])
    packed = children.packed.at[..., PENDING].set(jnp.array([1.0, 0.0, 4.0]))
    found = [x.item() for x in siblings(Edges(packed))]
    expected = [10, 5, 0, 3, 0.5 + 0.2, 0.5 * 0.8 + 0.2 * 0.3, 0.3, 0.8]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Without a visit there is no Q: what is mixed in must be both extremes.
    alone = siblings(edges([0.5, 0.5], [0.0, 0.0], [7.0, 8.0]))
    assert (alone.low.item(), alone.high.item()) == (math.inf, -math.inf)


def test_a_mixed_value_beyond_the_visited_is_an_extreme():
    # Mixed: (-10 + 2 * .5) / 3 = -3 at the two that have no visit; the visited has .5.
    children = edges([0.5, 0.3, 0.2], [2.0, 0.0, 0.0], [0.5, 0.0, 0.0])
    node = NODE._replace(raw_value=jnp.array([-10.0]))
    sigma = sigma_completed(node, children, siblings(children), Gumbel())
    np.testing.assert_allclose(sigma[0], [(50 + 2) * 0.1, 0, 0], atol=1e-5)


def test_halving_gives_each_round_the_same_share():
    # 4 children, 8 simulations: 2 rounds; 8 // (2 * 4) = 1 visit each, then 2 of the
    # better two: they have 1 visit, then 2.
    assert halving_schedule(4, 8) == [0, 0, 0, 0, 1, 1, 2, 2]
    assert halving_schedule(1, 3) == [0, 1, 2]
    assert halving_table(4, 8).shape == (5, 8)


@pytest.mark.parametrize(
    "make, culprit",
    [
        (lambda: Mcts(simulations=0), "simulations"),
        (lambda: Mcts(simulations=10, leaves=4), "multiple of leaves"),
        (lambda: Mcts(rule="best"), "rule must be one of puct, ucb, gumbel"),
        (lambda: Mcts(max_depth=-1), "max_depth"),
        (lambda: Mcts(nodes=1), "nodes"),
        (lambda: Mcts(virtual_loss=-1.0), "virtual_loss"),
        (lambda: Mcts(rule="gumbel", widening=Widening(1.0)), "widening"),
        (lambda: Widening(first=0.5), "first"),
        (lambda: Widening(first=1.0, power=2.0), "power"),
        (lambda: Puct(pb_c_base=0.0), "pb_c_base"),
        (lambda: Puct(pb_c_init=-1.0), "pb_c_init"),
        (lambda: Puct(dirichlet_fraction=1.5), "dirichlet_fraction"),
        (lambda: Ucb(exploration=-1.0), "exploration"),
        (lambda: Gumbel(considered=0), "considered"),
        (lambda: Gumbel(scale=-1.0), "scale"),
    ],
)
def test_a_bad_config_names_the_field(make, culprit):
    with pytest.raises(ValueError, match=culprit):
        make()

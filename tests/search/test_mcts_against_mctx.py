"""Root visits and chosen actions equal those of mctx on every tree.

mctx breaks ties with noise of 1e-7; scores so near to each other do not occur here.
"""

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from toys import random_game, root_of, search

from o1jax.search.mcts import Mcts

# simulations, children, trees, max_depth (0: none), invalid children at the root
PUCT = [(8, 2, 3, 3, False), (128, 16, 32, 4, True), (512, 4, 16, 0, True)]
GUMBEL = [(33, 16, 32, 3, True), (512, 4, 5, 0, False)]


def both(game, key, simulations, trees, max_depth, invalid, rule, policy, **options):
    """Our result and that of an mctx policy on the same roots."""
    children = game.prior.shape[1]
    state = jnp.arange(trees)
    valid = np.ones((trees, children), bool)
    if invalid:
        valid = np.random.default_rng(1).random((trees, children)) < 0.6
        valid[np.arange(trees), np.arange(trees) % children] = True
        valid[0] = np.arange(children) == 1  # one child only
    config = Mcts(simulations=simulations, rule=rule, max_depth=max_depth)
    ours = search(game, key, state, config, jnp.asarray(valid))

    def recurrent_fn(game, key, action, state):
        state = game.child[state, action]
        found = game(state)
        output = mctx.RecurrentFnOutput(
            reward=found.reward,
            discount=found.discount,
            prior_logits=found.prior,
            value=found.value,
        )
        return output, state

    def peer(game, key, state):
        found = root_of(game, state)
        root = mctx.RootFnOutput(
            prior_logits=found.prior, value=found.value, embedding=state
        )
        return policy(
            game,
            key,
            root,
            recurrent_fn,
            simulations,
            invalid_actions=jnp.asarray(~valid, jnp.float32),
            max_depth=max_depth or None,
            **options,
        )

    return ours, jax.jit(peer)(game, key, state)


@pytest.mark.parametrize("simulations, children, trees, max_depth, invalid", PUCT)
def test_puct_visits_equal_muzero(
    any_rank, simulations, children, trees, max_depth, invalid
):
    ours, theirs = both(
        random_game(children),
        jax.random.key(0),
        *(simulations, trees, max_depth, invalid),
        *("puct", mctx.muzero_policy),
        dirichlet_fraction=0.0,
    )
    summary = theirs.search_tree.summary()
    np.testing.assert_array_equal(ours.tree.child_visits[:, 0], summary.visit_counts)
    np.testing.assert_allclose(ours.weights, theirs.action_weights, rtol=1e-6)
    np.testing.assert_allclose(ours.value, summary.value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("simulations, children, trees, max_depth, invalid", GUMBEL)
def test_gumbel_actions_equal_gumbel_muzero(
    any_rank, simulations, children, trees, max_depth, invalid
):
    ours, theirs = both(
        random_game(children),
        jax.random.key(5),
        *(simulations, trees, max_depth, invalid),
        *("gumbel", mctx.gumbel_muzero_policy),
    )
    summary = theirs.search_tree.summary()
    np.testing.assert_array_equal(ours.best, theirs.action)
    np.testing.assert_array_equal(ours.tree.child_visits[:, 0], summary.visit_counts)
    np.testing.assert_allclose(ours.weights, theirs.action_weights, atol=1e-5)

"""Search against sampling at equal cost, on countdown with a player of random moves.

64 problems of four numbers, each searched with four keys; 96 moves a problem: 32 random
plays of three moves, a beam that draws 32 moves a level, or a tree of 96 nodes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from countdown_plays import expand_fn, plays, roots

from o1jax.search.frontier import Frontier, beam, best_of_n, dvts, frontier
from o1jax.search.mcts import Mcts, mcts
from o1jax.search.nodes import nodes_of
from o1jax.search.retry import Retry, retry
from o1jax.statistics import paired_bootstrap
from o1jax.tasks.countdown import Countdown

PROBLEMS, KEYS, CHILDREN, BUDGET = 64, 4, 32, 96
# Large targets: a random play reaches one in thirty.
GAME = plays(Countdown(numbers=4, min_target=51, max_target=100), PROBLEMS)
METHODS = {
    "best of 32": best_of_n(32, depth=3),
    "beam": beam(1, 32, depth=3),
    "dvts": dvts(2, 16, depth=3),
    # Finished states are visited again for nothing; the pool is the budget.
    "mcts": Mcts(simulations=8 * BUDGET, nodes=BUDGET + 1, max_depth=3),
    "retry": Retry(attempts=32, backtracks=8, depth=3, budget=BUDGET),
}
SEARCHES = {frontier: Frontier, mcts: Mcts, retry: Retry}


@functools.cache
def program(method):
    """(game, key) -> (whether each problem was solved, what it cost)."""
    config = METHODS[method]
    search = next(fn for fn, kind in SEARCHES.items() if isinstance(config, kind))

    def run(game, key):
        problem = jnp.tile(jnp.arange(PROBLEMS, dtype=jnp.int32), KEYS)
        root, page = roots(game, problem, key, CHILDREN)
        result = search(game, key, root, page, expand_fn(CHILDREN), config)
        if search is mcts:  # it answers with the finished state the guide likes most
            nodes, cost = nodes_of(result.tree), result.tree.used - 1.0
            worth = jnp.where(nodes.finished, result.tree.reward, -jnp.inf)
            best = jnp.argmax(worth, axis=-1)
        else:
            nodes, cost, best = result.nodes, result.nodes.cost, result.best
        row = jnp.arange(len(best))
        answer = nodes.store["state"][row, best]
        return nodes.finished[row, best] * game.exact[answer], cost

    # Run so often that optimised machine code pays.
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 3})


def solved(method, guide=None, seed=0):
    """f64[KEYS, PROBLEMS]; `guide` in place of the exact value."""
    game = GAME if guide is None else GAME._replace(guide=jnp.asarray(guide))
    right, cost = program(method)(game, jax.random.key(seed))
    assert (cost <= BUDGET).all()
    return np.asarray(right, float).reshape(KEYS, PROBLEMS)


def test_all_problems_are_solvable_and_hard():
    assert (GAME.exact[:PROBLEMS] == 1).all()
    # A random play by the chain rule: p(s) = mean over moves of p(s'), exactly.
    chance, moves = np.array(GAME.exact, float), np.asarray(GAME.moves)
    child = np.asarray(GAME.child)
    for state in reversed(range(len(moves))):  # what comes of a state is below it
        if moves[state]:
            chance[state] = chance[child[state, : moves[state]]].mean()
    assert 0.02 < chance[:PROBLEMS].mean() < 0.05
    # Sampling does what it should: 1 - (1 - p)^32, within three standard errors.
    expected = 1 - (1 - chance[:PROBLEMS]) ** 32
    error = np.sqrt((expected * (1 - expected)).sum() / KEYS) / PROBLEMS
    assert abs(solved("best of 32").mean() - expected.mean()) < 3 * error


@pytest.mark.parametrize("method", ["beam", "dvts", "mcts"])
def test_with_the_exact_value_search_solves_what_sampling_does_not(method):
    baseline, search = solved("best of 32"), solved(method)
    assert baseline.mean() < 0.5 and search.mean() >= 0.95
    assert paired_bootstrap(search, baseline).lo > 0.4


def test_a_worse_guide_is_worse_smoothly():
    # The noise belongs to the state: who looks twice sees the same.
    noise = np.random.default_rng(0).normal(size=len(GAME.exact))
    for method in ("beam", "mcts"):
        right = [
            solved(method, GAME.exact + sigma * noise).mean()
            for sigma in (0.0, 0.125, 0.25, 0.5, 1.0, 4.0)
        ]
        assert (np.diff(right) <= 0.02).all() and (np.diff(right) > -0.45).all()
        assert right[2] > 0.7 and right[-1] < 0.1


def test_with_a_guide_that_knows_nothing_no_search_beats_sampling():
    blind = np.full(len(GAME.exact), 0.5)
    many = lambda method, first: np.concatenate(
        [solved(method, blind, seed) for seed in range(first, first + 4)]
    )
    baseline = many("best of 32", 0)
    for i, method in enumerate(METHODS):
        if method != "best of 32":
            # A tree spreads over first moves, for none is better, and finishes nothing.
            assert paired_bootstrap(many(method, 4 * i), baseline).lo <= 0

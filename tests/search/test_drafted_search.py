"""Searches whose steps a draft proposes: the policy's own trees, and what they cost."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_toys import (
    FAST,
    KEYS,
    MCTS,
    PARAMS,
    POLICY,
    PROMPT_TEXTS,
    PROMPTS,
    STEP_END,
    STEPS,
    STOP,
    check_against_reading_anew,
    close,
    nodes_in,
    run,
    step_of,
)
from tiny import tiny

from o1jax.rollout.decode import Draft
from o1jax.rollout.drafted import StepDraft
from o1jax.rollout.sampling import SamplingConfig
from o1jax.search.mcts import grow
from o1jax.search.pages import spent
from o1jax.search.problems import move
from o1jax.search.steps import Steps, StepSearch

# A policy of another shape, and the first of the policy's own two layers.
OTHER = tiny(layers=1, width=24, heads=2, kv_heads=1)[1:]
DRAFTS = {
    "own": (StepDraft(OTHER[0], 2), (PARAMS, OTHER[1])),
    "layers": (StepDraft(tiny(layers=1)[1], 2, layers=1), PARAMS),
}
GREEDY = replace(STEPS, first="top", sampling=SamplingConfig(temperature=0.0))
drafts = pytest.mark.parametrize("name", DRAFTS)


def searcher(name, steps):
    return StepSearch(POLICY, steps, (STEP_END,), (STOP,), draft=DRAFTS[name][0])


@cache
def found(name, steps=STEPS):
    search = partial(searcher(name, steps).search, config=MCTS)
    program = jax.jit(search, compiler_options=FAST)
    return jax.tree.map(np.asarray, program(DRAFTS[name][1], KEYS, PROMPTS))


@drafts
def test_without_chance_it_is_the_tree_of_the_policy_alone(name):
    alone, tree = run(steps=GREEDY).tree, found(name, GREEDY).tree
    np.testing.assert_array_equal(tree.used, alone.used)
    for b, node, _ in nodes_in(alone):
        assert step_of(tree, b, node) == step_of(alone, b, node)
        for field in ("value", "process", "entropy", "logprob"):
            held = getattr(tree.store, field), getattr(alone.store, field)
            close(*(rows[b, node] for rows in held))
    np.testing.assert_array_equal(tree.cost, alone.cost)
    assert alone.store.length.max() == 4 and alone.store.finished.any()


@drafts
def test_pages_equal_reading_every_node_anew(name):
    tree = found(name).tree
    assert (tree.used > 6).all() and tree.store.finished.any()
    check_against_reading_anew(tree, PROMPT_TEXTS)


@drafts
def test_pages_equal_reading_anew_behind_moves(name):
    search, params = searcher(name, STEPS), DRAFTS[name][1]
    prefixes, tree = list(PROMPT_TEXTS), found(name).tree

    def taken(tree):
        """The most visited child that goes on, so that no tree ends."""
        return np.argmax(
            np.where(tree.edges.discount > 0, tree.child_visits, -1)[:, 0], axis=-1
        )

    @partial(jax.jit, compiler_options=FAST)
    def on(params, tree, action):
        problems, _, _ = search.start(search.unstack(params), KEYS, PROMPTS)
        problems, tree = move(problems, tree, action)
        problems, tree = move(problems, tree, jnp.zeros(3, jnp.int32))
        expand_fn = search.expand_fn(problems)
        return tree.used, grow(params, KEYS[0], tree, expand_fn, MCTS).tree

    action = taken(tree)
    for b, child in enumerate(tree.child[np.arange(3), 0, action]):
        prefixes[b] = prefixes[b] + step_of(tree, b, child)
    kept, tree = jax.tree.map(np.asarray, on(params, tree, action))
    assert (tree.used > kept).all()
    check_against_reading_anew(tree, prefixes)


def test_what_was_proposed_in_vain_is_counted():
    """A round reads three tokens, of which at least one is kept."""
    result = found("own")
    said = spent(result.tree)
    assert (said.generated_tokens == result.tree.cost).all()
    read = said.generated_tokens + said.reread_tokens
    assert (read % 3 == 0).all() and (said.reread_tokens > 0).all()
    assert (read <= 3 * said.generated_tokens).all()
    assert (spent(run().tree).reread_tokens == 0).all()


def test_a_draft_that_is_longer_than_a_step_is_refused():
    for steps, most in ((dict(tokens=4), 4), (dict(level="token"), 1)):
        with pytest.raises(ValueError, match=f"a step has at most {most}$"):
            Steps(draft=Draft(tokens=4, layers=1), **steps)

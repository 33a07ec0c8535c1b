"""Steps of one token and of whole attempts, and what every switch of Steps changes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import mctx
import numpy as np
from text_toys import (
    DEPTH,
    FAST,
    KEYS,
    LENGTH,
    MCTS,
    PARAMS,
    POLICY,
    PROMPT_TEXTS,
    PROMPTS,
    STEP_END,
    STEPS,
    STOP,
    K,
    S,
    check_against_reading_anew,
    close,
    nodes_in,
    run,
    searcher,
    step_of,
)

from o1jax.rollout.sampling import SamplingConfig, sampling_logprobs
from o1jax.search.tree import plant

TOKENS = replace(STEPS, level="token", first="top")


def test_token_level_is_plain_puct_over_the_likeliest_tokens(any_rank):
    # mctx reads the whole text anew at every simulation.
    config = replace(MCTS, simulations=40, leaves=1, max_depth=5)
    ours = run(steps=TOKENS, config=config)
    room = PROMPTS.tokens.shape[1] + 6

    def look(params, text, length):
        """(log-probs and ids of the K likeliest tokens, value) behind each text."""
        output = POLICY.forward(params, text)
        row = jnp.arange(3)
        logprobs = sampling_logprobs(output.logits[row, length], TOKENS.sampling)
        return *jax.lax.top_k(logprobs, K), output.value[row, length]

    def recurrent_fn(params, key, action, state):
        text, length, top, value = state
        token = top[jnp.arange(3), action]
        text = text.at[jnp.arange(3), length].set(token, mode="drop")
        # mctx goes on below a finished state; what it finds there counts for nothing.
        length, before = jnp.minimum(length + 1, room - 1), value
        prior, top, value = look(params, text, length)
        stop = token == STOP
        found = mctx.RecurrentFnOutput(
            reward=jnp.where(stop, before, 0.0),
            discount=jnp.where(stop, 0.0, 1.0),
            prior_logits=prior,
            value=jnp.where(stop, before, value),
        )
        return found, (text, length, top, value)

    @partial(jax.jit, compiler_options=FAST)
    def peer(params):
        text = jnp.zeros((3, room), jnp.int32).at[:, :5].set(PROMPTS.tokens)
        text = jnp.where(jnp.arange(room) < LENGTH[:, None], text, 0)
        prior, top, value = look(params, text, LENGTH)
        root = mctx.RootFnOutput(
            prior_logits=prior, value=value, embedding=(text, LENGTH, top, value)
        )
        return mctx.muzero_policy(
            params,
            jax.random.key(0),
            root,
            recurrent_fn,
            config.simulations,
            max_depth=config.max_depth,
            dirichlet_fraction=0.0,
        )

    summary = peer(PARAMS).search_tree.summary()
    np.testing.assert_array_equal(ours.tree.child_visits[:, 0], summary.visit_counts)
    close(ours.value, summary.value)
    # The walks branched, and some ended.
    assert (ours.tree.child_visits[:, 0] > 1).sum() >= 6
    assert ours.tree.store.finished.any()
    assert ours.tree.store.tokens.shape[-1] == 1
    check_against_reading_anew(ours.tree, PROMPT_TEXTS)


def test_equal_draws_of_single_tokens_are_one_child_from_the_start():
    steps = replace(TOKENS, first="draw", children=8)
    tree, merged = run(steps=steps).tree, 0
    for b, node, _ in nodes_in(tree):
        drawn = tree.store.first.token[b, node].tolist()
        if not tree.store.finished[b, node]:
            expected = [
                drawn.count(token) / 8 if token not in drawn[:k] else 0
                for k, token in enumerate(drawn)
            ]
            close(np.exp(tree.edges.logprior[b, node]), expected)
            merged += expected.count(0)
    assert merged > 20
    assert tree.cost.tolist() == (tree.used - 1).tolist()


def test_the_likeliest_beginnings_weigh_what_the_policy_says():
    # Of three tokens that top-k leaves, children 3 and 4 do not exist.
    steps = replace(
        STEPS, first="top", children=5, sampling=SamplingConfig(top_k=3, top_p=0.99)
    )
    tree = run(steps=steps).tree
    check_against_reading_anew(tree, PROMPT_TEXTS, steps)
    for b, node, _ in nodes_in(tree):
        if not tree.store.finished[b, node]:
            prior = np.exp(tree.edges.logprior[b, node])
            mass = np.exp(tree.store.first.logprob[b, node])
            close(prior, mass / mass.sum())
            assert (prior[3:] == 0).all() and (np.diff(prior) <= 0).all()


def test_a_solution_is_followed_by_attempts_that_see_it():
    steps = replace(STEPS, level="solution", tokens=6, guide="likelihood")
    tree = run(steps=steps).tree
    check_against_reading_anew(tree, PROMPT_TEXTS, steps)
    raw_value, parent = tree.raw_value, tree.parent
    revised, inside = 0, []
    for b, node, path in nodes_in(tree):
        assert len(path) - 1 <= DEPTH
        if not node:
            continue
        own, up = step_of(tree, b, node), parent[b, node]
        assert STOP not in own[:-1]
        inside += own[:-1]
        assert tree.store.finished[b, node] == (own[-1] == STOP)
        revised += up > 0 and tree.store.finished[b, up]
        # The guide judges the attempt alone, and the search goes on behind it.
        mean = tree.store.logprob[b, node].sum() / len(own)
        close(raw_value[b, node], np.exp(mean))
        edge = tree.edges.packed[b, up, tree.action[b, node]]
        assert edge[5:7].tolist() == [0, 1]  # no reward, discount 1
    assert revised >= 5 and STEP_END in inside


def test_a_budget_of_tokens():
    result = run(config=replace(MCTS, budget=11.0))
    assert result.counts.stopped.all()
    # Two leaves of four tokens may be drawn beyond ten.
    assert (result.tree.cost >= 11).all() and (result.tree.cost < 11 + 2 * S).all()
    # Twice a budget may be searched for, and the tree is the one that was.
    free = run()
    for b in range(3):
        used = result.tree.used[b]
        np.testing.assert_array_equal(
            result.tree.store.tokens[b, :used], free.tree.store.tokens[b, :used]
        )
    assert (free.tree.cost > result.tree.cost).any()


def first_level(steps):
    """What is drawn and judged at the root and one step below."""

    @partial(jax.jit, compiler_options=FAST)
    def draw(params):
        search = searcher(steps)
        problems, root, page = search.start(params, KEYS, PROMPTS)
        store = plant(root, page, nodes=2).store
        action = jnp.tile(jnp.arange(steps.children), (3, 1))
        path = jnp.zeros((*action.shape, 1), jnp.int32)
        return root, search.expand_fn(problems)(params, KEYS[0], store, path, action)

    return b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(draw(PARAMS)))


# Each one compiles; the other levels and guides are told apart in tests above.
CHANGES = {
    "children": dict(children=2),
    "tokens": dict(tokens=3),
    "level": dict(level="token"),
    "first": dict(first="top"),
    "guide": dict(guide="likelihood"),
    "discount": dict(discount=0.5),
    "sampling": dict(sampling=SamplingConfig(temperature=0.5, top_k=10)),
}


def test_every_switch_of_the_config_changes_the_result():
    seen = {}
    for name, change in {"as it is": {}, **CHANGES}.items():
        mark = first_level(replace(STEPS, **change))
        assert mark not in seen, f"{name} gives what {seen.get(mark)} gives"
        seen[mark] = name

"""Search over text: what pages hold is what reading every node's text anew gives."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from text_toys import (
    DEPTH,
    FAST,
    KEYS,
    LENGTH,
    MCTS,
    NODES,
    PARAMS,
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
    text_of,
)
from toys import depths

from o1jax.rollout.ends import StepEnds
from o1jax.rollout.sampling import SamplingConfig
from o1jax.search.mcts import grow
from o1jax.search.nodes import nodes_of
from o1jax.search.pages import GUIDES, spent
from o1jax.search.problems import move
from o1jax.search.steps import Steps, StepSearch
from o1jax.search.tree import Edges, plant
from o1jax.types import Guidance, NodeState


def test_pages_equal_reading_every_node_anew():
    tree = run().tree
    assert (tree.used > 6).all() and depths(tree.parent).max() == DEPTH
    assert tree.store.finished.any()  # or values in front of stop tokens are untested
    check_against_reading_anew(tree, PROMPT_TEXTS)
    raw_value = tree.raw_value
    for b, node, _ in nodes_in(tree):
        close(raw_value[b, node], tree.store.value[b, node])


def test_after_moves_pages_still_equal_reading_anew():
    search = searcher()

    @partial(jax.jit, compiler_options=FAST)
    def start(params):
        return search.start(params, KEYS, PROMPTS)[0]

    @partial(jax.jit, compiler_options=FAST)
    def go_on(params, problems, tree):
        return grow(params, KEYS[0], tree, search.expand_fn(problems), MCTS)

    problems = start(PARAMS)
    on = jax.jit(move, compiler_options=FAST)
    tree, prefixes = jax.tree.map(jnp.asarray, run().tree), list(PROMPT_TEXTS)
    for _ in range(2):
        prefixes = [prefixes[b] + step_of(tree, b, 0) for b in range(3)]
        # The most visited child that goes on, so that no tree ends.
        visits = jnp.where(tree.edges.discount > 0, tree.child_visits, -1)[:, 0]
        problems, tree = on(problems, tree, jnp.argmax(visits, axis=-1))
        assert tree.live.all() and (tree.store.length[:, 0] > 0).all()
        assert problems.length.tolist() == [len(prefix) for prefix in prefixes]
    # Two steps were taken: one lies behind the prompt, one is the root's page.
    assert (problems.length > LENGTH).all()
    kept, result = tree.used, go_on(PARAMS, problems, tree)
    assert (result.tree.used > kept).all()
    check_against_reading_anew(jax.tree.map(np.asarray, result.tree), prefixes)


def test_steps_end_where_they_should():
    tree, reasons = run().tree, set()
    for b, node, _ in nodes_in(tree):
        if not node:
            continue
        *inside, end = step_of(tree, b, node)
        assert STEP_END not in inside and STOP not in inside
        assert end in (STEP_END, STOP) or len(inside) == S - 1
        assert tree.store.finished[b, node] == (end == STOP)
        reasons.add(end if end in (STEP_END, STOP) else "long")
    assert reasons == {STEP_END, STOP, "long"}


def test_steps_may_end_where_an_automaton_says():
    """Two tokens below 5 in a row, whatever the tokens: what no set of ids can say."""
    low = (np.arange(12) < 5).astype(np.int8)
    ends = StepEnds(np.stack([low, 2 * low, np.full(12, 2, np.int8)]))
    search = replace(searcher(), ends=ends).search
    program = jax.jit(partial(search, config=MCTS), compiler_options=FAST)
    tree = program(PARAMS, KEYS, PROMPTS).tree
    reasons = set()
    for b, node, path in nodes_in(tree):
        if len(path) == 1:
            continue
        step = step_of(tree, b, node)
        pairs = [max(pair) < 5 for pair in pairwise(step)]
        assert not any(pairs[:-1]) and STOP not in step[:-1]
        ended = "pair" if any(pairs) else "stop" if step[-1] == STOP else "long"
        assert ended != "long" or len(step) == S
        reasons.add(ended)
    assert reasons == {"pair", "stop", "long"}


def test_a_finished_answer_is_paid_once_and_nothing_follows_it():
    tree = run().tree
    ends = [(b, n) for b, n, _ in nodes_in(tree) if tree.store.finished[b, n]]
    assert ends
    parent, action = tree.parent, tree.action
    for b, n in ends:
        edge = Edges(tree.edges.packed[b, parent[b, n], action[b, n]])
        assert edge.discount == 0
        close(edge.qvalue, tree.store.value[b, n])  # of any number of visits
        assert (tree.child[b, n] == -1).all() and not tree.edges.valid[b, n].any()


def test_a_problem_knows_nothing_of_its_neighbours():
    base = run()
    tokens = PROMPTS.tokens.at[1].set((PROMPTS.tokens[1] + 1) % 10)
    other = run(prompts=PROMPTS.replace(tokens=tokens))
    for a, b in zip(jax.tree.leaves(base.tree), jax.tree.leaves(other.tree)):
        np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]])
    assert (base.tree.store.tokens[1] != other.tree.store.tokens[1]).any()
    # And what lies behind the prompt's end is not read.
    behind = jnp.arange(5)[None] >= LENGTH[:, None]
    junk = run(prompts=PROMPTS.replace(tokens=jnp.where(behind, 7, PROMPTS.tokens)))
    jax.tree.map(np.testing.assert_array_equal, base.tree, junk.tree)


def test_samples_are_those_of_the_key_in_any_batch():
    base = run()
    order = jnp.array([2, 0, 2])
    pick = lambda x: x[order]
    other = run(prompts=jax.tree.map(pick, PROMPTS), keys=KEYS[order])
    for a, b in zip(jax.tree.leaves(base.tree), jax.tree.leaves(other.tree)):
        if a.dtype == np.float32:
            close(a[order], b)
        else:
            np.testing.assert_array_equal(a[order], b)
    close(base.value[order], other.value)
    jax.tree.map(np.testing.assert_array_equal, base, run())
    used = [base.tree.store.key[b, node].tolist() for b, node, _ in nodes_in(base.tree)]
    assert len({tuple(key) for key in used}) == len(used)  # siblings draw differently
    fresh = run(keys=KEYS[::-1]).tree.store
    assert (fresh.first.token[0, 0] != base.tree.store.first.token[0, 0]).any()


def test_a_row_of_padding_costs_nothing():
    prompts = PROMPTS.replace(prompt_id=jnp.array([4, -1, 5]))
    result = run(prompts=prompts)
    assert result.tree.used[1] == 1 and result.tree.cost[1] == 0
    assert result.counts.simulations.tolist() == [NODES - 1, 0, NODES - 1]


def forks(params, state):
    """Shorter paths are better, so that all walks stay near the root."""
    return Guidance(-jnp.sum(state.length, axis=-1).astype(jnp.float32))


def test_equal_siblings_are_one_child():
    # 2 tokens to a step, 6 draws at temperature .3: draws meet.
    steps = Steps(
        children=6, tokens=2, sampling=SamplingConfig(temperature=0.3, top_k=3)
    )
    result = run(steps=steps, config=replace(MCTS, simulations=24), guide=forks)
    tree, merged = result.tree, 0
    drawn = np.zeros(3)
    for b, node, _ in nodes_in(tree):
        below = [n for n in tree.child[b, node] if n >= 0]
        texts = [tuple(step_of(tree, b, n)) for n in below]
        assert len(set(texts)) == len(texts)
        prior = np.exp(tree.edges.logprior[b, node])
        # Of six draws, each distinct step weighs as many sixths as met in it so far.
        if prior.any():
            close(prior.sum(), 1)
            close(prior * 6, np.round(prior * 6))
            merged += int((prior == 0).sum())
        drawn[b] += sum(map(len, texts))
    assert merged >= 3
    account = spent(result.tree)
    assert account.generated_tokens.tolist() == tree.cost.tolist()
    assert (tree.cost >= drawn).all() and tree.cost.sum() > drawn.sum()  # twins' too


def test_a_policy_that_is_sure_does_not_branch():
    greedy = replace(STEPS, sampling=SamplingConfig(temperature=0.0))
    tree = run(steps=greedy).tree
    assert (np.sum(tree.child >= 0, axis=-1) <= 1).all()
    np.testing.assert_allclose(tree.edges.logprior[:, 0], [[0, -np.inf, -np.inf]] * 3)
    # Nobody was drawn to find out.
    store = tree.store
    assert tree.cost.tolist() == np.sum(store.length, axis=-1).tolist()


def test_a_page_is_one_step_of_keys_and_values():
    store = run().tree.store
    layers, kv_heads, head_width = 2, 2, 4
    kept = sum(x.nbytes for x in jax.tree.leaves((store.k, store.v)))
    assert kept == 3 * NODES * 2 * layers * kv_heads * S * head_width * 4
    # The rest: tokens and log-probs of the step, two keys, K first tokens with their
    # log-probs, six numbers and a bool.
    rest = sum(x.nbytes for x in jax.tree.leaves(store)) - kept
    assert rest == 3 * NODES * (8 * S + 2 * 8 + 8 * K + 4 * 6 + 1)


def likes_threes(params, state):
    """Share of 3 among the path's tokens; a model that reads the step and one more."""
    inside = jnp.arange(S)[None, None, None] < state.length[..., None]
    threes = jnp.sum(inside & (state.tokens == 3), axis=(-2, -1))
    total = jnp.maximum(jnp.sum(state.length, axis=-1), 1)
    known = 10.0 * state.prompt_id[:, None]
    return Guidance(known + threes / total, state.length[..., -1] + 1)


def test_a_guide_sees_problem_and_path_and_every_token_is_counted():
    result = run(guide=likes_threes)
    tree = result.tree
    raw_value, generated, read = tree.raw_value, np.zeros(3), np.zeros(3)
    for b, node, path in nodes_in(tree):
        text, own = text_of(tree, b, path), len(step_of(tree, b, node))
        close(raw_value[b, node], 10 * b + text.count(3) / max(len(text), 1))
        generated[b] += own
        read[b] += own + 1
    for account in (spent(tree), spent(nodes_of(tree))):
        # A twin is drawn and judged too, and is in no page; judging it reads a token
        # more than it has.
        drawn = account.generated_tokens - generated
        twins = account.reward_tokens - read - drawn
        assert ((twins > 0) == (drawn > 0)).all() and twins.max() > 0
        assert (twins + tree.used - 1 <= result.counts.simulations).all()
        assert account.reread_tokens.tolist() == [0, 0, 0]
    assert result.counts.rows.tolist() == (tree.used - 1).tolist()


def test_a_node_is_the_same_whatever_search_finds_it():
    """Draws hang on the actions that lead to a node, not on when it was reached."""
    mine = run().tree
    other = run(guide=likes_threes).tree
    texts = [{}, {}]
    for found, tree in zip(texts, (mine, other)):
        action = np.asarray(tree.action)
        for b, _, path in nodes_in(tree):
            actions = tuple(action[b, path].tolist())
            found[b, actions] = text_of(tree, b, path)
    both = texts[0].keys() & texts[1].keys()
    assert len(both) > 9 and texts[0].keys() != texts[1].keys()
    assert all(texts[0][key] == texts[1][key] for key in both)


def test_internal_guides():
    S = 2
    tokens, logprob = np.zeros((2, 1, 1, 2, S))
    logprob[0, 0, 0, 0] = np.log(0.5)
    logprob[0, 0, 1] = np.log(0.25), np.log(0.5)
    seen = NodeState(
        prompt_id=np.zeros(1),
        tokens=tokens,
        logprob=logprob,
        length=np.array([[[1, 2]]]),
        entropy=np.array([[[np.log(8), 2 * np.log(8)]]]),
        finished=None,
        value=np.array([[0.3]]),
        process=np.zeros((1, 1)),
    )
    answer = {name: float(g(None, seen).value[0, 0]) for name, g in GUIDES.items()}
    # (1/2 * 1/4 * 1/2) ** (1/3) = 16 ** (-1/3); three tokens, each one of eight.
    close(answer["likelihood"], 16 ** (-1 / 3))
    close(answer["certainty"], 1 / 8)
    assert answer["process"] == answer["constant"] == 0.5
    close(answer["value"], 0.3)


def test_roots_may_be_asked_for_further_draws():
    search, further = searcher(), jnp.tile(jnp.arange(9), (3, 1))

    @partial(jax.jit, compiler_options=FAST)
    def draw(params, action):
        problems, root, page = search.start(params, KEYS, PROMPTS)
        tree = plant(root, page, nodes=2)
        path = jnp.zeros((*action.shape, 1), jnp.int32)
        expand_fn = search.expand_fn(problems)
        return expand_fn(params, KEYS[0], tree.store, path, action)

    found, page = jax.tree.map(np.asarray, draw(PARAMS, further))
    # Each is a draw of its own, the same alone as among others, also below K.
    alone, own = draw(PARAMS, further.at[:, 1:7].set(-1))
    for action in (0, 7, 8):
        np.testing.assert_array_equal(page.tokens[:, action], own.tokens[:, action])
        close(page.logprob[:, action], own.logprob[:, action])
    assert (found.cost > 0).all() and (alone.cost[:, 1:7] == 0).all()
    tree = run().tree
    for b, node, path in nodes_in(tree):
        if len(path) == 2:
            np.testing.assert_array_equal(
                tree.store.tokens[b, node], page.tokens[b, tree.action[b, node]]
            )
    # Twins name the first of the equal draws.
    for b in range(3):
        steps = [tuple(page.tokens[b, m, : page.length[b, m]]) for m in range(9)]
        first = [steps.index(step) for step in steps]
        expected = [f if f < m else -1 for m, f in enumerate(first)]
        assert found.twin[b].tolist() == expected
    assert len(set(page.tokens[0, :, 0].tolist())) > 2


def test_nonsense_is_refused():
    for name in ("children", "tokens"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            Steps(**{name: 0})
    with pytest.raises(ValueError, match="guide must be one of value, process"):
        Steps(guide="oracle")
    with pytest.raises(ValueError, match="level must be one of step, token, solution"):
        Steps(level="word")
    with pytest.raises(ValueError, match="first must be one of draw, top"):
        Steps(first="best")
    with pytest.raises(ValueError, match="ends must be one of line, blank, numbered"):
        Steps(ends="word")
    with pytest.raises(ValueError, match="discount must be in"):
        Steps(discount=0.0)
    with pytest.raises(ValueError, match="stop_ids is empty"):
        StepSearch(None, STEPS, (STEP_END,), ())
    many = searcher(Steps(children=13, first="top"))
    with pytest.raises(ValueError, match=r"children \(13\) is above .* size \(12\)"):
        jax.eval_shape(many.start, PARAMS, KEYS, PROMPTS)


def test_on_a_mesh_each_shard_searches_its_own_trees():
    mesh = jax.make_mesh((3,), ("data",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("data")
    search = searcher()

    def shard(params, keys, prompts):
        result = search.search(params, keys, prompts, MCTS)
        return result.tree.store.tokens, result.tree.child_visits

    program = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(PartitionSpec(), rows, rows),
        out_specs=rows,
        check_vma=False,
    )
    program = jax.jit(program, compiler_options=FAST)
    compiled = program.lower(PARAMS, KEYS, PROMPTS).compile()
    text = compiled.as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in text
    tokens, visits = compiled(PARAMS, KEYS, PROMPTS)
    whole = run().tree
    np.testing.assert_array_equal(tokens, whole.store.tokens)
    np.testing.assert_array_equal(visits, whole.child_visits)

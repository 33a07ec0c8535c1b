"""Search over text: what pages hold is what reading every node's text anew gives."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from toys import depths

from o1jax.policy.policy import PolicyConfig, build_policy
from o1jax.rollout.branch import Candidates, draw_counts
from o1jax.rollout.sampling import SamplingConfig, sampling_logprobs
from o1jax.search.mcts import Mcts, grow
from o1jax.search.pages import GUIDES, Guidance, NodeState, spent
from o1jax.search.steps import Steps, StepSearch, move
from o1jax.search.tree import Edges
from o1jax.types import Prompts

STEP_END, STOP = 10, 11
LAYERS, KV_HEADS, HEAD_WIDTH, VOCAB = 2, 2, 4, 12
CONFIG = PolicyConfig(
    vocab=VOCAB, width=16, layers=LAYERS, heads=4, kv_heads=KV_HEADS, ff=24
)
CONFIG = replace(CONFIG, dtype="float32")
K, S, NODES, DEPTH = 3, 4, 13, 4
STEPS = Steps(children=K, tokens=S, sampling=SamplingConfig(temperature=0.8, top_k=10))
MCTS = Mcts(simulations=NODES - 1, leaves=2, max_depth=DEPTH)
LENGTH = jnp.array([2, 5, 1])
PROMPTS = Prompts(
    tokens=jnp.asarray(np.random.default_rng(1).integers(0, 10, (3, 5)), jnp.int32),
    length=LENGTH,
    prompt_id=jnp.arange(3),
)
PROMPT_TEXTS = [PROMPTS.tokens[b, : LENGTH[b]].tolist() for b in range(3)]
KEYS = jax.random.split(jax.random.key(3), 3)
# Unoptimised machine code compiles in half the time.
FAST = {"xla_backend_optimization_level": 0}


@cache
def tiny():
    """(policy, params): heads and norms are random, so a mistake in them is seen."""
    policy = build_policy(CONFIG)
    rng = np.random.default_rng(7)

    def fill(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(center, 0.3, leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    return policy, jax.tree_util.tree_map_with_path(fill, shapes)


@cache
def program(steps=STEPS, config=MCTS, guide=None):
    """(params, keys, prompts) -> SearchResult, jitted as one program."""
    searcher = StepSearch(tiny()[0], steps, (STEP_END,), (STOP,), guide)
    search = partial(searcher.search, config=config)
    return jax.jit(search, compiler_options=FAST)


def run(*, prompts=PROMPTS, keys=KEYS, **options):
    return jax.tree.map(np.asarray, program(**options)(tiny()[1], keys, prompts))


def nodes_of(tree):
    """(problem, node, nodes from the root down to it) of all nodes in use."""
    parent = np.asarray(tree.parent)
    for b in range(len(parent)):
        for node in range(int(tree.used[b])):
            path = [node]
            while parent[b, path[0]] >= 0:
                path.insert(0, int(parent[b, path[0]]))
            yield b, node, path


def text_of(tree, b, path):
    """The steps on a path: a list of tokens."""
    text = []
    for node in path:
        length = tree.store.length[b, node]
        text += tree.store.tokens[b, node, :length].tolist()
    return text


def read_anew(texts):
    """policy.forward of each text, with one more token so that all is read out."""
    policy, params = tiny()
    rows = np.zeros((len(texts), 1 + max(map(len, texts))), np.int32)
    for row, text in zip(rows, texts):
        row[: len(text)] = text
    forward = jax.jit(policy.forward, compiler_options=FAST)
    return jax.tree.map(np.asarray, forward(params, jnp.asarray(rows)))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5)


def check_against_reading_anew(tree, prefixes):
    """Every number on the pages; prefixes: the text in front of each root's page."""
    nodes, texts = list(nodes_of(tree)), []
    drawn, raw_value = tree.store.next, tree.raw_value
    for b, node, path in nodes:
        for k in range(K):
            more = drawn.tokens[b, node, k, : drawn.length[b, node, k]].tolist()
            texts.append(prefixes[b] + text_of(tree, b, path) + more)
    anew = read_anew(texts)
    logprobs = np.asarray(sampling_logprobs(anew.logits, STEPS.sampling))
    for i, (b, node, path) in enumerate(nodes):
        end = len(prefixes[b] + text_of(tree, b, path))
        at = end - int(tree.store.finished[b, node])  # in front of a stop token
        close(tree.store.value[b, node], anew.value[i * K, at])
        close(raw_value[b, node], anew.value[i * K, at])
        close(tree.store.process[b, node], anew.process[i * K, end - 1])
        for k in range(K):
            row, length = i * K + k, drawn.length[b, node, k]
            t = np.arange(end, end + length)
            fresh = logprobs[row, t, texts[row][end:]]
            close(drawn.logprob[b, node, k, :length], fresh)
            assert (drawn.logprob[b, node, k, length:] == 0).all()


def test_pages_equal_reading_every_node_anew():
    tree = run().tree
    parent, action, drawn = tree.parent, tree.action, tree.store.next
    assert (tree.used > 8).all() and depths(parent).max() == DEPTH
    # Or the value in front of a stop token, the deepest pages ... were not tested.
    assert tree.store.finished.any()
    check_against_reading_anew(tree, PROMPT_TEXTS)
    for b, node, _ in nodes_of(tree):
        for mine, all_ in (
            (tree.store.tokens, drawn.tokens),
            (tree.store.logprob, drawn.logprob),
            (tree.store.length, drawn.length),
        ):
            if node:
                up = all_[b, parent[b, node], action[b, node]]
                np.testing.assert_array_equal(mine[b, node], up)


def test_after_moves_pages_still_equal_reading_anew():
    policy, params = tiny()
    searcher = StepSearch(policy, STEPS, (STEP_END,), (STOP,))

    @partial(jax.jit, compiler_options=FAST)
    def start(params):
        return searcher.start(params, KEYS, PROMPTS)[0]

    @partial(jax.jit, compiler_options=FAST)
    def search(params, problems, tree):
        expand_fn = searcher.expand_fn(problems)
        return grow(params, jax.random.key(0), tree, expand_fn, MCTS)

    problems = start(params)
    on = jax.jit(move, compiler_options=FAST)
    tree, prefixes = jax.tree.map(jnp.asarray, run().tree), list(PROMPT_TEXTS)
    for _ in range(2):
        for b in range(3):
            length = int(tree.store.length[b, 0])
            prefixes[b] = prefixes[b] + tree.store.tokens[b, 0, :length].tolist()
        # The most visited child that goes on, so that no tree ends.
        visits = jnp.where(tree.edges.discount > 0, tree.child_visits, -1)[:, 0]
        problems, tree = on(problems, tree, jnp.argmax(visits, axis=-1))
        assert tree.live.all() and (tree.store.length[:, 0] > 0).all()
        assert problems.length.tolist() == [len(prefix) for prefix in prefixes]
    # Two steps were taken: one lies behind the prompt, one is the root's page.
    assert (problems.length > LENGTH).all()
    kept, result = tree.used, search(params, problems, tree)
    assert (result.tree.used > kept).all()
    check_against_reading_anew(jax.tree.map(np.asarray, result.tree), prefixes)


def test_steps_end_where_they_should():
    tree = run().tree
    deep, drawn = depths(tree.parent), tree.store.next
    reasons = set()
    for b, node, _ in nodes_of(tree):
        last = deep[b, node] == DEPTH or tree.store.finished[b, node]
        assert (drawn.length[b, node] == 0).all() == last
        for k in range(K):
            length = drawn.length[b, node, k]
            if not length:
                assert tree.edges.logprior[b, node, k] == -np.inf
                continue
            *inside, end = drawn.tokens[b, node, k, :length]
            assert STEP_END not in inside and STOP not in inside
            assert end in (STEP_END, STOP) or length == S
            reasons.add(int(end) if end in (STEP_END, STOP) else "long")
    assert reasons == {STEP_END, STOP, "long"}


def test_a_finished_answer_is_paid_once_and_nothing_follows_it():
    tree = run().tree
    ends = [(b, n) for b, n, _ in nodes_of(tree) if tree.store.finished[b, n]]
    assert ends
    parent, action = tree.parent, tree.action
    for b, n in ends:
        edge = Edges(tree.edges.packed[b, parent[b, n], action[b, n]])
        assert edge.discount == 0
        close(edge.qvalue, tree.store.value[b, n])  # of any number of visits
        assert (tree.child[b, n] == -1).all()


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
    order = jnp.array([2, 0])
    pick = lambda x: x[order]
    few = run(prompts=jax.tree.map(pick, PROMPTS), keys=KEYS[order])
    for name in ("tokens", "length", "next"):
        for a, b in zip(
            jax.tree.leaves(getattr(base.tree.store, name)),
            jax.tree.leaves(getattr(few.tree.store, name)),
        ):
            if a.dtype == np.int32:
                np.testing.assert_array_equal(a[order], b)
            else:
                close(a[order], b)
    np.testing.assert_array_equal(base.tree.child_visits[order], few.tree.child_visits)
    close(base.value[order], few.value)
    jax.tree.map(np.testing.assert_array_equal, base, run())
    used = [base.tree.store.key[b, node].tolist() for b, node, _ in nodes_of(base.tree)]
    assert len({tuple(key) for key in used}) == len(used)  # siblings draw differently
    fresh = run(keys=KEYS[::-1])
    assert (fresh.tree.store.next.tokens[0] != base.tree.store.next.tokens[0]).any()


def test_a_row_of_padding_costs_nothing():
    prompts = PROMPTS.replace(prompt_id=jnp.array([4, -1, 5]))
    result = run(prompts=prompts)
    assert result.tree.used.tolist()[1] == 1
    assert spent(result.tree).generated_tokens[1] == 0
    assert result.counts.simulations.tolist() == [NODES - 1, 0, NODES - 1]


def test_a_full_pool_ends_the_search():
    result = run(config=replace(MCTS, nodes=5, leaves=1))
    assert result.counts.exhausted.all() and (result.tree.used == 5).all()
    assert (result.counts.rows == 4).all()
    assert (result.counts.simulations < MCTS.simulations).all()
    reread = [0, 0, 0]
    for b, node, _ in nodes_of(result.tree):
        reread[b] += result.tree.store.length[b, node]
    assert spent(result.tree).reread_tokens.tolist() == reread


def test_equal_draws_are_one_child_by_hand():
    drawn = Candidates(
        tokens=jnp.array([[1, 2], [1, 0], [1, 2], [1, 0], [1, 2], [0, 0]]),
        logprob=jnp.zeros((6, 2)),
        length=jnp.array([2, 1, 2, 2, 2, 0]),  # [1] is not [1, 0]
    )
    assert draw_counts(drawn).tolist() == [3, 1, 0, 1, 0, 0]


def test_siblings_are_distinct_and_weigh_what_they_were_drawn():
    # Steps of one token: 8 draws of 12 tokens meet.
    steps = replace(STEPS, tokens=1, children=8)
    tree = run(steps=steps).tree
    merged = 0
    for b, node, _ in nodes_of(tree):
        drawn = tree.store.next.tokens[b, node, :, 0].tolist()
        if tree.store.next.length[b, node, 0] == 0:
            continue
        prior = np.exp(tree.edges.logprior[b, node])
        expected = [
            drawn.count(token) / 8 if token not in drawn[:k] else 0
            for k, token in enumerate(drawn)
        ]
        close(prior, expected)
        merged += expected.count(0)
    assert merged > 20


def test_a_policy_that_is_sure_does_not_branch():
    greedy = replace(STEPS, sampling=SamplingConfig(temperature=0.0))
    tree = run(steps=greedy).tree
    assert (np.sum(tree.child >= 0, axis=-1) <= 1).all()
    np.testing.assert_allclose(tree.edges.logprior[:, 0], [[0, -np.inf, -np.inf]] * 3)


def test_a_page_is_one_step_of_keys_and_values():
    store = run().tree.store
    kept = sum(x.nbytes for x in jax.tree.leaves((store.k, store.v)))
    one_step = 2 * LAYERS * KV_HEADS * S * HEAD_WIDTH * 4
    assert kept == 3 * NODES * one_step
    # The rest: tokens and log-probs of the step and of the K drawn, and a few numbers.
    rest = sum(x.nbytes for x in jax.tree.leaves(store)) - kept
    assert rest == 3 * NODES * ((1 + K) * (8 * S + 4) + 1 + 4 + 4 + 4 + 8)


def likes_threes(params, state):
    """Share of 3 among the path's tokens; a model that reads the step and one more."""
    S = state.tokens.shape[-1]
    inside = jnp.arange(S)[None, None, None] < state.length[..., None]
    threes = jnp.sum(inside & (state.tokens == 3), axis=(-2, -1))
    total = jnp.maximum(jnp.sum(state.length, axis=-1), 1)
    return Guidance(threes / total, state.length[..., -1] + 1)


def test_a_guide_sees_the_path_and_every_token_is_counted():
    result = run(guide=likes_threes)
    tree, drawn = result.tree, result.tree.store.next
    raw_value = tree.raw_value
    generated, reread, read = np.zeros((3, 3), int)
    for b, node, path in nodes_of(tree):
        text = text_of(tree, b, path)
        close(raw_value[b, node], text.count(3) / max(len(text), 1))
        own = tree.store.length[b, node] if node else 0
        reread[b] += own
        read[b] += own + 1
        if (own and text[-1] == STOP) or len(path) - 1 == DEPTH:
            continue  # nothing was drawn
        for step in drawn.tokens[b, node].tolist():
            ends = [i + 1 for i, t in enumerate(step) if t in (STEP_END, STOP)]
            generated[b] += min([*ends, S])
    account = spent(tree)
    assert account.generated_tokens.tolist() == generated.tolist()
    assert account.reread_tokens.tolist() == reread.tolist()
    assert account.reward_tokens.tolist() == read.tolist()
    assert result.counts.rows.tolist() == (tree.used - 1).tolist()


def test_internal_guides():
    store = run().tree.store
    tokens, logprob = np.zeros((2, 1, 1, 2, S))
    state = dict(
        tokens=tokens, logprob=logprob, length=np.array([[[1, 3]]]), finished=None
    )
    state["logprob"][0, 0, 0, 0] = np.log(0.5)
    state["logprob"][0, 0, 1, :3] = np.log(0.25), np.log(0.5), np.log(1.0)
    seen = NodeState(**state, value=store.value[:1, :1], process=np.zeros((1, 1)))
    answer = {name: float(g(None, seen).value[0, 0]) for name, g in GUIDES.items()}
    # (1/2 * 1/4 * 1/2 * 1) ** (1/4) = 1/2
    close(answer["likelihood"], 0.5)
    assert answer["process"] == answer["constant"] == 0.5
    assert answer["value"] == store.value[0, 0]


def test_switches():
    # Children, tokens and sampling are changed by the tests above.
    steps = replace(STEPS, prior="logprob", guide="likelihood", discount=0.5)
    tree = run(steps=steps).tree
    raw_value, edges, action, parent = (
        tree.raw_value,
        tree.edges,
        tree.action,
        tree.parent,
    )
    for b, node, path in nodes_of(tree):
        logprob = np.sum(tree.store.logprob[b, path])
        tokens = max(np.sum(tree.store.length[b, path]), 1)
        close(raw_value[b, node], np.exp(logprob / tokens))
        valid = edges.valid[b, node]
        mass = np.exp(tree.store.next.logprob[b, node].sum(-1)) * valid
        if valid.any():
            close(np.exp(edges.logprior[b, node]), mass / mass.sum())
        if node:
            discount = edges.discount[b, parent[b, node], action[b, node]]
            assert discount == (0 if tree.store.finished[b, node] else 0.5)
    # At the roots, where all steps are drawn alike, the prior of draws is another.
    base = run().tree.edges
    assert (jnp.abs(base.logprior[:, 0, 0] - edges.logprior[:, 0, 0]) > 0.01).all()


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="children must be at least 1"):
        Steps(children=0)
    with pytest.raises(ValueError, match="guide must be one of value, process"):
        Steps(guide="oracle")
    with pytest.raises(ValueError, match="prior must be one of draws, logprob"):
        Steps(prior="even")
    with pytest.raises(ValueError, match="stop_ids is empty"):
        StepSearch(tiny()[0], STEPS, (STEP_END,), ())


def test_on_a_mesh_each_shard_searches_its_own_trees():
    mesh = jax.make_mesh((3,), ("data",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("data")
    searcher = StepSearch(tiny()[0], STEPS, (STEP_END,), (STOP,))

    def shard(params, keys, prompts):
        result = searcher.search(params, keys, prompts, MCTS)
        return result.tree.store.tokens, result.tree.child_visits

    search = jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=(PartitionSpec(), rows, rows),
        out_specs=rows,
        check_vma=False,
    )
    search = jax.jit(search, compiler_options=FAST)
    compiled = search.lower(tiny()[1], KEYS, PROMPTS).compile()
    text = compiled.as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in text
    tokens, visits = compiled(tiny()[1], KEYS, PROMPTS)
    whole = run().tree
    np.testing.assert_array_equal(tokens, whole.store.tokens)
    np.testing.assert_array_equal(visits, whole.child_visits)

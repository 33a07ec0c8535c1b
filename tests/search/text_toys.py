"""A tiny policy to search with, and what reading whole texts anew says of its nodes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from tiny import tiny

from o1jax.rollout.sampling import SamplingConfig, sampling_logprobs
from o1jax.search.mcts import Mcts
from o1jax.search.steps import Steps, StepSearch
from o1jax.types import Prompts

STEP_END, STOP = 10, 11
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
_, POLICY, PARAMS = tiny(cache_chunk=64)


def searcher(steps=STEPS, guide=None):
    return StepSearch(POLICY, steps, (STEP_END,), (STOP,), guide)


@cache
def program(steps=STEPS, config=MCTS, guide=None):
    """(params, keys, prompts) -> SearchResult, jitted as one program."""
    search = partial(searcher(steps, guide).search, config=config)
    return jax.jit(search, compiler_options=FAST)


def run(*, prompts=PROMPTS, keys=KEYS, **options):
    return jax.tree.map(np.asarray, program(**options)(PARAMS, keys, prompts))


def nodes_in(tree):
    """(problem, node, nodes from the root down to it) of all nodes in use."""
    parent = np.asarray(tree.parent)
    for b in range(len(parent)):
        for node in range(int(tree.used[b])):
            path = [node]
            while parent[b, path[0]] >= 0:
                path.insert(0, int(parent[b, path[0]]))
            yield b, node, path


def step_of(tree, b, node):
    return tree.store.tokens[b, node, : tree.store.length[b, node]].tolist()


def text_of(tree, b, path):
    """The steps on a path: a list of tokens."""
    return [token for node in path for token in step_of(tree, b, node)]


def read_anew(texts):
    """policy.forward of each text, with one more token so that all is read out."""
    rows = np.zeros((len(texts), 1 + max(map(len, texts))), np.int32)
    for row, text in zip(rows, texts):
        row[: len(text)] = text
    forward = jax.jit(POLICY.forward, compiler_options=FAST)
    return jax.tree.map(np.asarray, forward(PARAMS, jnp.asarray(rows)))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5)


def check_against_reading_anew(tree, prefixes, steps=STEPS):
    """Every number on the pages; prefixes: the text in front of each root's page."""
    nodes, store = list(nodes_in(tree)), tree.store
    texts = [prefixes[b] + text_of(tree, b, path) for b, _, path in nodes]
    anew = read_anew(texts)
    logprobs = np.asarray(sampling_logprobs(anew.logits, steps.sampling))
    plogp = (np.exp(logprobs) * np.maximum(logprobs, -1e9)).sum(-1)
    for i, (b, node, _) in enumerate(nodes):
        end, length = len(texts[i]), store.length[b, node]
        inside = np.arange(end - length, end)
        close(
            store.logprob[b, node, :length],
            logprobs[i, inside, texts[i][end - length :]],
        )
        close(store.entropy[b, node], -plogp[i, inside].sum())
        # In front of a stop token.
        close(store.value[b, node], anew.value[i, end - int(store.finished[b, node])])
        close(store.process[b, node], anew.process[i, end - 1])
        for name in ("tokens", "logprob"):
            assert (getattr(store, name)[b, node, length:] == 0).all()
        # The first tokens of what may follow, drawn from the last token's reading.
        first = store.first
        close(first.logprob[b, node], logprobs[i, end, first.token[b, node]])
        close(first.entropy[b, node], -plogp[i, end])
        for child in tree.child[b, node]:
            if child >= 0:
                action = tree.action[b, child]
                assert store.tokens[b, child, 0] == first.token[b, node, action]
                assert store.action[b, child] == action

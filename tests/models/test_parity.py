"""Every family computes what transformers computes, from the files that it saved.

The cases in golden/ were written by golden.py; O1JAX_GOLDEN names another such folder
(`make parity`). The windows are shorter than the rows.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from o1jax.models.mapping import pieces
from o1jax.models.source import open_source
from o1jax.policy.context import Context
from o1jax.policy.policy import build_policy

FOLDER = Path(os.environ.get("O1JAX_GOLDEN", Path(__file__).parent / "golden"))
PROMPT, NEW = 9, 64
HELD, MORE = 11, (4, 3)  # tokens of a context, and of what is read behind it


def model(name):
    """(policy, params f32) of a case."""
    source = open_source(FOLDER / name)
    leaves = {}
    for piece in pieces(source.policy):
        arrays = [source.tensors[t].read().astype(np.float32) for t, _ in piece.tensors]
        leaves.setdefault(piece.leaf, []).append(piece.join(arrays))
    params = {
        leaf: np.stack(of) if leaf.startswith("layers/") else of[0]
        for leaf, of in leaves.items()
    }
    for head in ("value", "process"):
        params |= {f"{head}/kernel": np.zeros((16, 1), np.float32)}
        params |= {f"{head}/bias": np.zeros(1, np.float32)}
    config = replace(source.policy, cache_chunk=128)  # in one piece: fewer programs
    return build_policy(config), unflatten_dict(params, sep="/")


def read_all_ways(policy, params, rows, prompt):
    """Logits of whole rows; a greedy text by cache, with its logits; and in places."""
    whole = policy.forward(params, rows).logits
    output, cache = policy.start(
        params, prompt, jnp.array([PROMPT]), capacity=PROMPT + NEW
    )

    def step(carry, _):
        logits, cache = carry
        token = jnp.argmax(logits, axis=-1)
        output, cache = policy.step(params, cache, token)
        return (output.logits, cache), (token[0], logits[0])

    _, (text, logits) = jax.lax.scan(step, (output.logits, cache), None, length=NEW)
    return whole, text, logits


def close(ours, theirs):
    """Within 1e-4 of the largest logit, everywhere."""
    error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert error < 1e-4, error


@pytest.mark.parametrize("name", sorted(p.name for p in FOLDER.iterdir() if p.is_dir()))
def test_a_family_computes_what_transformers_computes(name):
    policy, params = model(name)
    case = np.load(FOLDER / name / "expected.npz")
    greedy = case["greedy"]
    rows = np.zeros((3, PROMPT + NEW), np.int32)
    rows[:2, : case["tokens"].shape[1]] = case["tokens"]
    rows[2] = greedy
    read = jax.jit(partial(read_all_ways, policy))
    whole, text, logits = read(params, rows, greedy[None, :PROMPT])
    for row, length in enumerate(case["length"]):
        # Theirs at t is about token t + 1; ours is about token t.
        close(whole[row, 1 : length + 1], case["logits"][row, :length])
    assert text.tolist() == greedy[PROMPT:].tolist()
    close(logits, np.asarray(whole[2, PROMPT:]))


def placed(policy, params, row):
    """Logits behind tokens that were read in three goes, of HELD and of MORE tokens."""
    length = jnp.array([HELD])
    # Two slots of the context stay empty.
    _, cache = policy.start(params, row[:, : HELD + 2], length, capacity=HELD + 2)
    joined = lambda layers: tuple(jnp.concatenate(x, axis=2) for x in layers)
    mask = (jnp.arange(HELD + 2) < HELD)[None, None]
    contexts, begin, found = [Context(joined(cache.k), joined(cache.v), mask)], HELD, []
    for size in MORE:
        at = jnp.arange(size)[None]
        tokens = row[:, begin : begin + size]
        output, k, v = policy.extend(params, tokens, begin + at, contexts, at=at)
        contexts.append(Context(k, v, jnp.ones((1, 1, size), bool)))
        found.append(output.logits[0])
        begin += size
    return jnp.concatenate(found)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_search_reads_what_transformers_reads(name):
    policy, params = model(name)
    case = np.load(FOLDER / name / "expected.npz")
    behind = jax.jit(partial(placed, policy))(params, case["tokens"][:1])
    close(behind, case["logits"][0, HELD : HELD + sum(MORE)])

"""Walks that check themselves, held against walks that read their whole text anew."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny

from o1jax.rollout.reflect import Rules, reflect
from o1jax.rollout.sampling import SamplingConfig
from o1jax.types import Prompts

STEP_ENDS, STOP = (5, 6, 7, 10), 11
_, POLICY, PARAMS = tiny()
PROMPTS = Prompts(
    tokens=jnp.asarray(np.random.default_rng(3).integers(0, 10, (5, 4)), jnp.int32),
    length=jnp.array([2, 4, 1, 3, 1]),
    prompt_id=jnp.array([0, 1, 2, 3, -1]),
)
BASE = dict(
    ask=(3, 5), yes=1, no=2, accepted=(), step_ends=STEP_ENDS, stops=(STOP,),
    threshold=0.5, heed=True, attempts=0, back=False, draws=6, depth=3, tokens=5,
    sampling=SamplingConfig(temperature=0),
)  # fmt: skip
KEYS = jax.random.split(jax.random.key(0), (5, 2))


@cache
def reader():
    return jax.jit(POLICY.forward)


def behind(text):
    """Logits of the token behind a text."""
    row = np.zeros((1, 48), np.int32)
    row[0, : len(text)] = text
    return np.asarray(reader()(PARAMS, row).logits[0, len(text)])


def walk_anew(prompt, rules):
    """[(parent, tokens, belief or None)] of a greedy walk."""
    draws, path, tried = [], [], [[]]  # path: places in draws
    text = lambda: prompt + [t for n in path for t in [*draws[n][1], *rules.accepted]]
    while len(draws) < rules.draws:
        step = []
        while len(step) < rules.tokens:
            step.append(int(behind(text() + step).argmax()))
            if step[-1] in (*rules.step_ends, *rules.stops):
                break
        parent, here = (path[-1] if path else -1), len(draws)
        if step[-1] not in rules.step_ends or len(path) == rules.depth:
            return [*draws, (parent, step, None)]
        logits = behind(text() + step + list(rules.ask))
        belief = 1 / (1 + np.exp(logits[rules.no] - logits[rules.yes]))
        draws.append((parent, step, belief))
        if belief >= rules.threshold or not rules.heed:
            path, tried = [*path, here], [*tried, []]
            continue
        tried[-1].append(here)
        if not rules.back and len(tried[-1]) == rules.attempts:
            path, tried = [*path, tried[-1][0]], [*tried, []]
        while rules.back and len(tried[-1]) == rules.attempts:
            if not path:
                return draws
            tried.pop()
            tried[-1].append(path.pop())
    return draws


@cache
def program(rules):
    return jax.jit(partial(reflect, POLICY, rules=rules, rows=3))


def walks(rules, prompts=PROMPTS, keys=KEYS):
    return jax.tree.map(np.asarray, program(rules)(PARAMS, keys, prompts))


def rows_of(found, request):
    """The draws of a walk as walk_anew has them."""
    count = np.count_nonzero(found.length[request])
    assert not found.length[request, count:].any()
    return [
        (
            int(found.parent[request, n]),
            found.tokens[request, n, : found.length[request, n]].tolist(),
            found.belief[request, n],
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    "how",
    [
        dict(attempts=2, accepted=(6, 8)),
        dict(attempts=2, back=True, threshold=0.3),
    ],
)
def test_a_greedy_walk_reads_what_a_whole_text_says(how):
    rules = Rules(**BASE | how)
    found = walks(rules)
    depths = set()
    for request in range(8):
        prompt = PROMPTS.tokens[request // 2, : PROMPTS.length[request // 2]].tolist()
        expected, got = walk_anew(prompt, rules), rows_of(found, request)
        assert [x[:2] for x in got] == [x[:2] for x in expected]
        for n, (x, y) in enumerate(zip(got, expected)):
            if y[2] is not None:
                np.testing.assert_allclose(x[2], y[2], rtol=1e-4)
                assert found.closed[request, n]
        depths |= {x[0] for x in got}
    assert len(depths) > 2  # some walks are deep
    # The last prompt is none.
    assert not found.length[8:].any()


def test_a_walk_does_not_depend_on_its_place():
    """In another order, beside others: its key says what it is."""
    rules = Rules(**BASE | dict(sampling=SamplingConfig(), attempts=2, back=True))
    found = walks(rules)
    other = walks(rules, jax.tree.map(lambda x: x[::-1], PROMPTS), KEYS[::-1, ::-1])
    assert len({str(rows_of(found, r)) for r in range(8)}) == 8
    for name in ("tokens", "length", "parent", "closed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name)[::-1])
    np.testing.assert_allclose(found.belief, other.belief[::-1], rtol=1e-4)

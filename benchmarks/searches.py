"""What is searched, the same for every side: a trivial network, and the 1m policy.

The trivial network is a few integer hashes. A child's value is its parent's plus noise,
as values of real networks hang together, so the trees are deep.
"""

import worker  # isort: skip  (pins the process first)

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import ours_decode
import sizes

from o1jax.policy.policy import Policy
from o1jax.types import Params, Prompts

CHILDREN = 4  # of a node of the hashed network
DEPTH = 64  # mctx has no limit; that both agree shows that this one is not met
DISCOUNT = 0.95


def mix(x: jax.Array) -> jax.Array:
    """A hash of u32 to u32."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def uniform(x: jax.Array) -> jax.Array:
    """A hash of u32 to f32 in [0, 1)."""
    return (mix(x) >> 8).astype(jnp.float32) / 2**24


def step(state: tuple, action: jax.Array) -> tuple:
    """The next state (u32[...], f32[...]), logits of its children, value."""
    code, value = state
    code = mix(code * jnp.uint32(2654435761) + action.astype(jnp.uint32) + 1)
    child = jnp.stack([code + k for k in range(CHILDREN)], axis=-1)
    value = value + uniform(code + 77) - 0.5
    return (code, value), 2 * uniform(child), value


def roots(trees: int) -> tuple:
    """State, logits, value."""
    start = jnp.arange(trees, dtype=jnp.uint32), jnp.zeros(trees)
    return step(start, jnp.zeros(trees, jnp.int32))


def overhead_run(search: Callable, trees: int, simulations: int) -> worker.Run:
    """Runs search(key, roots) -> root visits, and notes a checksum of them."""
    key, start = jax.random.key(0), roots(trees)
    found: dict[str, int] = {"work": trees * simulations}

    def run() -> None:
        visits = np.asarray(search(key, start), np.int32)
        found["visits"] = zlib.crc32(visits.tobytes())

    run.note = lambda: found
    return run


def policy_and_prompts(text: sizes.Search) -> tuple[Policy, Params, Prompts]:
    """Random weights; the value head too, so that walks differ."""
    size = sizes.SIZES["1m"]
    policy = ours_decode.load(size)
    params = policy.init(jax.random.key(0))
    noise = lambda x: 0.1 * jax.random.normal(jax.random.key(3), x.shape)
    params = params | {"value": jax.tree.map(noise, params["value"])}
    prompts = Prompts(
        tokens=jax.random.randint(
            jax.random.key(1), (text.trees, text.prompt), 1, size.vocab
        ),
        length=jnp.full(text.trees, text.prompt),
        prompt_id=jnp.arange(text.trees),
    )
    return policy, params, prompts

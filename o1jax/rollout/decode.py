"""The sampler: prompts in, trajectories out, one XLA program.

A queue of Q requests flows through B decoding rows. When enough rows have finished,
the next requests are read into them inside the program (continuous refill), so the
rows stay busy although lengths have a long tail. Every request draws from its own key,
so what is sampled for it depends neither on the rows beside it nor on their number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from o1jax.config import configurable
from o1jax.parallel.mesh import ROWS
from o1jax.policy.policy import Policy
from o1jax.rollout.reading import prompt_reader
from o1jax.rollout.requests import Requests, empty_start, free_rows, unanswered
from o1jax.rollout.sampling import (
    SamplingConfig,
    draw,
    sampling_logprobs,
    token_logprob,
)
from o1jax.types import KVCache, Params, Prompts, Trajectory


@configurable
@dataclass(frozen=True)
class Draft:
    """Who proposes tokens for the policy to check: rollout/speculative.py."""

    tokens: int = 4  # proposed in a round
    layers: int = 0  # the first ones of the policy itself, with its head; or
    workdir: str = ""  # of a run with the same tokenizer: its newest policy

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError("tokens must be at least 1")
        if self.layers < 0:
            raise ValueError("layers must not be negative")
        if bool(self.layers) == bool(self.workdir):
            raise ValueError("either layers or workdir says who the draft is")


@configurable
@dataclass(frozen=True)
class SamplerConfig:
    """Shape of the sampling program."""

    rows: int = 128  # decoded at once; fewer if there are fewer requests
    max_new_tokens: int = 64
    refill_rows: int = 0  # read in together when so many are free; 0: rows / 16
    stop_ids: tuple[int, ...] = ()  # the tokenizer's end of text if empty
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    draft: Draft | None = field(default=None, metadata={"identity": "if set"})

    def __post_init__(self) -> None:
        for name in ("rows", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if not 0 <= self.refill_rows <= self.rows:
            raise ValueError("refill_rows must be between 0 and rows")


@flax.struct.dataclass(kw_only=True)
class DraftStats:
    """How a draft's proposals fared. Those behind the end of an answer don't count."""

    calls: jax.Array  # i32[]  rounds x rows that were somebody's
    tested: jax.Array  # i32[]  tokens up to the first of a round that failed
    accepted: jax.Array  # i32[]
    steps: jax.Array  # i32[]  decoding steps of the draft

    @property
    def acceptance(self) -> jax.Array:
        """Chance that a token passes, if those before it did."""
        return self.accepted / self.tested


@flax.struct.dataclass(kw_only=True)
class SampleStats:
    """What a call of the sampler computed."""

    steps: jax.Array  # i32[]  decoding steps; rounds, with a draft
    useful: jax.Array  # i32[]  tokens of responses
    computed: jax.Array  # i32[]  tokens that the policy read in them, of all rows
    prefill: jax.Array  # i32[]  prompt positions read, padding included
    draft: DraftStats | None = None

    @property
    def occupancy(self) -> jax.Array:
        """Part of the decoded rows that was somebody's token."""
        return self.useful / self.computed


Sampler = Callable[[Params, jax.Array, Prompts], tuple[Trajectory, SampleStats]]


def on_mesh(sampler: Sampler, mesh: Mesh, *, cut: bool = False) -> Sampler:
    """The sampler, jitted, with the queue shared out over the mesh's row shards.

    Each shard decodes its own requests: rows never talk to each other, and under plain
    jit the partitioner would gather the caches, since it cannot see that. Devices along
    the tensor axis do the same work, each with all parameters; `cut`: they share it, as
    the parameters are cut, and talk to each other for every token. Shards differ in
    their number of steps: no other axis may communicate inside the loop. Needs one key
    a request.
    """
    if math.prod(mesh.shape[axis] for axis in ROWS) == 1:
        return jax.jit(sampler)

    def local(
        params: Params, key: jax.Array, prompts: Prompts
    ) -> tuple[Trajectory, SampleStats]:
        trajectory, stats = sampler(params, key, prompts)
        return trajectory, jax.tree.map(lambda x: x[None], stats)

    rows = PartitionSpec(ROWS)
    shared = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), rows, rows),
        out_specs=rows,
        axis_names=set(ROWS) if cut else set(mesh.axis_names),
        check_vma=False,
    )

    def sample(
        params: Params, key: jax.Array, prompts: Prompts
    ) -> tuple[Trajectory, SampleStats]:
        trajectory, stats = shared(params, key, prompts)
        total = jax.tree.map(jnp.sum, stats)
        return trajectory, total.replace(steps=jnp.max(stats.steps))

    return jax.jit(sample)


class _Rows(NamedTuple):
    """What is being decoded."""

    request: jax.Array  # i32[B]  index into the queue; Q where the row is free
    logits: jax.Array  # f32[B, V]  of the next token
    value: jax.Array  # f32[B]
    cache: KVCache


class _Loop(NamedTuple):
    step: jax.Array
    waiting: jax.Array  # i32[]  first request that has no row yet
    prefill: jax.Array
    rows: _Rows
    requests: Requests


def build_sampler(
    policy: Policy, config: SamplerConfig, *, samples: int = 1
) -> Sampler:
    """A function (params, key, prompts) -> (Trajectory, SampleStats); jit it.

    `key` is one key, of which request q gets fold_in(key, q), or a key for each request
    [Q]. A request with prompt_id -1 is padding and is not answered. Of the queue each
    `samples` neighbours ask the same (or are padding): their prompt is read once.
    """
    sampling = config.sampling

    def sample(
        params: Params, key: jax.Array, prompts: Prompts
    ) -> tuple[Trajectory, SampleStats]:
        Q, P = prompts.tokens.shape
        chex.assert_shape([prompts.length, prompts.prompt_id], (Q,))
        B = min(config.rows, Q)
        R = config.refill_rows or max(1, B // 16)
        T = P + config.max_new_tokens
        arange = jnp.arange(Q)

        params = policy.unstack(params)
        keys = key if key.ndim else jax.vmap(partial(jax.random.fold_in, key))(arange)
        draw_row = partial(jax.random.uniform, shape=(config.max_new_tokens,))
        uniform = jax.vmap(draw_row)(keys)
        reader = prompt_reader(
            policy, params, prompts, samples=samples, rows=B, capacity=T
        )

        def read_in(loop: _Loop, count: int) -> _Loop:
            """Gives free rows, `count` at most, to the requests that wait."""
            rows, first = loop.rows, loop.waiting
            slots, queued = free_rows(rows.request, first, Q, count)
            at = jnp.minimum(queued, Q - 1)
            output, cache = reader.read(at)
            fill = lambda old, new: old.at[slots].set(new, mode="drop")
            cache = jax.tree.map(fill, rows.cache, cache)
            answered = prompts.prompt_id[at] >= 0
            request = fill(rows.request, jnp.where(answered, queued, Q))
            logits = fill(rows.logits, output.logits)
            value = fill(rows.value, output.value)
            return loop._replace(
                waiting=first + jnp.sum(queued < Q),
                prefill=loop.prefill + count * reader.each,
                rows=_Rows(request, logits, value, cache),
            )

        def emit(loop: _Loop) -> tuple[_Loop, jax.Array]:
            """Draws a token for every busy row and writes it down."""
            rows, requests = loop.rows, loop.requests
            busy = rows.request < Q
            at = jnp.minimum(rows.request, Q - 1)
            position = rows.cache.length
            logprobs = sampling_logprobs(rows.logits, sampling)
            drawn = uniform[at, position - prompts.length[at]]
            token = draw(drawn, logprobs, sampling)
            stopped = jnp.isin(token, jnp.array(config.stop_ids, jnp.int32))
            length = position + 1
            full = length - prompts.length[at] >= config.max_new_tokens
            put = lambda array, new: array.at[rows.request, position].set(
                new, mode="drop"
            )
            requests = Requests(
                tokens=put(requests.tokens, token),
                logprob=put(requests.logprob, token_logprob(logprobs, token)),
                value=put(requests.value, rows.value),
                length=requests.length.at[rows.request].set(length, mode="drop"),
                finished=requests.finished.at[rows.request].set(stopped, mode="drop"),
            )
            request = jnp.where(busy & ~stopped & ~full, rows.request, Q)
            return loop._replace(
                rows=rows._replace(request=request), requests=requests
            ), token

        def refillable(loop: _Loop) -> jax.Array:
            free = jnp.sum(loop.rows.request == Q)
            return (loop.waiting < Q) & (free >= R)

        def body(loop: _Loop) -> _Loop:
            if B < Q:
                loop = jax.lax.while_loop(refillable, lambda x: read_in(x, R), loop)
            loop, token = emit(loop)
            output, cache = policy.step(params, loop.rows.cache, token)
            rows = _Rows(loop.rows.request, output.logits, output.value, cache)
            return loop._replace(step=loop.step + 1, rows=rows)

        def unfinished(loop: _Loop) -> jax.Array:
            return jnp.any(loop.rows.request < Q) | (loop.waiting < Q)

        loop = read_in(_begin(policy, params, prompts, B, T), B)
        loop = jax.lax.while_loop(unfinished, body, loop)
        trajectory = loop.requests.trajectory(prompts)
        stats = SampleStats(
            steps=loop.step,
            useful=jnp.sum(trajectory.length - prompts.length),
            computed=loop.step * B,
            prefill=reader.once + loop.prefill,
        )
        return trajectory, stats

    return sample


def _begin(policy: Policy, params: Params, prompts: Prompts, B: int, T: int) -> _Loop:
    """An empty machine: all rows free, all requests waiting."""
    output, cache = empty_start(policy, params, B, capacity=T)
    request = jnp.full(B, len(prompts.length))
    rows = _Rows(request, output.logits, output.value, cache)
    zero = jnp.int32(0)
    return _Loop(zero, zero, zero, rows, unanswered(prompts, T))

"""The policy: a record of pure functions over a pytree of parameters.

    params = policy.init(key)
    output = policy.forward(params, tokens)             # whole rows, for training
    params = policy.unstack(params)                     # in front of a decoding loop
    output, cache = policy.start(params, tokens, length, capacity=S)   # prefill
    output, cache = policy.step(params, cache, token)                  # one token a row
    output, k, v = policy.extend(params, tokens, position, contexts, at=at)  # a search

Outputs follow the one time convention (types.py): logits[t] and value[t] are about
token t given the tokens before it; the shift happens here and nowhere else. Nobody
outside policy/ sees a module. Layers are stacked [L, ...] in the parameters.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from o1jax.parallel.sharding import on_rows
from o1jax.policy.attention import (
    LANES,
    Chunks,
    Rotation,
    attend,
    attend_cached,
    chunk_sizes,
    rotation,
    rotation_below,
    soft_cap,
    write_cached,
)
from o1jax.policy.chunks import Reader, read_by_chunks
from o1jax.policy.config import PolicyConfig
from o1jax.policy.context import Context, attend_contexts
from o1jax.policy.family import Family
from o1jax.policy.functions import Pages, Policy
from o1jax.policy.heads import ScalarHead, Unembed
from o1jax.policy.int8 import restored
from o1jax.policy.transformer import Block, Embed, RMSNorm
from o1jax.types import KVCache, Params, PolicyOutput

OfLayer = Callable[[Any], tuple[Params, Rotation, int | jax.Array]]

REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def build_policy(config: PolicyConfig, *, process_heads: int = 1) -> Policy:
    """The policy of a config. ValueError if the vocabulary is not known yet.

    With several process heads `PolicyOutput.process` is [..., heads]: for a reward
    model, since a search wants one.
    """
    if config.vocab < 1:
        raise ValueError("PolicyConfig.vocab is 0: take it from a tokenizer first")
    net = _Network(config, process_heads)
    own = (net.init, net.unstack, net.forward, net.start, net.step, net.extend)
    return Policy(*own, net.read if config.logit_chunk else None)


class _Network:
    """The modules of one config, and how they are put together."""

    def __init__(self, config: PolicyConfig, process_heads: int) -> None:
        kv_heads = config.kv_heads or config.heads
        self.config = config
        self.family = family = config.family or Family()
        self.windows = family.windows or (0,) * config.layers
        self.scores = {"scale": family.query_scale, "cap": family.score_cap}
        self.embed = Embed(config.vocab, config.width)
        self.block = Block(
            kv_heads=kv_heads,
            group=config.heads // kv_heads,
            head_width=config.head_width or config.width // config.heads,
            ff=config.ff,
            qk_norm=config.qk_norm,
            eps=config.norm_eps,
            family=family,
        )
        self.norm = RMSNorm(config.norm_eps, family.unit_norms)
        self.unembed = Unembed(config.vocab)
        self.value = ScalarHead()
        self.process = ScalarHead(process_heads)

    @property
    def dtype(self) -> jnp.dtype:
        if self.config.dtype == "auto":
            on_cpu = jax.default_backend() == "cpu"
            return jnp.dtype(jnp.float32 if on_cpu else jnp.bfloat16)
        return jnp.dtype(self.config.dtype)

    def rotation(
        self, position: jax.Array, below: int | None = None, *, windowed: bool = False
    ) -> Rotation:
        """Rotary angles at `position`; all are under `below`, if that is given.

        windowed: those of layers with a window, which may have a base of their own.
        """
        theta, scaling = self.config.rope_theta, self.family.rope
        if windowed and self.family.window_theta:
            theta, scaling = self.family.window_theta, None
        of = position, self.block.head_width, theta, scaling
        return rotation(*of) if below is None else rotation_below(below, *of)

    def rotations(
        self, position: jax.Array, below: int | None = None
    ) -> tuple[Rotation, ...]:
        """Rotary angles of each layer, as `rotation`."""
        full = self.rotation(position, below)
        if not (self.family.window_theta and any(self.windows)):
            return (full,) * self.config.layers
        near = self.rotation(position, below, windowed=True)
        return tuple(near if window else full for window in self.windows)

    def embedded(self, params: Params, tokens: jax.Array) -> jax.Array:
        """What the first layer reads [..., D]."""
        h = self.embed.apply({"params": params["embed"]}, tokens, self.dtype)
        if self.family.embed_scale:
            h = h * jnp.asarray(self.config.width**0.5, h.dtype)
        return h

    def init(self, key: jax.Array) -> Params:
        """f32 parameters; the same for a key on every device and mesh."""
        embed, layers, unembed, value, process = jax.random.split(key, 5)
        tokens = jnp.zeros((1, 2), jnp.int32)
        h = jnp.zeros((1, 2, self.config.width))
        init_block = lambda k: self.block.init(k, h, self.rotation(tokens), attend)[
            "params"
        ]
        params = {
            "embed": self.embed.init(embed, tokens, jnp.float32)["params"],
            "layers": jax.vmap(init_block)(
                jax.random.split(layers, self.config.layers)
            ),
            "final_norm": self.norm.init(key, h)["params"],
            "value": self.value.init(value, h)["params"],
            "process": self.process.init(process, h)["params"],
        }
        if not self.config.tied:
            params["unembed"] = self.unembed.init(unembed, h)["params"]
        return params

    def unstack(self, params: Params) -> Params:
        """Layers as a tuple instead of stacked; `start` and `step` take either.

        Do it once in front of a loop around `step`: slicing inside the loop would copy
        every weight at every token.
        """
        layers = params["layers"]
        if isinstance(layers, tuple):
            return params
        at = lambda i: jax.tree.map(lambda x: x[i], layers)
        return params | {"layers": tuple(at(i) for i in range(self.config.layers))}

    def forward(
        self,
        params: Params,
        tokens: jax.Array,
        *,
        position: jax.Array | None = None,
        segment: jax.Array | None = None,
    ) -> PolicyOutput:
        """Reads whole rows.

        Args:
          tokens: i32[B, T], right-padded; padding needs no mask, since it comes last.
          position: i32[B, T], default 0..T-1.
          segment: i32[B, T] where several documents share a row.

        Returns:
          PolicyOutput of [B, T, V] and [B, T]. The first token of a row or segment
          has nothing before it: its logits are uniform, its value is the head's bias.
        """
        params = restored(params, self.dtype, now=tokens)
        return self._read_out(params, *self._trunk(params, tokens, position, segment))

    def read(
        self,
        params: Params,
        tokens: jax.Array,
        reader: Reader,
        *,
        position: jax.Array | None = None,
        segment: jax.Array | None = None,
    ) -> tuple[Any, jax.Array]:
        """What the reader finds in forward's logits, by chunks, and forward's value."""
        params = restored(params, self.dtype, now=tokens)
        before, _ = self._trunk(params, tokens, position, segment)
        value = self.value.apply({"params": params["value"]}, before)
        name, size = "embed" if self.config.tied else "unembed", self.config.logit_chunk
        head = {name: params[name]}
        found = read_by_chunks(self._logits, head, before, tokens, reader, size=size)
        return found, value

    def _trunk(
        self,
        params: Params,
        tokens: jax.Array,
        position: jax.Array | None,
        segment: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Hidden states [B, T, D] of what is before each token, and with it."""
        chex.assert_rank(tokens, 2)
        if position is None:
            position = jnp.arange(tokens.shape[1])[None]
        h = on_rows(self.embedded(params, tokens))
        attend_rows = partial(self._attend_rows, segment=segment)
        scanned, of_layer = self._layers(params, position)

        def layer(h: jax.Array, scanned: Any) -> tuple[jax.Array, None]:
            block, angles, window = of_layer(scanned)
            attend_near = partial(attend_rows, window=window)
            h = self.block.apply({"params": block}, h, angles, attend_near)
            return on_rows(h), None

        if self.config.remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT[self.config.remat])
        h, _ = jax.lax.scan(layer, h, scanned, unroll=self.config.unroll)
        h = self.norm.apply({"params": params["final_norm"]}, h)
        before = jnp.pad(h[:, :-1], ((0, 0), (1, 0), (0, 0)))
        if segment is not None:
            inside = jnp.pad(segment[:, 1:] == segment[:, :-1], ((0, 0), (1, 0)))
            before = jnp.where(inside[..., None], before, 0)
        return before, h

    def _attend_rows(self, *qkv: jax.Array, **options: Any) -> jax.Array:
        """`attend`, by the kernel where the config or a TPU wants it and it serves."""
        flash, out = self.config.flash, None
        if flash is None:
            flash = jax.default_backend() == "tpu" and qkv[0].shape[1] >= LANES
        if flash:
            # Pallas takes a tenth of a second to import, which only this needs.
            from o1jax.policy.flash import attend_flash

            windows = {"windows": self.windows}
            out = attend_flash(*qkv, **options, **self.scores, **windows)
        return attend(*qkv, **options, **self.scores) if out is None else out

    def _layers(self, params: Params, position: jax.Array) -> tuple[Any, OfLayer]:
        """What a scan runs over, and the (params, angles, window) of a piece of it."""
        full = self.rotation(position)
        if len(set(self.windows)) == 1:
            window = self.windows[0]
            angles = self.rotation(position, windowed=True) if window else full
            return params["layers"], lambda block: (block, angles, window)
        near = self.rotation(position, windowed=True)

        def of_layer(scanned: Any) -> tuple[Params, Rotation, jax.Array]:
            block, window = scanned
            angles = tuple(jnp.where(window > 0, n, f) for n, f in zip(near, full))
            return block, angles, window

        return (params["layers"], jnp.asarray(self.windows, jnp.int32)), of_layer

    def start(
        self, params: Params, tokens: jax.Array, length: jax.Array, *, capacity: int
    ) -> tuple[PolicyOutput, KVCache]:
        """Reads prompts i32[B, P] of `length` i32[B] into a cache of `capacity` slots.

        The output [B, ...] is about the token after the prompt.
        """
        B, P = tokens.shape
        chex.assert_shape(length, (B,))
        params = restored(params, self.dtype, now=length)
        angles = self.rotations(jnp.arange(P)[None])
        h = self.embedded(params, tokens)
        keys, values = [], []
        room = ((0, 0), (0, 0), (0, capacity - P), (0, 0))
        ends = np.cumsum(chunk_sizes(capacity, self.config.cache_chunk))[:-1]

        def pages(x: jax.Array) -> Chunks:
            return tuple(jnp.split(jnp.pad(x.transpose(0, 2, 1, 3), room), ends, 2))

        def attend_and_keep(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            keys.append(pages(k))
            values.append(pages(v))
            window = self.windows[len(keys) - 1]
            return attend(q, k, v, window=window, **self.scores)

        for block, by in zip(self.unstack(params)["layers"], angles, strict=True):
            h = self.block.apply({"params": block}, h, by, attend_and_keep)
        last = jnp.take_along_axis(h, (length - 1)[:, None, None], axis=1)[:, 0]
        last = self.norm.apply({"params": params["final_norm"]}, last)
        cache = KVCache(k=tuple(keys), v=tuple(values), length=length)
        return self._read_out(params, last, last), cache

    def step(
        self, params: Params, cache: KVCache, token: jax.Array
    ) -> tuple[PolicyOutput, KVCache]:
        """Reads one token i32[B] a row; the output [B, ...] is about the next one.

        A row whose cache is full is not written: its output means nothing.
        """
        B = token.shape[0]
        chex.assert_shape(cache.length, (B,))
        params = restored(params, self.dtype, now=cache.length)
        position = cache.length
        capacity = sum(chunk.shape[2] for chunk in cache.k[0])
        angles = self.rotations(position[:, None], below=capacity)
        h = self.embedded(params, token)[:, None]
        keys, values = [], []

        def attend_to_cache(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            i = len(keys)
            keys.append(write_cached(cache.k[i], k[:, 0], position))
            values.append(write_cached(cache.v[i], v[:, 0], position))
            cached = keys[i], values[i], position + 1
            near = {"window": self.windows[i], **self.scores}
            return attend_cached(q[:, 0], *cached, **near)[:, None]

        for block, by in zip(self.unstack(params)["layers"], angles, strict=True):
            h = self.block.apply({"params": block}, h, by, attend_to_cache)
        h = self.norm.apply({"params": params["final_norm"]}, h[:, 0])
        cache = KVCache(k=tuple(keys), v=tuple(values), length=position + 1)
        return self._read_out(params, h, h), cache

    def extend(
        self,
        params: Params,
        tokens: jax.Array,
        position: jax.Array,
        contexts: Sequence[Context],
        *,
        at: jax.Array,
    ) -> tuple[PolicyOutput, Pages, Pages]:
        """Reads tokens i32[B, T] at `position` i32[B, T] behind what contexts hold.

        Args:
          position: at most the number of slots that the contexts have, plus T - 1.
          contexts: in the order of the text, if the policy has windows.
          at: i32[B, Q], indices into T. Output q of a row is about the token behind
            that one; its process score is that of the text up to it.

        Returns:
          PolicyOutput [B, Q, ...], and keys and values of the T tokens by layer.
        """
        T = tokens.shape[1]
        chex.assert_equal_shape([tokens, position])
        params = restored(params, self.dtype, now=position)
        own = jnp.tri(T, dtype=bool)  # causal
        held = sum(context.k[0].shape[2] for context in contexts)
        angles = self.rotations(position, below=held + T)
        h = self.embedded(params, tokens)
        keys, values = [], []

        def attend_and_keep(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            i = len(keys)
            keys.append(k.transpose(0, 2, 1, 3))
            values.append(v.transpose(0, 2, 1, 3))
            held = [context.layer(i) for context in contexts]
            near = {"window": self.windows[i], **self.scores}
            return attend_contexts(q, keys[i], values[i], own, held, **near)

        for block, by in zip(self.unstack(params)["layers"], angles, strict=True):
            h = self.block.apply({"params": block}, h, by, attend_and_keep)
        h = jnp.take_along_axis(h, at[:, :, None], axis=1)
        h = self.norm.apply({"params": params["final_norm"]}, h)
        return self._read_out(params, h, h), tuple(keys), tuple(values)

    def _read_out(
        self, params: Params, before: jax.Array, after: jax.Array
    ) -> PolicyOutput:
        return PolicyOutput(
            logits=self._logits(params, before),
            value=self.value.apply({"params": params["value"]}, before),
            process=self.process.apply({"params": params["process"]}, after),
        )

    def _logits(self, params: Params, before: jax.Array) -> jax.Array:
        if self.config.tied:
            embed = {"params": params["embed"]}
            logits = self.embed.apply(embed, before, method="attend")
        else:
            logits = self.unembed.apply({"params": params["unembed"]}, before)
        return soft_cap(logits.astype(jnp.float32), self.family.logit_cap)

"""Attention over whole rows by jax's TPU kernel, which never writes the scores down.

In: what attention.attend takes. Out: the same numbers, or None where the kernel does
not serve: then the plain way does. The kernel is splash attention of
jax.experimental.pallas, after FlashAttention (Dao et al. 2022, arXiv 2205.14135); it
skips blocks that nothing is seen of. The partitioner cannot cut a kernel, so on a mesh
each device is given its rows and heads by shard_map.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)
from jax.sharding import PartitionSpec as P

from o1jax.parallel.mesh import ROWS
from o1jax.parallel.sharding import free_axes
from o1jax.policy.attention import LANES

LARGEST = 512  # block


def attend_flash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    segment: jax.Array | None = None,
    scale: float = 0.0,
    cap: float = 0.0,
    window: int | jax.Array = 0,
    windows: tuple[int, ...] = (),
) -> jax.Array | None:
    """attention.attend, of the same arguments, by the kernel; interpreted on CPU.

    windows: those of all layers. A window that is known only when the program runs, as
    in a scan over layers, must be one of them: there is a kernel for each.

    None where rows or heads do not divide by the mesh.
    """
    B, T, K, G, E = q.shape
    if not isinstance(window, int):
        known = sorted(set(windows))
        same = {"segment": segment, "scale": scale, "cap": cap}
        kernels = [partial(attend_flash, **same, window=each) for each in known]
        if jax.eval_shape(kernels[0], q, k, v) is None:
            return None
        at = jnp.searchsorted(jnp.asarray(known), window)
        return jax.lax.switch(at, kernels, q, k, v)
    mesh, free = free_axes(q)
    rows = tuple(axis for axis in free if axis in ROWS)
    heads = tuple(axis for axis in free if axis not in ROWS)
    shards = lambda axes: math.prod(mesh.shape[axis] for axis in axes)
    if B % shards(rows) or K % shards(heads):
        return None
    more = () if segment is None else (segment,)
    q = (q.astype(jnp.float32) * (scale or E**-0.5)).astype(q.dtype)
    room = -T % LANES  # behind all others, so that no token sees the padding
    pad = lambda x: jnp.pad(x, [(0, 0), (0, room)] + [(0, 0)] * (x.ndim - 2))

    def on_device(
        q: jax.Array, k: jax.Array, v: jax.Array, *segment: jax.Array
    ) -> jax.Array:
        head_first = lambda x: pad(x).swapaxes(1, 2)
        q, k, v = head_first(q.reshape(*q.shape[:2], -1, E)), *map(head_first, (k, v))
        kernel = _kernel(q.shape[1], T + room, cap, window)
        ids = [splash.SegmentIds(pad(x), pad(x)) for x in segment]
        out = jax.vmap(kernel)(q, k, v, *ids)
        return out.swapaxes(1, 2)[:, :T].reshape(-1, T, k.shape[1], G, E)

    if not free:
        return on_device(q, k, v, *more)
    of_rows = rows or None
    cut = P(of_rows, None, heads or None)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(cut, cut, cut, *(P(of_rows) for _ in more)),
        out_specs=cut,
        axis_names=set(free),
        check_vma=False,  # pallas_call does not say over which axes its output varies
    )(q, k, v, *more)


def _kernel(
    heads: int, length: int, cap: float, window: int
) -> splash.SplashAttentionKernel:
    """Of one row, [heads, length, E] against fewer or as many heads of k and v."""
    shape = (length, length)
    if window:
        mask = masks.LocalMask(shape, (window - 1, 0), 0)
    else:
        mask = masks.CausalMask(shape)
    block = next(b for b in range(LARGEST, 0, -LANES) if length % b == 0)
    sizes = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv")
    sizes += ("block_kv_dkv_compute", "block_q_dq", "block_kv_dq")
    return splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(**dict.fromkeys(sizes, block)),
        attn_logits_soft_cap=cap or None,
        head_shards=1,
        q_seq_shards=1,
        interpret=jax.default_backend() == "cpu",
    )

"""Which tensors of a published model make which parameters of a policy, and back.

In: a PolicyConfig. Out: pieces, each one layer of a parameter (or all of one that has
no layers) with the names and shapes of its tensors, and the two functions between. They
only reorder numbers, so a tensor comes back with the same bytes. Query heads of a group
lie side by side in both, and rotary pairs are halves in both.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from o1jax.config import nearest
from o1jax.policy.family import Family
from o1jax.policy.policy import PolicyConfig

Shape = tuple[int, ...]


class Piece(NamedTuple):
    """A parameter, or one layer of it, and the tensors that it is made of."""

    leaf: str  # path below params
    layer: int | None
    shape: Shape  # of the piece
    tensors: tuple[tuple[str, Shape], ...]  # name and shape
    join: Callable[[Sequence[np.ndarray]], np.ndarray]
    split: Callable[[np.ndarray], Sequence[np.ndarray]]


HEADS = ("value", "process")  # of ours: no published model has them
BUFFERS = ("rotary_emb.inv_freq",)  # in old files, computed here


def pieces(config: PolicyConfig) -> Iterator[Piece]:
    """Every tensor of a model in the order of its layers, in pieces."""
    V, D = config.vocab, config.width
    yield _same("embed/embedding", None, "model.embed_tokens.weight", (V, D))
    for layer in range(config.layers):
        yield from _layer(config, layer)
    yield _same("final_norm/scale", None, "model.norm.weight", (D,))
    if not config.tied:
        yield _turned("unembed/kernel", None, "lm_head.weight", (V, D))


def check_names(
    config: PolicyConfig, found: Iterable[tuple[str, Shape]], where: str
) -> None:
    """ValueError names the first tensor that is missing, misshapen or unknown."""
    shapes = dict(found)
    wanted = {name: shape for p in pieces(config) for name, shape in p.tensors}
    for name, shape in wanted.items():
        if name not in shapes:
            raise ValueError(f"{where}: no tensor {name}{nearest(name, shapes)}")
        if tuple(shapes[name]) != shape:
            raise ValueError(
                f"{where}: {name} is {list(shapes[name])}, but config.json wants "
                f"{list(shape)}"
            )
    for name in shapes:
        if name not in wanted and not ignored(config, name):
            raise ValueError(f"{where}: tensor {name} is none of this architecture")


def ignored(config: PolicyConfig, name: str) -> bool:
    """Whether a tensor may be there without being read."""
    return name.endswith(BUFFERS) or (config.tied and name == "lm_head.weight")


def _layer(config: PolicyConfig, layer: int) -> Iterator[Piece]:
    family = config.family or Family()
    D, F, E = config.width, config.ff, config.head_width or config.width // config.heads
    K = config.kv_heads or config.heads
    G = config.heads // K
    tensor = lambda name: f"model.layers.{layer}.{name}"
    at = lambda part: f"layers/{part}"
    q, k, v = (tensor(f"self_attn.{x}_proj") for x in "qkv")

    def joined(weights: Sequence[np.ndarray]) -> np.ndarray:  # [K, G + 2, E, ...]
        of_group = zip(weights, (G, 1, 1))
        parts = [w.reshape(K, n, E, *w.shape[1:]) for w, n in of_group]
        return np.concatenate(parts, axis=1)

    def parted(w: np.ndarray) -> list[np.ndarray]:
        parts = w[:, :G], w[:, G : G + 1], w[:, G + 1 :]
        return [part.reshape(-1, *w.shape[3:]) for part in parts]

    yield Piece(
        at("attention/qkv"),
        layer,
        (D, K, G + 2, E),
        tuple((f"{x}.weight", (n * E, D)) for x, n in ((q, K * G), (k, K), (v, K))),
        lambda weights: np.moveaxis(joined(weights), -1, 0),
        lambda w: parted(np.moveaxis(w, 0, -1)),
    )
    if family.qkv_bias:
        yield Piece(
            at("attention/qkv_bias"),
            layer,
            (K, G + 2, E),
            tuple((f"{x}.bias", (n * E,)) for x, n in ((q, K * G), (k, K), (v, K))),
            joined,
            parted,
        )
    if config.qk_norm:
        for x in "qk":
            name = tensor(f"self_attn.{x}_norm.weight")
            yield _same(at(f"attention/{x}_norm/scale"), layer, name, (E,))
    yield Piece(
        at("attention/o"),
        layer,
        (K, G, E, D),
        ((tensor("self_attn.o_proj.weight"), (D, K * G * E)),),
        lambda weights: weights[0].T.reshape(K, G, E, D),
        lambda w: [w.reshape(-1, D).T],
    )
    if family.o_bias:
        name = tensor("self_attn.o_proj.bias")
        yield _same(at("attention/o_bias"), layer, name, (D,))
    yield Piece(
        at("mlp/gate_up"),
        layer,
        (D, 2, F),
        tuple((tensor(f"mlp.{x}_proj.weight"), (F, D)) for x in ("gate", "up")),
        lambda weights: np.stack([w.T for w in weights], axis=1),
        lambda w: [w[:, 0].T, w[:, 1].T],
    )
    yield _turned(at("mlp/down"), layer, tensor("mlp.down_proj.weight"), (D, F))
    norms = {"attention_norm": "input", "mlp_norm": "post_attention"}
    if family.post_norms:
        norms = {
            "attention_norm": "input",
            "attention_post_norm": "post_attention",
            "mlp_norm": "pre_feedforward",
            "mlp_post_norm": "post_feedforward",
        }
    for ours, theirs in norms.items():
        name = tensor(f"{theirs}_layernorm.weight")
        yield _same(at(f"{ours}/scale"), layer, name, (D,))


def _same(leaf: str, layer: int | None, name: str, shape: Shape) -> Piece:
    tensors = ((name, shape),)
    return Piece(leaf, layer, shape, tensors, lambda ws: ws[0], lambda w: [w])


def _turned(leaf: str, layer: int | None, name: str, shape: Shape) -> Piece:
    """A tensor [out, in] as a kernel [in, out]."""
    tensors, turned = ((name, shape),), shape[::-1]
    return Piece(leaf, layer, turned, tensors, lambda ws: ws[0].T, lambda w: [w.T])

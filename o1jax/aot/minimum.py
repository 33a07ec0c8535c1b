"""The least that a step of imitation must send, derived by hand from its sharding.

Parameters are cut over n devices (fsdp) and copied over d (data); every matrix is moved
in the b bytes of the type that the network computes in. In a ring a device sends
(n-1)/n of what is gathered or scattered, 2 (d-1)/d of what is summed for everyone.

    layers (M numbers)   gathered forward, and again backward: each is dropped when its
                         layer is done; gradients scattered     3 b M (n-1)/n
    unembedding (U)      gathered once, for its forward and backward pass meet;
                         gradients scattered                     2 b U (n-1)/n
    embedding (E)        t tokens of a device take rows of width D from the others,
                         and give gradients back                 2 b t D (n-1)/n
    copies               gradients' parts summed                 2 b (M+U+E)/n (d-1)/d

Norms, heads and metrics are left out: under a thousandth. Each microbatch moves all of
it again, but for the copies, whose sum may wait for the last one.
"""

from typing import Any


def least_sent(
    policy: Any,
    *,
    data: int,
    fsdp: int,
    tokens: int,
    microbatches: int = 1,
    itemsize: int = 2,
) -> float:
    """Bytes that a device sends in a step, over both axes.

    policy: a PolicyConfig, untied. tokens: of a device in a step.
    """
    heads, kv_heads = policy.heads, policy.kv_heads or policy.heads
    width, head = policy.width, policy.head_width or policy.width // policy.heads
    attention = width * head * (2 * heads + 2 * kv_heads)
    layers = policy.layers * (attention + 3 * width * policy.ff)
    table = policy.vocab * width
    gathered = microbatches * (3 * layers + 2 * table) + 2 * tokens * width
    copies = 2 * (layers + 2 * table) / fsdp * (data - 1) / data
    return itemsize * (gathered * (fsdp - 1) / fsdp + copies)

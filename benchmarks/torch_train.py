"""A train step in eager torch: forward, backward, clip to norm 1, fused AdamW.

A plain module of the same architecture, with fused projections and torch's own causal
attention: faster here than the transformers model. `train/SIZE` runs the whole batch at
once; `train/SIZE/N` accumulates the gradient over N microbatches.
"""

import worker  # isort: skip  (pins the process first)

import sizes
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROPE_BASE = 10_000.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on [B, H, T, E], halves paired."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Block(nn.Module):
    """Attention and SwiGLU, each behind an RMSNorm."""

    def __init__(self, size: sizes.Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.qkv = nn.Linear(size.width, 3 * size.width, bias=False)
        self.out = nn.Linear(size.width, size.width, bias=False)
        self.gate_up = nn.Linear(size.width, 2 * size.ff, bias=False)
        self.down = nn.Linear(size.ff, size.width, bias=False)
        self.norm1 = nn.RMSNorm(size.width)
        self.norm2 = nn.RMSNorm(size.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(rows, length, width))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    """Tokens to next-token logits."""

    def __init__(self, size: sizes.Size) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.vocab, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width)
        self.head = nn.Linear(size.width, size.vocab, bias=False)
        half = size.width // size.heads // 2
        frequency = ROPE_BASE ** (-torch.arange(half) / half)
        angle = torch.arange(size.length)[:, None] * frequency
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`train/SIZE` or `train/SIZE/MICROBATCHES`."""
    _, name, *pieces = sizes.parse(case)
    size = sizes.SIZES[name]
    torch.manual_seed(0)
    model = Model(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    tokens = torch.randint(0, size.vocab, (size.train_rows, size.length))
    target = torch.randint(0, size.vocab, (size.train_rows, size.length))
    rows = size.train_rows // (int(pieces[0]) if pieces else 1)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for x, y in zip(tokens.split(rows), target.split(rows)):
            logits = model(x).view(-1, size.vocab)
            loss = F.cross_entropy(logits, y.view(-1), reduction="sum")
            loss = loss / size.train_tokens
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total

    def warm() -> None:
        first, second = step(), step()
        if not second < first:
            raise RuntimeError(f"the step does not learn: {first} -> {second}")

    return step, warm


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker.serve(build, worker.versions("torch"))

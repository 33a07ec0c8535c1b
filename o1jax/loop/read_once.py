"""The policy reads labelled texts once, for all read-outs of a frozen trunk.

In: parameters and rows with the ends of steps. Out: a StepReading of the steps, row by
row, kept in WORKDIR/readings under a digest of both: other stages, other seeds of a
head and later commands find it there, and one that was stopped half-way goes on.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from o1jax.loop.ledger import count_flops
from o1jax.loop.metrics import progress
from o1jax.loop.workdir import Workdir
from o1jax.parallel.hosts import fetch, once
from o1jax.parallel.mesh import put_batch
from o1jax.parallel.sharding import path_name
from o1jax.policy.policy import PolicyConfig
from o1jax.reward.frozen import StepReading, step_reader
from o1jax.types import Params, StepLabels

LOGITS = 1 << 26  # numbers that a call makes on a device
ROWS = 256  # of a call on a device, at most
SAVE_EVERY = 60.0  # seconds


def read_once(
    run: Workdir,
    params: Params,
    rows: StepLabels,
    *,
    owner: str,
    kind: str = "reward",
) -> StepReading:
    """f32[S, D] and f32[S] for the S ends of steps of the rows, in order; numpy.

    owner: who asks, such as a stage. What the first one to ask had read when it was
    killed is booked when it asks again, for its ledger began anew; others get it free.
    """
    file = run.path / "readings" / f"{_digest(params, rows)}.npz"
    width = np.minimum(_rounded(np.asarray(rows.length)), rows.tokens.shape[1])
    parts, vocab = run.shards, run.policy_config.vocab
    calls = list(_calls(width, vocab, parts))
    done, by, reading = _kept(file) or (0, owner, _blank(run, rows))
    total = len(width)
    at, first = _places(rows.step_end)
    read, flops = _reader(run.policy_config), {}

    def given_to(part: np.ndarray) -> tuple[np.ndarray, ...]:
        """A call that is not full reads its last row again: one shape a width."""
        size = int(width[part[0]])
        count = together(size, vocab, parts, int((width == size).sum()))
        full = np.pad(part, (0, count - len(part)), mode="edge")
        return (
            rows.tokens[full, :size],
            rows.prompt_length[full],
            rows.length[full],
            rows.step_end[full, :size],
            at[full],
        )

    def book(given: tuple[np.ndarray, ...]) -> None:
        shape = given[0].shape
        if shape not in flops:
            flops[shape] = count_flops(read, params, *given).flops
        run.ledger.add(kind, tokens=given[0].size, flops=flops[shape])

    for part in calls[:done] if by == owner else ():
        book(given_to(part))
    if done == len(calls):
        return reading
    saved = time.monotonic()
    with progress(total, "reading", sum(len(part) for part in calls[:done])) as bar:
        for number, part in enumerate(calls[done:], start=done + 1):
            given = given_to(part)
            said = fetch(read(params, *put_batch(run.mesh, given)))
            for i, row in enumerate(part):
                begin, end = first[row], first[row + 1]
                reading.state[begin:end] = said.state[i, : end - begin]
                reading.log_odds[begin:end] = said.log_odds[i, : end - begin]
            book(given)
            if number == len(calls) or time.monotonic() - saved > SAVE_EVERY:
                _keep(file, number, by, reading)
                saved = time.monotonic()
            bar.advance(len(part))
    return reading


@functools.lru_cache(maxsize=4)
def _reader(size: PolicyConfig) -> Callable[..., StepReading]:
    """Compiled once for all texts of a run."""
    return jax.jit(step_reader(size))


def _rounded(length: np.ndarray) -> np.ndarray:
    """Up to a multiple of a power of two, an eighth to a quarter of the length.

    So there are four widths an octave to compile, and a tenth is padding.
    """
    step = 2 ** np.floor(np.log2(np.maximum(length, 8) / 4)).astype(int)
    return -(-length // step) * step


def _calls(width: np.ndarray, vocab: int, parts: int) -> Iterator[np.ndarray]:
    """Rows that are read together: of one width, short ones first."""
    for size in np.unique(width):
        at = np.flatnonzero(width == size)
        count = together(int(size), vocab, parts, len(at))
        for begin in range(0, len(at), count):
            yield at[begin : begin + count]


def together(size: int, vocab: int, parts: int, rows: int) -> int:
    """How many of `rows` rows of `size` tokens a call reads, cut into `parts`."""
    most = max(1, min(ROWS, LOGITS // (size * vocab)))
    return min(most, -(-rows // parts)) * parts


def _places(step_end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """i32[R, J]: where steps end, 0 behind the last; i64[R + 1]: each row's first."""
    steps = step_end.sum(axis=1)
    at = np.zeros((len(steps), max(1, int(steps.max(initial=0)))), np.int32)
    at[np.arange(at.shape[1]) < steps[:, None]] = np.nonzero(step_end)[1]
    return at, np.concatenate([[0], np.cumsum(steps)])


def _blank(run: Workdir, rows: StepLabels) -> StepReading:
    steps = int(np.asarray(rows.step_end).sum())
    width = run.policy_config.width
    return StepReading(np.zeros((steps, width), "f4"), np.zeros(steps, "f4"))


def _kept(file: Path) -> tuple[int, str, StepReading] | None:
    """How many calls it holds, whose they are, and what was read."""
    if not file.exists():
        return None
    with np.load(file) as found:
        reading = StepReading(found["state"], found["log_odds"])
        return int(found["calls"]), str(found["owner"]), reading


def _keep(file: Path, calls: int, owner: str, reading: StepReading) -> None:
    """All or nothing."""

    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        with partial.open("wb") as out:
            np.savez(out, calls=calls, owner=owner, **reading._asdict())
        partial.replace(file)

    once(write)


def _digest(params: Params, rows: StepLabels) -> str:
    """12 hex digits that change with the texts, their steps, and the weights.

    Heads are left out, for they say nothing of the trunk.
    """
    trunk = {k: v for k, v in params.items() if k not in ("value", "process")}
    sums = jax.jit(lambda tree: jax.tree.map(_checksum, tree))(trunk)
    found = hashlib.blake2b(digest_size=6)
    for path, number in jax.tree_util.tree_leaves_with_path(fetch(sums)):
        found.update(f"{path_name(path)} {int(number)}\n".encode())
    for part in (rows.tokens, rows.prompt_length, rows.length, rows.step_end):
        found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def _checksum(x: jax.Array) -> jax.Array:
    """u32[]: of all bits and their places; exact, so the same on any mesh."""
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        iota = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        place = place * jnp.uint32(size) + iota
    mixed = bits.astype(jnp.uint32) ^ (place * jnp.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed, dtype=jnp.uint32)

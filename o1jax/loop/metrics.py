"""Metrics of a run: one JSON line a step, TensorBoard scalars, and a progress bar.

In: scalars, mostly still on the device. Out: `metrics.jsonl` and `tensorboard/` in the
workdir. Values of step k are fetched when step k+1 is logged, so the host never waits
for the step it has just dispatched. Call `flush()` before a checkpoint is saved: then
the lines on disk reach at least as far as the checkpoint, and a resumed run drops and
replays the rest.
"""

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import jax
import numpy as np
from tensorboardX import SummaryWriter

FILE = "metrics.jsonl"


class Metrics:
    """Writes metrics one step late. A context manager; only process 0 writes.

    `resume_step` is the step of the checkpoint that the run goes on from: later lines
    are dropped, for the run will write them again. None, which is what a checkpoint
    manager says of an empty folder, starts the file afresh.
    """

    def __init__(self, workdir: str | Path, *, resume_step: int | None = None) -> None:
        self.latest: dict[str, float] = {}  # of the last step written, for a bar
        self._pending: tuple[int, dict[str, Any]] | None = None
        self._warned: set[str] = set()
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        if jax.process_index() == 0:
            workdir = Path(workdir)
            workdir.mkdir(parents=True, exist_ok=True)
            _rewind(workdir / FILE, resume_step)
            self._file = open(workdir / FILE, "a", buffering=1)  # noqa: SIM115
            # purge_step makes TensorBoard forget what the dropped lines said.
            purge = 0 if resume_step is None else resume_step + 1
            # Without a suffix a run started in the same second overwrites the file.
            self._board = SummaryWriter(
                str(workdir / "tensorboard"),
                purge_step=purge,
                filename_suffix=f".{time.time_ns()}",
            )

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Take the scalars of a step; they reach the disk at the next step or flush.

        Steps must not decrease. A step logged twice in a row is one line; after a
        flush it gets a second line, and readers merge lines of the same step.
        Device arrays must not be donated afterwards. ValueError for a value that is
        not a scalar, a metric named "step" and a step that lies behind.
        """
        for name, value in values.items():
            if np.shape(value) != ():
                raise ValueError(f"metric {name!r} has shape {np.shape(value)}, not ()")
            if name == "step":
                raise ValueError("a metric can't be named 'step'")
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        if self._pending is not None:
            last, pending = self._pending
            if step < last:
                raise ValueError(f"step {step} logged after step {last}")
            if step == last:
                pending.update(values)
                return
            self._write()
        self._pending = (step, dict(values))

    def flush(self) -> None:
        """Write what is pending, through to the disk."""
        self._write()
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._board.flush()

    def close(self) -> None:
        """Flush and let go of the files."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()
                self._board.close()
                self._file = self._board = None

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self) -> None:
        if self._pending is None:
            return
        (step, values), self._pending = self._pending, None
        row = {k: _scalar(v) for k, v in jax.device_get(values).items()}
        self.latest = row
        if self._file is None:
            return
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        for name in sorted(row.keys() - finite.keys() - self._warned):
            self._warned.add(name)
            warnings.warn(
                f"metric {name!r} is {row[name]} at step {step}; null is written",
                RuntimeWarning,
                stacklevel=3,
            )
        line = {"step": int(step), **dict.fromkeys(row), **finite}
        self._file.write(json.dumps(line, sort_keys=True, allow_nan=False) + "\n")
        for name, value in finite.items():
            self._board.add_scalar(name, value, int(step))


def _scalar(value: Any) -> int | float:
    """A Python number; integers and booleans stay exact."""
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, int) else float(value)


def _rewind(path: Path, resume_step: int | None) -> None:
    """Drop the lines behind `resume_step`, and a line cut short by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if resume_step is not None and step <= resume_step:
            kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Progress:
    """Counts steps and says how fast they go. `progress` makes one."""

    def __init__(
        self,
        total: int,
        initial: int,
        show: Sequence[str],
        paint: Callable[["Progress"], None],
        clock: Callable[[], float],
    ) -> None:
        self.total, self.done, self.text = total, initial, ""
        self._show, self._paint, self._clock = show, paint, clock
        self._first: tuple[float, int] | None = None

    def advance(self, n: int = 1, metrics: Mapping[str, float] | None = None) -> None:
        """n more steps are done; `metrics` are host numbers such as Metrics.latest."""
        self.done += n
        now = self._clock()
        # The first step compiles, so that the rate is counted from its end.
        if self._first is None:
            self._first = (now, self.done)
        since, steps = now - self._first[0], self.done - self._first[1]
        parts = []
        if since > 0 and steps > 0:
            rate = steps / since
            left = round(max(self.total - self.done, 0) / rate)
            parts += [f"{rate:.3g} steps/s", f"ETA {_duration(left)}"]
        metrics = metrics or {}
        names = [n for n in self._show if n in metrics] or list(metrics)[:2]
        parts += [f"{name} {metrics[name]:.4g}" for name in names]
        self.text = ", ".join(parts)
        self._paint(self)


@contextmanager
def progress(
    total: int,
    description: str,
    initial: int = 0,
    *,
    show: Sequence[str] = (),
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere a line every 10 s or every tenth of the way.

    `show` names the metrics to print (the first two otherwise). Only process 0 prints.
    """
    stream = stream or sys.stderr
    if jax.process_index() != 0:
        yield Progress(total, initial, show, lambda _: None, clock)
    elif stream.isatty():
        with _bar(total, description, initial, stream) as paint:
            yield Progress(total, initial, show, paint, clock)
    else:
        paint = _lines(description, initial, stream, clock)
        yield Progress(total, initial, show, paint, clock)


def _lines(
    description: str, initial: int, stream: TextIO, clock: Callable[[], float]
) -> Callable[[Progress], None]:
    last = [clock(), initial]

    def paint(bar: Progress) -> None:
        tenth = 10 * (bar.done - last[1]) >= bar.total
        if tenth or clock() - last[0] >= 10 or bar.done >= bar.total:
            last[:] = clock(), bar.done
            percent = round(100 * bar.done / max(bar.total, 1))
            text = f" {bar.text}" if bar.text else ""
            line = f"{description} {bar.done}/{bar.total} ({percent} %){text}"
            print(line, file=stream, flush=True)

    return paint


@contextmanager
def _bar(
    total: int, description: str, initial: int, stream: TextIO
) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
    )
    # Four frames a second: the refresh thread shares the cores with XLA.
    rich = RichProgress(*columns, console=Console(file=stream), refresh_per_second=4)
    with rich:
        task = rich.add_task(description, total=total, completed=initial, text="")
        yield lambda bar: rich.update(task, completed=bar.done, text=bar.text)


def _duration(seconds: int) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{hours}:{clock}" if hours else clock

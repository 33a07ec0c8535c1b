"""Checkpoints of a run: written while it trains, checked before they are believed.

In: a TrainState, the data position and the ledger (both JSON). Out: the newest complete
step, in the shardings asked for, on any number of devices. A step is one directory that
appears by a rename; a list of its files with their checksums is written before that, so
a damaged step is found, said, moved aside, and the previous one is used. The arrays are
orbax's (https://orbax.readthedocs.io), stored as one nested dict named by path.
"""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import unflatten_dict

from o1jax.loop import manifest
from o1jax.loop.checkpoint_read import (
    MARK,
    STEP_NAMES,
    CheckpointError,
    absolute,
    all_broken,
    copied,
    first_line,
    flatten,
    say,
    step_path,
    try_read,
)
from o1jax.parallel import preemption
from o1jax.parallel.hosts import everywhere, first
from o1jax.parallel.preemption import Preempted
from o1jax.types import TrainState

CHUNK = 64 << 20  # bytes at the most: a reader decodes a chunk whole

# Orbax logs a failed write three times with tracebacks; here it is raised, once.
logging.getLogger("absl").addFilter(
    lambda record: record.levelno < logging.ERROR or "orbax" not in record.pathname
)


class Restored(NamedTuple):
    """What a run goes on from."""

    step: int
    state: TrainState
    position: dict  # of the data
    extra: dict  # of the ledger


class Checkpoints:
    """The checkpoints of one run, and the one writer of its directory.

    A context manager: leaving it waits for the write in flight. An error of that write
    is raised, as a CheckpointError with its step, by the next call of any method.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 2,
        every: int = 100,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the newest `keep` steps, and call every `every`-th step due.

        before: called in each process and in a thread, before a step counts as written.
        """
        if keep < 1 or every < 1:
            raise ValueError(
                f"Checkpoints: keep={keep} and every={every} must be at least 1"
            )
        self.directory = absolute(directory)
        self.every = every
        self._keep, self._before = keep, before
        self._lost = False  # the directory can't be reached any more
        self._leaving, self._saving = False, preemption.saving()
        self._writing: int | None = None  # the step whose outcome nobody knows yet
        self._adopt()
        self._manager = self._open()

    def due(self, step: int, *, during: Any = None) -> bool:
        """Whether the step is one to save; all processes have to ask, each step.

        It is if the machine is about to be taken away: `save` then raises Preempted.
        during: what the devices are at, see preemption.agreed.
        """
        self._leaving = preemption.agreed(during=during)
        return self._leaving or step % self.every == 0

    def save(
        self, step: int, state: TrainState, position: Mapping, extra: Mapping
    ) -> None:
        """Start to write a step, and return as soon as its arrays may be donated.

        A step already there is left as it is; an older one raises ValueError. Where the
        run has to end, Preempted is raised once the step is written.
        """
        self._save(step, state, position, extra)
        if self._leaving:
            self.wait()
            said = f"step {step} is saved in {self.directory}"
            raise Preempted(said, together=True)

    def _save(
        self, step: int, state: TrainState, position: Mapping, extra: Mapping
    ) -> None:
        latest = self.latest_step()  # orbax writes one step at a time: this waits
        if step == latest:
            return
        if latest is not None and step < latest:
            raise ValueError(f"step {step} is older than the checkpoint of {latest}")
        # On CPU orbax copies nothing and keeps a view: jax then leaves a donated buffer
        # alone and gives the next step a new one.
        arrays, keys = {}, {}
        for path, leaf in flatten(state).items():
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                keys[path] = str(jax.random.key_impl(leaf))
                leaf = jax.random.key_data(leaf)
            arrays[path] = leaf
        meta = {"position": position, "extra": extra, "keys": keys}
        try:
            meta = json.loads(json.dumps(meta))  # a copy: the caller's may change
        except (TypeError, ValueError) as error:
            raise ValueError(f"position and extra must be JSON: {error}") from error
        tree = unflatten_dict(arrays, sep="/")
        chunked = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK), tree)
        self._writing = step
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(tree, save_args=chunked),
                    meta=ocp.args.JsonSave(meta),
                ),
                force=True,
            )
        except Exception as error:  # a disk fails in many types
            raise self._failed(error) from error

    def restore(self, target: TrainState) -> Restored | None:
        """The newest complete step in the shapes and shardings of `target`.

        `target` holds arrays or ShapeDtypeStructs; without a sharding, a leaf goes to
        the first device. Broken steps are named on stderr and moved aside. None if
        there is no step at all; CheckpointError if all are broken, or if the newest
        complete one is of another model.
        """
        self.wait()
        damages: dict[int, str] = {}
        for step in self._steps():
            restored, damages[step] = try_read(step_path(self.directory, step), target)
            if restored is not None:
                del damages[step]
                for broken, damage in damages.items():
                    aside = self._move_aside(broken)
                    say(
                        f"checkpoint of step {broken} is broken ({damage}); moved to "
                        f"{aside}, going on from step {step}"
                    )
                return Restored(step, *restored)
        if damages:
            raise CheckpointError(all_broken(self.directory, damages))
        return None

    def latest_step(self) -> int | None:
        """The newest step written, as far as its name tells."""
        self.wait()
        return next(iter(self._steps()), None)

    def wait(self) -> None:
        """Wait for the write in flight."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error
        self._writing = None

    def close(self) -> None:
        """Wait for the write in flight, and end orbax's threads."""
        if self._lost:
            return
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        self._saving.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.close()
        finally:
            self._saving.__exit__(None, None, None)

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory,
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                step_name_format=STEP_NAMES,
                cleanup_tmp_directories=True,  # of a run that was killed
                save_root_metadata=False,
                lightweight_initialize=True,  # a stamp may be broken as well
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._before_commit
                ),
            ),
        )

    def _adopt(self) -> None:
        """Marks steps that were copied into a bucket: orbax would delete them."""
        if "://" in str(self.directory):
            for step in copied(self.directory) if first() else ():
                (step / MARK).write_text("")
            everywhere(True)  # a barrier: nobody lists the steps before

    def _before_commit(self) -> None:
        """List the files: orbax calls this before what commits the step."""
        self._before()
        if first() and "://" not in str(self.directory):
            name = STEP_NAMES.build_name(self._writing)
            (written,) = self.directory.glob(f"{name}.*")
            manifest.write(pathlib.Path(written))

    def _failed(self, error: Exception) -> CheckpointError:
        """The error to raise for the write in flight; ready for the next write."""
        step, self._writing = self._writing, None
        known = [s for s in self._steps() if s != step]  # as orbax remembers
        with contextlib.suppress(Exception):  # it may tell of the same error again
            self._manager.close()
        try:
            self._manager = self._open()  # forgets the step, and removes what it left
            known = self._steps()
        except Exception:  # a bucket out of reach: there is no next write
            self._lost = True
        kept = next(iter(known), None)
        return CheckpointError(
            f"checkpoint of step {step} in {self.directory} was not written "
            f"({first_line(error)}); the newest is "
            f"{'none' if kept is None else f'step {kept}'}"
        )

    def _steps(self) -> list[int]:
        return sorted(self._manager.all_steps(), reverse=True)

    def _move_aside(self, step: int) -> epath.Path:
        source = step_path(self.directory, step)
        aside = self.directory / f"broken-{source.name}"
        if first():
            if aside.exists():
                aside.rmtree()
            source.rename(aside)
        everywhere(True)  # a barrier: nobody lists the steps before the rename
        self._manager.reload()
        return aside

"""Where the files of a run are, and how they are written.

In: an experiment, and the folder of its workdir. Out: the names of files and folders in
it. Of a workdir in a bucket (bucket.py) the folder is a mirror: checkpoints are written
to the bucket at once, and what the first process writes here goes there, and to the
mirrors of the others.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from o1jax.loop.bucket import Bucket, bucket_of, is_bucket
from o1jax.parallel.hosts import first, once


class Places:
    """The files of a run, by the numbers of its stages."""

    experiment: Any
    path: Path

    @property
    def bucket(self) -> Bucket | None:
        """Where the workdir is, if `path` is a mirror of it."""
        return bucket_of(self.path)

    @property
    def home(self) -> Path | epath.Path:
        """Where its checkpoints are."""
        return home_of(self.path)

    def push(self) -> None:
        """Files of the first process go into the bucket, if there is one."""
        if self.bucket and first():
            self.bucket.push()

    def publish(self) -> None:
        """All processes have the files that the first one wrote, and the bucket too."""
        if self.bucket:
            once(self.push)
            if not first():
                self.bucket.pull()

    def checkpoints(self, index: int) -> Path | epath.Path:
        """The steps of a training stage."""
        return steps_of(self.path, self._folder(index))

    def link(self, index: int, there: Path | epath.Path) -> None:
        """Makes the steps of another run those of a stage."""
        folder = self.checkpoints(index)
        if not is_bucket(there):
            there = Path(there).absolute()
        if is_bucket(folder) or is_bucket(there):
            write_text(self.path / "links" / self._folder(index), str(there))
            return self.publish()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(there, target_is_directory=True)

    def adapters(self, index: int) -> Path | epath.Path:
        """The steps of a stage that trains adapters only."""
        return self.home / "adapters" / self._folder(index)

    def rewards(self, index: int) -> Path | epath.Path:
        """The steps of a reward model."""
        return self.home / "rewards" / self._folder(index)

    def reward_data(self, index: int) -> Path:
        """The folder of what a reward model learned from."""
        return self.path / "rewards" / self._folder(index)

    def predictions(self, index: int) -> Path:
        """The file of an evaluation."""
        return self.path / "predictions" / f"{self._folder(index)}.jsonl"

    def _record_file(self, index: int) -> Path:
        return self.path / "stages" / f"{self._folder(index)}.json"

    def _folder(self, index: int) -> str:
        return f"{index:02d}-{self.experiment.stages[index].name}"


def home_of(workdir: Path) -> Path | epath.Path:
    """Where the checkpoints of a workdir are: there, or in the bucket it mirrors."""
    bucket = bucket_of(workdir)
    return epath.Path(bucket.url) if bucket else workdir


def steps_of(workdir: Path, stage: str) -> Path | epath.Path:
    """The steps of a training stage, by the name of its folder."""
    link = workdir / "links" / stage
    if link.exists():
        return epath.Path(link.read_text())
    return home_of(workdir) / "checkpoints" / stage


def write_json(file: Path, content: Any) -> None:
    """Writes it all or not at all; with several processes the first one does."""
    write_text(file, json.dumps(content, indent=1))


def write_jsonl(file: Path, rows: Sequence[Any]) -> None:
    """A line a row; all of them or none."""
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(file: Path, text: str) -> None:
    """As write_json."""

    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        with partial.open("w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)

    once(write)

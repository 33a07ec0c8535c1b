"""A workdir in a bucket: its files on this machine, and their copies there.

In: gs://bucket/run. Out: a folder, the mirror, which holds the files of the workdir but
not its checkpoints: those are written to the bucket and read from there. When a process
starts, its mirror becomes what the bucket holds; later the first process uploads what
changed. What counts is the bucket: a mirror may be lost with its machine at any time.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import jax

from o1jax.loop.checkpoint_read import first_line, say
from o1jax.parallel.hosts import several

EXTRAS = {"gs": "o1jax[buckets]", "s3": "s3fs"}  # what pip has to install
CONFIG = "config.gin"
# Not in a mirror, but for a dataset that each machine prepares by itself.
ELSEWHERE = ("checkpoints", "adapters", "data")
NOT_READ = ("tensorboard",)  # a resumed run begins another file
_mirrors: dict[Path, "Bucket"] = {}


class BucketError(RuntimeError):
    """What can't be done with a bucket, in one line."""


class Bucket:
    """A workdir in a bucket, and the mirror that belongs to it."""

    def __init__(self, url: str, mirror: Path) -> None:
        self.url, self.mirror = url, mirror
        self._there: dict[str, str] = {}  # objects as they were read
        self._here: dict[str, tuple[int, int]] = {}  # files that are in the bucket
        self._lock = threading.Lock()
        # What it raises in the end it logs before, with tracebacks.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        import fsspec  # a run on a disk does without

        # A listing that is remembered would hide what other processes write.
        protocol = url.partition("://")[0]
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise BucketError(
                f"{url} needs a package: pip install '{EXTRAS[protocol]}'"
            ) from error
        except Exception as error:  # bad credentials have many types
            raise BucketError(f"{url}: {first_line(error)}") from error

    def pull(self) -> None:
        """Download what is new there. Nothing as long as nobody has run there."""
        with self._telling("can't be read"):
            if not self._files.exists(f"{self._root}/{CONFIG}"):
                return
            there = dict(self._objects())
            new = [name for name in there if there[name] != self._there.get(name)]
            contents = self._files.cat([f"{self._root}/{name}" for name in new])
        for name in new:
            file = self.mirror / name
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}.partial")
            partial.write_bytes(contents[f"{self._root}/{name}"])
            partial.replace(file)
            self._here[name] = _stamp(file)
        self._there = there

    def push(self) -> None:
        """Upload what changed here; what a record speaks of goes before it."""
        order = lambda name: (name.startswith("stages/"), name.endswith(".json"), name)
        with self._lock:
            for name in sorted(self._changed(), key=order):
                file = self.mirror / name
                stamp, content = _stamp(file), file.read_bytes()  # it may be growing
                with self._telling(f"{name} can't be written"):
                    self._files.pipe_file(f"{self._root}/{name}", content)
                self._here[name] = stamp

    def clear(self) -> None:
        """Empty the mirror, but for what no bucket gives back."""
        if self.mirror.exists():
            for path in self.mirror.iterdir():
                if path.name in ELSEWHERE:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.mirror.mkdir(parents=True, exist_ok=True)

    def _objects(self) -> Iterator[tuple[str, str]]:
        """The objects that belong into the mirror, and what changes with each."""
        start = f"{self._root}/"
        for folder, folders, files in self._files.walk(self._root, detail=True):
            below = f"{folder}/".removeprefix(start)
            for name in [*folders]:
                if not _mirrored(f"{below}{name}/") or name in NOT_READ:
                    del folders[name]
            for name, about in files.items():
                if name:  # some tools mark a folder by an object of its name
                    yield f"{below}{name}", repr(sorted(about.items(), key=str))

    def _changed(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.mirror):
            below = Path(folder).relative_to(self.mirror)
            folders[:] = [x for x in folders if _mirrored(f"{(below / x).as_posix()}/")]
            for name in files:
                known = self._here.get((below / name).as_posix())
                if name.startswith(".") or name.endswith(".tmp"):  # being written
                    continue
                if known != _stamp(self.mirror / below / name):
                    yield (below / name).as_posix()

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a store fails in many types
            raise BucketError(f"{self.url}: {what}: {first_line(error)}") from error


def is_bucket(where: str | os.PathLike) -> bool:
    """Whether it is the address of a bucket."""
    return "://" in os.fspath(where)


def open_workdir(where: str | os.PathLike, *, to_run: bool = False) -> Path:
    """The folder of a workdir; that of a bucket is a mirror, made and filled.

    A mirror to run in belongs to one process; to look at a run there is another one, so
    that both can be had on one machine. BucketError if the bucket can't be read.
    """
    if not is_bucket(where):
        if re.match(r"[a-z0-9]+:/", os.fspath(where)):  # libraries take it for a bucket
            raise BucketError(f"{where}: a bucket's address has two slashes")
        return Path(where)
    url = os.fspath(where).rstrip("/")
    protocol, _, path = url.partition("://")
    if protocol not in EXTRAS or not path:
        raise BucketError(
            f"{where}: a workdir is a folder, gs://BUCKET/... or s3://..."
        )
    name = f"{path.rpartition('/')[2]}-{hashlib.blake2b(url.encode()).hexdigest()[:6]}"
    name += "" if to_run else "-read"
    if several():
        name += f"-{jax.process_index()}"
    mirror = _cache() / "o1jax" / "workdirs" / name
    if mirror not in _mirrors:
        bucket = Bucket(url, mirror)
        bucket.clear()
        bucket.pull()
        _mirrors[mirror] = bucket
        say(f"{url} is mirrored in {mirror}")
    return mirror


def bucket_of(folder: Path) -> Bucket | None:
    """The bucket that a folder is the mirror of; None for a plain folder."""
    return _mirrors.get(folder)


def push(folder: Path) -> None:
    """Upload what changed in a folder, if it is a mirror."""
    if bucket := bucket_of(folder):
        bucket.push()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _mirrored(folder: str) -> bool:
    """Whether files below belong into a mirror; the name of a folder ends in /."""
    parts = folder.split("/")
    steps = parts[0] == "rewards" and len(parts) > 3  # rewards/02-reward/000300/
    return parts[0] not in ELSEWHERE and not steps


def _stamp(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_size, about.st_mtime_ns

"""Where checkpoints are: the files below a folder, and the steps among them.

In: a path, or the address of an object store (gs://, s3://) that tensorstore can open.
Out: names and sizes of all files below it, and its steps by stage, whether it is a
workdir, the folder of a stage or one step. Nothing here imports jax, or changes a file.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import tensorstore as ts

CONFIG = "config.gin"  # what a run writes beside its checkpoints
STAMP = "_CHECKPOINT_METADATA"  # orbax writes it into every step
IS_ITEM = {"_METADATA", "manifest.ocdbt"}  # what holds one of these holds arrays
HALF_WRITTEN = re.compile(r"\.(orbax-checkpoint-tmp|partial)\b")
NUMBERED = re.compile(r"(?:.*[_-])?(\d+)")


class Place(NamedTuple):
    """A folder and everything below it."""

    url: str  # an absolute path, or gs://bucket/folder
    files: dict[str, int | None]  # name -> bytes; None in an object store
    folders: frozenset[str]  # names; those of empty ones too, where there is such

    def under(self, folder: str) -> "Place":
        """One of the folders, as a place of its own."""
        if not folder:
            return self
        start = f"{folder}/"
        files = {
            name.removeprefix(start): size
            for name, size in self.files.items()
            if name.startswith(start)
        }
        below = (name for name in self.folders if name.startswith(start))
        folders = frozenset(name.removeprefix(start) for name in below)
        return Place(join(self.url, folder), files, folders)

    def read(self, name: str) -> bytes:
        """The content of a file; OSError if it can't be read."""
        return read_file(join(self.url, name))

    @property
    def store(self) -> str | dict[str, Any]:
        """The same folder as tensorstore's key-value store."""
        return _store(self.url)


class Step(NamedTuple):
    """A checkpoint of one step, as far as its name tells."""

    name: str  # of its folder, below the place; "" is the place itself
    number: int | None
    state: str  # "" for a step that was committed, "half-written" or "moved aside"


class Stage(NamedTuple):
    """The steps of one folder, oldest first."""

    name: str
    steps: tuple[Step, ...]

    @property
    def newest(self) -> Step | None:
        """The committed step with the highest number."""
        return next((step for step in reversed(self.steps) if not step.state), None)


def find_place(where: str | os.PathLike) -> Place:
    """List the files there. ValueError if there is no such folder."""
    where = os.fspath(where)
    if "://" in where and not where.startswith("file://"):
        return _bucket(where.rstrip("/"))
    root = Path(where.removeprefix("file://")).expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"{where}: not a folder" if root.exists() else _unknown(where))
    files, folders = {}, set()
    for folder, names, leaves in os.walk(root):
        below = PurePosixPath(Path(folder).relative_to(root).as_posix())
        folders.update(str(below / name) for name in names)
        for name in leaves:
            try:
                files[str(below / name)] = os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue  # a run that is being written moves its files
    return Place(str(root), files, frozenset(folders))


def _bucket(url: str) -> Place:
    try:
        keys = ts.KvStore.open(_store(url)).result().list().result()
    except ValueError as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"{url} can't be listed: {line}") from None
    names = [key.decode() for key in keys if not key.endswith(b"/")]
    if not names:
        raise ValueError(_unknown(url))
    folders = {
        str(parent) for name in names for parent in PurePosixPath(name).parents
    } - {"."}
    return Place(url, dict.fromkeys(names), frozenset(folders))


def _unknown(where: str) -> str:
    return f"{where}: no such folder"


def read_file(url: str) -> bytes:
    """The content of a file or an object; OSError if it can't be read."""
    if "://" not in url:
        return Path(url).read_bytes()
    folder, _, name = url.rpartition("/")
    try:
        read = ts.KvStore.open(_store(folder)).result().read(name).result()
    except ValueError as error:
        raise OSError(5, str(error).splitlines()[0], url) from None
    if read.state != "value":
        raise FileNotFoundError(2, "no such object", url)
    return read.value


def find_config(place: Place) -> tuple[str, str] | None:
    """The config.gin of the run that a step belongs to: its address and its text."""
    url = place.url
    for _ in range(4):  # WORKDIR/checkpoints/01-stage/000100
        try:
            return join(url, CONFIG), read_file(join(url, CONFIG)).decode()
        except (OSError, UnicodeDecodeError):
            url = url.rpartition("/")[0]
            if not url.strip("/") or url.endswith(":/"):
                break
    return None


def find_stages(place: Place) -> list[Stage]:
    """The steps below a place by the folder that holds them, sorted by name.

    One stage with the one step "" if the place is itself a step.
    """
    own = place.url.rpartition("/")[2]
    marks = _marks(place)
    if _is_step("", own, marks):
        return [Stage("", (Step("", _number(own), _state(own)),))]
    stages: dict[str, list[Step]] = {}
    taken: set[str] = set()
    for name in sorted(place.folders, key=lambda name: (name.count("/"), name)):
        if any(str(parent) in taken for parent in PurePosixPath(name).parents):
            continue
        stage, _, last = name.rpartition("/")
        if _is_step(name, last, marks):
            taken.add(name)
            step = Step(name, _number(last), _state(last))
            stages.setdefault(stage, []).append(step)
    return [
        Stage(name, tuple(sorted(steps, key=lambda s: (s.number or 0, s.name))))
        for name, steps in sorted(stages.items())
    ]


class _Marks(NamedTuple):
    """Folders by what they directly hold; "" is the place itself."""

    stamped: set[str]  # orbax's stamp
    items: set[str]  # an item's metadata
    has_items: set[str]  # an item
    has_steps: set[str]  # a stamped folder


def _marks(place: Place) -> _Marks:
    stamped, items = set(), set()
    for name in place.files:
        folder, _, last = name.rpartition("/")
        if last == STAMP:
            stamped.add(folder)
        elif last in IS_ITEM and not PurePosixPath(folder).name.startswith("ocdbt."):
            items.add(folder)
    inside = [folder.rpartition("/") for folder in items if folder]
    has_items = {head for head, _, last in inside if not NUMBERED.fullmatch(last)}
    has_steps = {folder.rpartition("/")[0] for folder in stamped if folder}
    return _Marks(stamped, items, has_items, has_steps)


def _is_step(name: str, last: str, marks: _Marks) -> bool:
    if HALF_WRITTEN.search(last):
        return True
    if name in marks.stamped | marks.items | marks.has_items:
        return True
    # All that told of it may be lost, but for its number and where it is.
    stage = name.split("/")[:-1]
    known = len(stage) < 2 or stage[-2] in ("checkpoints", "rewards")
    return last.isdecimal() and known and name not in marks.has_steps


def _number(last: str) -> int | None:
    found = NUMBERED.fullmatch(HALF_WRITTEN.split(last)[0])
    return int(found[1]) if found else None


def _state(last: str) -> str:
    if HALF_WRITTEN.search(last):
        return "half-written"
    return "moved aside" if last.startswith("broken-") else ""


def join(url: str, name: str) -> str:
    """An address below another."""
    return f"{url.rstrip('/')}/{name}" if name else url


def _store(url: str) -> str | dict[str, Any]:
    return f"{url}/" if "://" in url else {"driver": "file", "path": f"{url}/"}

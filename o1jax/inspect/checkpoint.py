"""What a checkpoint holds, read from its metadata alone, on any machine, without jax.

In: the folder of one step, of o1jax or of any orbax writer (API v0 or v1; zarr2 or
zarr3; OCDBT or not). Out: its arrays, what each is for, the documents beside them
(position of the data, ledger), the run's config, and a line for every file that is
missing, cut or half-written; all the rest is there nevertheless.
"""

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from o1jax.inspect.checkpoint_item import Array, read_item
from o1jax.inspect.checkpoint_place import (
    HALF_WRITTEN,
    IS_ITEM,
    STAMP,
    Place,
    find_config,
)

FILE_LIST = "files.json"  # o1jax's own list: {file: [bytes, crc32]}
V1_MARK = "orbax.checkpoint"  # an empty file that API v1 leaves
OPTIMIZER = re.compile(r"opt|(opt|optimizer)_?states?|optimizer")
COUNTERS = re.compile(r"step|count|key|rng|seed")


class Checkpoint(NamedTuple):
    """One step."""

    url: str
    number: int | None
    writer: str  # such as "orbax v0"
    format: str  # such as "zarr2 in OCDBT"
    processes: int  # that wrote arrays; 0 if that can't be told
    written: str  # when it was committed, UTC; "" if unknown
    params: tuple[Array, ...]
    optimizer: tuple[Array, ...]
    other: tuple[Array, ...]  # step, keys and the like
    leaves: dict[str, str]  # path -> text, None or an empty node: not an array
    documents: dict[str, Any]  # item -> its JSON, such as position and ledger
    config: tuple[str, str] | None  # address and text of the run's config.gin
    files: int
    stored: int | None  # bytes of all files; None in an object store
    problems: tuple[str, ...]  # a line each, that begins with the file

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All of them."""
        return self.params + self.optimizer + self.other


def read_checkpoint(place: Place, number: int | None = None) -> Checkpoint:
    """Read the metadata of a step. What can't be read is among the problems."""
    problems = dict(_damage(place))
    stamp = _read_json(place, STAMP, problems) if STAMP in place.files else {}
    if stamp and not stamp.get("commit_timestamp_nsecs"):
        problems.setdefault(STAMP, "half-written: it tells of no commit")
    documents = {
        folder: _read_json(place, f"{folder}/metadata", problems)
        for folder in sorted(place.folders)
        if "/" not in folder and f"{folder}/metadata" in place.files
    }
    if stamp.get("custom_metadata"):
        documents["custom_metadata"] = stamp["custom_metadata"]
    handlers = stamp.get("item_handlers")
    promised = handlers if isinstance(handlers, dict) else {}
    items = _items(place)
    for name in promised.keys() - documents.keys():
        if "Json" in str(promised[name]):
            problems.setdefault(f"{name}/metadata", "missing")
        else:
            items.add(name)
    arrays, leaves, formats = [], {}, {}
    for name in sorted(items):
        if name and name not in place.folders:
            problems.setdefault(name, "missing")
            continue
        item = read_item(place.under(name))
        formats[item.format] = None
        prefix = f"{name}/" if name and len(items) > 1 else ""
        arrays += [array._replace(path=prefix + array.path) for array in item.arrays]
        leaves |= {prefix + path: text for path, text in item.leaves.items()}
        for problem in item.problems:
            file = f"{name}/{problem.file}" if name else problem.file
            text = problem.text + _taken(problem.arrays)
            known = problems.get(file)  # a line a file: its size, then what it held
            problems[file] = text if known is None else known + _taken(problem.arrays)
    params, optimizer, other = _by_kind(arrays)
    sizes = list(place.files.values())
    folders = {name.split("/")[-2] for name in place.files if name.count("/")}
    return Checkpoint(
        url=place.url,
        number=number,
        writer=_writer(place, stamp),
        format=" and ".join(formats) or "no arrays",
        processes=sum(folder.startswith("ocdbt.process_") for folder in folders),
        written=_time(stamp.get("commit_timestamp_nsecs")),
        params=params,
        optimizer=optimizer,
        other=other,
        leaves=leaves,
        documents=documents,
        config=find_config(place),
        files=len(sizes),
        stored=None if None in sizes else sum(sizes),
        problems=tuple(f"{f}: {p}" if f else p for f, p in sorted(problems.items())),
    )


def _damage(place: Place) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) by the sizes that a save lists, of every file it lists."""
    if HALF_WRITTEN.search(place.url.rpartition("/")[2]):
        yield "", "half-written: this save was never committed"
    if not place.files:
        yield "", "there are no files"
    if FILE_LIST not in place.files:
        return
    for name, (size, _) in _file_list(place).items():
        found = place.files.get(name, -1)
        if found == -1:
            yield name, "missing"
        elif found is not None and found != size:
            yield name, f"{found:,} bytes instead of {size:,}"


def _file_list(place: Place) -> dict[str, tuple[int, int]]:
    try:
        listed = json.loads(place.read(FILE_LIST))
        return {
            str(name): (int(size), int(crc)) for name, (size, crc) in listed.items()
        }
    except (ValueError, AttributeError, TypeError, OSError):
        return {}


def wrong_checksums(place: Place) -> Iterator[tuple[int, str]]:
    """(bytes read, problem or "") of each file that a save lists: it reads them all."""
    for name, (size, checksum) in _file_list(place).items():
        if place.files.get(name) != size:
            continue  # told already
        found = 0
        with open(Path(place.url) / name, "rb") as file:
            while block := file.read(1 << 20):
                found = zlib.crc32(block, found)
        yield size, "" if found == checksum else f"{name}: wrong checksum"


def _items(place: Place) -> set[str]:
    """Folders that hold arrays; "" for the step itself."""
    parents = {
        name.rpartition("/")[0]
        for name in place.files
        if name.rpartition("/")[2] in IS_ITEM
    }
    return {p for p in parents if not p.rpartition("/")[2].startswith("ocdbt.process_")}


def _read_json(place: Place, name: str, problems: dict[str, str]) -> dict[str, Any]:
    try:
        content = json.loads(place.read(name))
        if isinstance(content, dict):
            return content
        problems.setdefault(name, "not a JSON object")
    except (ValueError, OSError):
        problems.setdefault(name, "not JSON")
    return {}


def _taken(names: Sequence[str]) -> str:
    """Which arrays a problem concerns."""
    if not names:
        return ""
    more = f" and {len(names) - 2:,} more" if len(names) > 3 else ""
    return f" ({', '.join(names[: 2 if more else 3])}{more})"


def _by_kind(
    arrays: Sequence[Array],
) -> tuple[tuple[Array, ...], tuple[Array, ...], tuple[Array, ...]]:
    """Parameters, optimizer state and the rest, by what their paths say."""
    params, optimizer, other = [], [], []
    named = any("params" in array.path.split("/") for array in arrays)
    for array in arrays:
        keys = array.path.split("/")
        if any(OPTIMIZER.fullmatch(key) for key in keys):
            optimizer.append(array)
        elif "params" in keys if named else not COUNTERS.search(keys[-1].lower()):
            params.append(array)
        else:
            other.append(array)
    return tuple(params), tuple(optimizer), tuple(other)


def _writer(place: Place, stamp: dict[str, Any]) -> str:
    if V1_MARK in place.files or "experimental.v1" in json.dumps(
        stamp.get("item_handlers", "")
    ):
        return "orbax v1"
    return "orbax v0" if stamp else "orbax"


def _time(nanoseconds: Any) -> str:
    if not isinstance(nanoseconds, int) or nanoseconds <= 0:
        return ""
    when = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"

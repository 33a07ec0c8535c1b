"""What is stored of each array: its zarr metadata and where its chunks lie.

In: the folder of an item (a pytree of arrays), as orbax writes it: zarr2 or zarr3, each
array in files of its own or all of them in an OCDBT database. Out: metadata and chunks
by name of array, and what is missing or cut, without reading a chunk. Sources: zarr
specifications 2 and 3; the OCDBT format in tensorstore's documentation.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import tensorstore as ts

from o1jax.inspect.checkpoint_place import Place

DOCUMENTS = {".zarray": "zarr", "zarr.json": "zarr3"}  # file -> tensorstore's driver
MANIFEST = "manifest.ocdbt"


class Blob(NamedTuple):
    """Where the bytes of a chunk lie."""

    file: str  # below the item; "" if the database's own nodes hold them
    end: int  # of the bytes in the file; 0 if that is all of it
    size: int | None  # as compressed; None in an object store


class Zarr(NamedTuple):
    """The zarr metadata of an array."""

    version: int  # 2 or 3
    shape: tuple[int, ...]
    dtype: str  # numpy's or ml_dtypes' name
    chunk_shape: tuple[int, ...]  # what one device wrote, or less
    read_shape: tuple[int, ...]  # the least that can be decoded
    codec: str  # zstd, or "" for none


class StoredArray(NamedTuple):
    """An array of an item, as stored."""

    name: str  # keys of the tree, joined by dots
    zarr: Zarr | None  # None if the metadata is lost
    chunks: dict[str, Blob]  # by key, such as 0.1 or c/0/1
    spec: dict[str, Any]  # tensorstore's, to open it


class Problem(NamedTuple):
    """What is wrong with a file."""

    file: str  # below the item
    text: str
    arrays: tuple[str, ...] = ()  # names of those that it takes away


class Stored(NamedTuple):
    """All arrays of an item."""

    format: str  # such as "zarr3 in OCDBT"
    arrays: dict[str, StoredArray]
    problems: list[Problem]


def read_stored(place: Place) -> Stored:
    """Find the arrays of an item. Whatever is wrong is among the problems."""
    databases = [name for name in place.files if name.split("/")[-1] == MANIFEST]
    if not databases:
        values = {name: Blob(name, 0, size) for name, size in place.files.items()}
        return _stored(place, place.store, values, [])
    values, problems = _walk(place, "")
    stored = _stored(place, _database(place, ""), values, problems)
    if not problems:
        return stored
    # Each process wrote a database of its own before orbax merged them.
    arrays = stored.arrays
    for name in sorted(databases):
        if folder := name.removesuffix(MANIFEST).strip("/"):
            values, _ = _walk(place, folder)
            own = _stored(place, _database(place, folder), values, []).arrays
            for array in own.values():
                known = arrays.get(array.name)
                if known is None or len(known.chunks) < len(array.chunks):
                    arrays[array.name] = array
    return stored._replace(format=_format(arrays, True), arrays=arrays)


def _database(place: Place, folder: str) -> dict[str, Any]:
    return {"driver": "ocdbt", "base": place.under(folder).store}


def _walk(place: Place, folder: str) -> tuple[dict[str, Any], list[Problem]]:
    """Values of a database by key: bytes that its nodes hold, a Blob for others.

    The B+tree is read level by level; a child stores its keys without the prefix that
    its parent gives for it.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    start = f"{folder}/" if folder else ""
    try:
        base = ts.KvStore.open(place.under(folder).store).result()
        root = ts.ocdbt.dump(base).result()["versions"][-1]["root"]
    except (ValueError, LookupError, TypeError) as error:
        return values, [Problem(start + MANIFEST, reason(error))]
    level = [(b"", root["location"])] if "location" in root else []
    while level:
        dumps = [ts.ocdbt.dump(base, location) for _, location in level]
        below = []
        for (prefix, location), dump in zip(level, dumps):
            try:
                entries = dump.result()["entries"]
            except (ValueError, LookupError, TypeError) as error:
                file, _, _ = _located(location)
                problems.append(Problem(start + file, reason(error)))
                continue
            for entry in entries:
                if "location" in entry:
                    common = entry.get("subtree_common_prefix", b"")
                    below.append((prefix + common, entry["location"]))
                    continue
                key = (prefix + entry["key"]).decode()
                if "inline_value" in entry:
                    values[key] = entry["inline_value"]
                else:
                    file, offset, size = _located(entry["indirect_value"])
                    values[key] = Blob(start + file, offset + size, size)
        level = below
    return values, problems


def _located(location: str) -> tuple[str, int, int]:
    """File, offset and length of `kind:base:file:offset:length`, as percent-encoded."""
    _, base, file, offset, size = location.split(":")
    return unquote(base) + unquote(file), int(offset), int(size)


def _stored(
    place: Place,
    store: str | dict[str, Any],
    values: dict[str, Any],
    problems: list[Problem],
) -> Stored:
    """Sort the values into arrays, and look whether the chunks' files are there."""
    arrays: dict[str, StoredArray] = {}
    problems = list(problems)
    keys = [key for key in values if key.rpartition("/")[2] in DOCUMENTS]
    opened = ts.KvStore.open(store).result()
    reads = {key: opened.read(key) for key in keys if isinstance(values[key], Blob)}
    for key in keys:
        name, _, document = key.rpartition("/")
        zarr = None
        try:
            content = reads[key].result().value if key in reads else values[key]
            zarr = parse_zarr(json.loads(content))
        except (ValueError, LookupError, TypeError) as error:
            text = f"not the metadata of an array: {reason(error)}"
            problems.append(Problem(key, text, (name,)))
        spec = {"driver": DOCUMENTS[document], "kvstore": _below(store, name)}
        arrays[name] = StoredArray(name, zarr, {}, spec)
    for key, value in values.items():
        name = key.rpartition("/")[0]
        while name and name not in arrays:
            name = name.rpartition("/")[0]
        chunk = key[len(name) + 1 :]
        if name and chunk not in DOCUMENTS and not chunk.startswith((".", "_")):
            inline = Blob("", 0, len(value)) if isinstance(value, bytes) else value
            arrays[name].chunks[chunk] = inline
    problems += _cut_files(place, arrays)
    problems += (p for array in arrays.values() for p in _lost_chunks(array))
    is_database = isinstance(store, dict) and store["driver"] == "ocdbt"
    return Stored(_format(arrays, is_database), arrays, problems)


def _below(store: str | dict[str, Any], name: str) -> Any:
    """The key-value store of one array."""
    if isinstance(store, str):
        return f"{store}{name}/"
    return {**store, "path": f"{store.get('path', '')}{name}/"}


def _format(arrays: dict[str, StoredArray], is_database: bool) -> str:
    versions = sorted({array.zarr.version for array in arrays.values() if array.zarr})
    zarr = " and ".join(f"zarr{version}" for version in versions) or "no arrays"
    return f"{zarr} in OCDBT" if is_database else f"{zarr}, a folder an array"


def _cut_files(place: Place, arrays: dict[str, StoredArray]) -> Iterator[Problem]:
    """Files that are gone, or end before the last chunk that should lie in them."""
    ends: dict[str, int] = {}
    users: dict[str, dict[str, None]] = {}  # as an ordered set
    for array in arrays.values():
        for blob in array.chunks.values():
            ends[blob.file] = max(ends.get(blob.file, 0), blob.end)
            users.setdefault(blob.file, {})[array.name] = None
    for file in sorted(ends.keys() - {""}):
        size = place.files.get(file, -1)
        if size == -1:
            yield Problem(file, "missing", tuple(users[file]))
        elif size is not None and size < ends[file]:
            text = f"{size:,} bytes instead of {ends[file]:,} or more"
            yield Problem(file, text, tuple(users[file]))
        elif size == 0:
            yield Problem(file, "empty", tuple(users[file]))


def _lost_chunks(array: StoredArray) -> Iterator[Problem]:
    """Chunks of the array's grid that nothing was written for."""
    if array.zarr is None or len(array.chunks) >= math.prod(grid(array.zarr)):
        return
    for index in np.ndindex(*grid(array.zarr)):
        key = _chunk_key(array, index)
        if key not in array.chunks:
            yield Problem(f"{array.name}/{key}", "missing", (array.name,))


def grid(zarr: Zarr) -> tuple[int, ...]:
    """How many chunks there are along each axis."""
    return tuple(
        -(-size // max(chunk, 1)) for size, chunk in zip(zarr.shape, zarr.chunk_shape)
    )


def _chunk_key(array: StoredArray, index: tuple[int, ...]) -> str:
    slash = any("/" in key for key in array.chunks)
    if array.zarr.version == 2:
        return ("/" if slash else ".").join(map(str, index)) or "0"
    return "/".join(["c", *map(str, index)])


def parse_zarr(document: dict[str, Any]) -> Zarr:
    """Read a .zarray or zarr.json. ValueError, KeyError or TypeError if it is none."""
    version, shape = document["zarr_format"], tuple(document["shape"])
    if version == 2:
        chunk = tuple(document["chunks"])
        compressor = document["compressor"] or {}
        codec = compressor.get("id", "")
        return Zarr(2, shape, _dtype(document["dtype"]), chunk, chunk, codec)
    chunk = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    codecs, read = document["codecs"], chunk
    while codecs and codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        codecs, read = inner["codecs"], tuple(inner["chunk_shape"])
    names = [c["name"] for c in codecs if c["name"] not in ("bytes", "crc32c")]
    return Zarr(3, shape, _dtype(document["data_type"]), chunk, read, ", ".join(names))


def _dtype(name: str) -> str:
    """float32 of "<f4" and of "float32"; bfloat16 and the like as they are."""
    return np.dtype(name).name if name[:1] in "<>|" else ts.dtype(name).name


def reason(error: Exception) -> str:
    """The end of the first line: what tensorstore says after all its paths."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    if "not found" in line.lower() or "NOT_FOUND" in line:
        return "missing"
    return re.sub(r'^.*"[^"]*"(\[[^\]]*\])?: ', "", line)

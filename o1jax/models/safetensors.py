"""Safetensors files, read and written a tensor at a time.

In: a folder with model.safetensors, or with parts and their index. Out: tensors by
name, each read when it is asked for. A file is 8 bytes of length, a JSON header, and
the bytes of all tensors (https://github.com/huggingface/safetensors). Their library
has no bfloat16 for numpy and wants all tensors in memory to write one file.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LONGEST = 100 << 20  # bytes of a header, as in the format's own library


class Tensor(NamedTuple):
    """A tensor that is read when it is asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Planned(NamedTuple):
    """A tensor to write."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model's folder. ValueError names the file that is wrong."""
    index = folder / INDEX
    if not index.exists():
        files = sorted(folder.glob("*.safetensors"))
        if len(files) > 1 and folder / SINGLE in files:
            files = [folder / SINGLE]
        if len(files) != 1:
            raise ValueError(
                f"{folder}: {len(files)} .safetensors files and no {INDEX}: which?"
            )
        return read_file(files[0])
    try:
        place = json.loads(index.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{index}: not an index of tensors") from None
    parts = {name: read_file(folder / name) for name in sorted(set(place.values()))}
    for name, part in place.items():
        if name not in parts[part]:
            raise ValueError(
                f"{folder / part}: no tensor {name}, which the index lists"
            )
    return {name: tensor for part in parts.values() for name, tensor in part.items()}


def read_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, none of them read yet."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 0 < length <= min(LONGEST, size - 8):
                raise ValueError(f"{file}: cut off, or not a safetensors file")
            header = json.loads(opened.read(length))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{file}: its header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError(f"{file}: its header lists no tensors")
    header.pop("__metadata__", None)
    return {
        name: _tensor(file, name, entry, 8 + length, size)
        for name, entry in header.items()
    }


def _tensor(file: Path, name: str, entry: Mapping, data: int, size: int) -> Tensor:
    try:
        named, shape = entry["dtype"], tuple(map(int, entry["shape"]))
        begin, end = map(int, entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{file}: what its header says of {name} is broken") from None
    if named not in DTYPES:
        raise ValueError(f"{file}: {name} is {named}; o1jax reads {', '.join(DTYPES)}")
    dtype = DTYPES[named]
    count = math.prod(shape)
    if end - begin != count * dtype.itemsize or begin < 0:
        raise ValueError(f"{file}: {name} has {end - begin} bytes for {list(shape)}")
    if data + end > size:
        raise ValueError(f"{file}: cut off: {name} ends at byte {data + end} of {size}")

    def read() -> np.ndarray:
        flat = np.fromfile(file, dtype, count, offset=data + begin)
        if flat.size != count:
            raise ValueError(f"{file}: cut off while {name} was read")
        return flat.reshape(shape)

    return Tensor(shape, dtype, read)


def parts(planned: Sequence[Planned], most: int) -> list[list[Planned]]:
    """The tensors cut into files of at most `most` bytes each, or one tensor."""
    cut: list[list[Planned]] = [[]]
    used = 0
    for tensor in planned:
        if cut[-1] and used + tensor.nbytes > most:
            cut.append([])
            used = 0
        cut[-1].append(tensor)
        used += tensor.nbytes
    return cut


def write_folder(
    folder: Path,
    planned: Sequence[Planned],
    tensors: Iterable[np.ndarray],
    *,
    most: int,
) -> None:
    """Writes the tensors, in the order planned, to one file or parts and an index."""
    tensors, cut = iter(tensors), parts(planned, most)
    place = {}
    for number, part in enumerate(cut, 1):
        name = SINGLE
        if len(cut) > 1:
            name = f"model-{number:05d}-of-{len(cut):05d}.safetensors"
        _write_file(folder / name, part, tensors)
        place |= {tensor.name: name for tensor in part}
    if len(cut) > 1:
        size = sum(tensor.nbytes for tensor in planned)
        index = {"metadata": {"total_size": size}, "weight_map": place}
        (folder / INDEX).write_text(json.dumps(index, indent=2))


def _write_file(
    file: Path, planned: Sequence[Planned], tensors: Iterable[np.ndarray]
) -> None:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for tensor in planned:
        header[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for tensor, array in zip(planned, tensors):
            if array.shape != tensor.shape or array.dtype != tensor.dtype:
                raise AssertionError(f"{tensor.name} is not as planned")
            np.ascontiguousarray(array).tofile(out)
        out.flush()
        os.fsync(out.fileno())

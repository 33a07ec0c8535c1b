"""The arrays of a checkpoint as a table that is a tree, what is alike drawn once.

In: metadata of the arrays. Out: rows of cells, the first with the lines that lead to
it. Layers that are alike (layer_0, layer_1, ...) become one row with their count, and a
moment of the optimizer, with an array for each parameter, becomes one row as well.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from o1jax.inspect.checkpoint import Checkpoint
from o1jax.inspect.checkpoint_item import Array
from o1jax.inspect.checkpoint_lines import count
from o1jax.inspect.report import quantity


class Row(NamedTuple):
    """A line of the tree: an array, several alike, or a folder of them."""

    guide: str
    name: str
    arrays: tuple[Array, ...]  # () for a folder
    note: str = ""  # said instead of the arrays' shape


class Slot(NamedTuple):
    """Arrays of the optimizer that mirror the parameters, such as a moment."""

    path: str  # opt_state/1/0/mu
    arrays: tuple[Array, ...]  # one a parameter, in the same order
    differs: str  # what is not as for the parameters: "", dtype, sharding or both


NUMBER = re.compile(r"(.*?)(\d+)(.*)")
LEAST_ALIKE = 3  # numbered siblings that become one row

Node = dict[str, "Node | Array"]


def tree_rows(arrays: Sequence[Array], root_name: str = "") -> list[Row]:
    """Rows of all arrays as they come; paths without a first key of that name."""
    root: Node = {}
    for array in arrays:
        *folders, last = array.path.removeprefix(f"{root_name}/").split("/")
        node = root
        for folder in folders:
            inner = node.setdefault(folder, {})
            # A path may be an array and a folder: the folder is then named apart.
            if not isinstance(inner, dict):
                inner = node.setdefault(f"{folder}/", {})
            node = inner
        node[last] = array
    return list(_rows(root, ""))


def _rows(node: Node, guide: str) -> Iterator[Row]:
    groups = _alike(node)
    for index, (name, inner, arrays) in enumerate(groups):
        is_last = index + 1 == len(groups)
        while isinstance(inner, dict) and len(inner) == 1:  # a/b/c on one line
            ((key, inner),) = inner.items()
            arrays = [below for one in arrays for below in one.values()]
            name = f"{name}/{key}"
        elbow = "└─ " if is_last else "├─ "
        if isinstance(inner, dict):
            yield Row(guide + elbow, name, ())
            below = guide + ("   " if is_last else "│  ")
            yield from _rows(_merged(arrays), below)
        else:
            yield Row(guide + elbow, name, tuple(_leaves(arrays)))


def _merged(nodes: Sequence[Node]) -> Node:
    """Alike nodes as one, each leaf a list of theirs."""
    if len(nodes) == 1:
        return nodes[0]
    first = nodes[0]
    return {
        key: _merged([node[key] for node in nodes])
        if isinstance(first[key], dict)
        else [leaf for node in nodes for leaf in _leaves([node[key]])]
        for key in first
    }


def _leaves(nodes: Sequence) -> Iterator[Array]:
    for node in nodes:
        if isinstance(node, list):
            yield from node
        else:
            yield node


def _alike(node: Node) -> list[tuple[str, Node, list[Node]]]:
    """(name, the first of them, all of them) of children that are alike."""
    groups: dict[tuple, list[str]] = {}
    for key, inner in node.items():
        number = NUMBER.fullmatch(key)
        own = (number[1], number[3]) if number else (key,)
        groups.setdefault((*own, _signature(inner)), []).append(key)
    found = []
    for keys in groups.values():
        numbers = [int(NUMBER.fullmatch(key)[2]) for key in keys[1:] and keys]
        low, high = min(numbers, default=0), max(numbers, default=0)
        if len(keys) >= LEAST_ALIKE and high - low + 1 == len(keys):
            before, _, after = NUMBER.fullmatch(keys[0]).groups()
            name = f"{before}{{{low}…{high}}}{after}"
            found.append((name, node[keys[0]], [node[key] for key in keys]))
        else:
            found += [(key, node[key], [node[key]]) for key in keys]
    return found


def _signature(node: "Node | Array | list") -> object:
    if isinstance(node, dict):
        return tuple((key, _signature(inner)) for key, inner in node.items())
    array = next(_leaves([node]))
    return array.zarr, array.sharding, array.problems, array.chunks


def optimizer_slots(checkpoint: Checkpoint) -> tuple[list[Slot], list[Array]]:
    """The optimizer's state: what mirrors the parameters, and the rest."""
    params: dict[str, Array] = {}
    for array in checkpoint.params:
        keys = array.path.split("/")
        start = keys.index("params") + 1 if "params" in keys else 0
        params["/".join(keys[start:])] = array
    slots: dict[str, dict[str, Array]] = {}
    for array in checkpoint.optimizer:
        keys = array.path.split("/")
        tails = ("/".join(keys[i:]) for i in range(1, len(keys)))
        tail = next((t for t in tails if t in params), None)
        if tail and array.shape == params[tail].shape:
            slot = array.path.removesuffix(f"/{tail}")
            slots.setdefault(slot, {})[tail] = array
    whole = [
        Slot(slot, tuple(found.values()), _differs(found, params))
        for slot, found in slots.items()
        if found.keys() == params.keys()
    ]
    taken = {array.path for slot in whole for array in slot.arrays}
    return whole, [a for a in checkpoint.optimizer if a.path not in taken]


def _differs(found: dict[str, Array], params: dict[str, Array]) -> str:
    pairs = [(array, params[tail]) for tail, array in found.items()]
    names = {
        "dtype": any(a.dtype != p.dtype for a, p in pairs),
        "sharding": any(a.sharding != p.sharding for a, p in pairs),
    }
    return " and ".join(name for name, differs in names.items() if differs)


class Part(NamedTuple):
    """A row of the table of arrays."""

    cells: list[str]  # name, shape, dtype, sharding, chunks, bytes, stored
    style: str


def array_parts(checkpoint: Checkpoint) -> Iterator[Part]:
    """The table of arrays: parameters, optimizer, others, what is no array."""
    slots, rest = optimizer_slots(checkpoint)
    trees = {
        "params": (checkpoint.params, checkpoint.params),
        "optimizer": (checkpoint.optimizer, rest),
        "other": (checkpoint.other, checkpoint.other),
    }
    for title, (arrays, drawn) in trees.items():
        if not arrays:
            continue
        total = count(len(arrays), "array")
        yield Part([title, total, "", "", "", *_sizes(arrays)], "bold")
        if title == "optimizer":
            yield from (Part(_slot_row(slot), "") for slot in slots)
        for row in tree_rows(drawn, title):
            broken = any(array.problems for array in row.arrays)
            yield Part(_row(row), "red" if broken else "")
    for path, text in checkpoint.leaves.items():
        yield Part([path, text, *[""] * 5], "dim")


def _slot_row(slot: Slot) -> list[str]:
    like = "like params" + (f" but for {slot.differs}" if slot.differs else "")
    dtypes = dtypes_text(slot.arrays)
    return [f"├─ {slot.path}", like, dtypes, "", "", *_sizes(slot.arrays)]


def _row(row: Row) -> list[str]:
    if not row.arrays:
        return [row.guide + row.name, *[""] * 6]
    first, several = row.arrays[0], len(row.arrays)
    shape = shape_text(first)
    if first.value is not None and several == 1:
        shape = f"= {first.value:.6g}"
    return [
        row.guide + row.name,
        f"{several} of {shape}" if several > 1 else shape,
        first.dtype,
        first.sharding.text if first.sharding else "",
        chunk_text(first),
        *_sizes(row.arrays),
    ]


def _sizes(arrays: Sequence[Array]) -> list[str]:
    stored = [array.stored for array in arrays]
    on_disk = None if None in stored else sum(stored)
    return [bytes_text(sum(a.nbytes for a in arrays)), bytes_text(on_disk)]


def shape_text(array: Array) -> str:
    """32 × 96."""  # noqa: RUF002
    if array.zarr is None:
        return "lost"
    return " × ".join(map(str, array.shape)) or "scalar"  # noqa: RUF001


def chunk_text(array: Array) -> str:
    """How it is cut: 8 of 32 × 8; nothing for a single chunk."""  # noqa: RUF002
    zarr = array.zarr
    if zarr is None or (array.chunks == 1 and zarr.read_shape == zarr.shape):
        return ""
    text = " × ".join(map(str, zarr.chunk_shape))  # noqa: RUF001
    inner = " × ".join(map(str, zarr.read_shape))  # noqa: RUF001
    return f"{array.chunks:,} of {text}" + (f" in {inner}" if inner != text else "")


def bytes_text(count: int | None) -> str:
    """1.23 MB, in powers of ten."""
    if count is None:
        return ""
    return f"{count} B" if count < 1000 else f"{quantity(count)}B"


def dtypes_text(arrays: Sequence[Array]) -> str:
    """float32, or all of them with the most common first."""
    counts: dict[str, int] = {}
    for array in arrays:
        if array.zarr:
            counts[array.dtype] = counts.get(array.dtype, 0) + array.size
    return ", ".join(sorted(counts, key=counts.get, reverse=True))

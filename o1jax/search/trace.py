"""One tree of one problem in plain text and numbers: what is drawn, kept and read.

In: search.nodes.Nodes and a decoder. Out: a Trace, and its JSON form, which is checked
when it is read: a mapping with the fields of the class, columns over nodes as lists.
Node 0 is the root, whose step is empty, for it is the question; a parent comes before
its children. Files hold one trace a line.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from o1jax.search.harvest import on_host
from o1jax.search.nodes import Nodes
from o1jax.search.saving import written_whole
from o1jax.types import Spent

ANSWER_VERDICTS = ("right", "wrong", "not graded")
# Column -> type of its entries. Their order is that of the JSON form.
COLUMNS: dict[str, type] = {
    "parent": int,
    "action": int,
    "step": str,
    "visits": int,
    "value": float,
    "raw_value": float,
    "logprob": float,
    "finished": bool,
    "verdict": str,
}
NAMES = {int: "a whole number", str: "a text", float: "a finite number", bool: "a bool"}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A tree. ValueError if its columns do not belong together."""

    question: str
    method: str  # what searched, for the reader
    parent: tuple[int, ...]  # -1 for the root
    action: tuple[int, ...]  # which child of its parent; -1 for the root
    step: tuple[str, ...]  # text; the steps of a path, joined, are the path's text
    visits: tuple[int, ...]
    value: tuple[float, ...]  # mean return of the visits
    raw_value: tuple[float, ...]  # the guide's
    logprob: tuple[float, ...]  # of the step, a sum over its tokens
    finished: tuple[bool, ...]  # the step ends an answer
    chosen: int = 0  # the node whose path is the answer; 0: none
    answer_verdict: str = "not graded"
    verdict: tuple[str, ...]  # of each step: "" unknown, "ok", or what is wrong
    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        for name in ("question", "method"):
            _check(name, getattr(self, name), str)
        count = len(self.parent)
        if not count:
            raise ValueError("trace: there is no node in it, not even the root")
        for name, kind in COLUMNS.items():
            column = getattr(self, name)
            for n, entry in enumerate(column):
                _check(f"{name}[{n}]", entry, kind)
            if len(column) != count:
                raise ValueError(
                    f"trace: {name} has {len(column)} entries, parent has {count}"
                )
        if self.parent[0] != -1:
            raise ValueError(f"trace: parent[0] is {self.parent[0]}, a root has -1")
        for n, parent in enumerate(self.parent[1:], start=1):
            if not 0 <= parent < n:
                raise ValueError(f"trace: parent[{n}] is {parent}, no earlier node")
        for n, visits in enumerate(self.visits):
            if visits < 0:
                raise ValueError(f"trace: visits[{n}] is {visits}, below 0")
        _check("chosen", self.chosen, int)
        if not 0 <= self.chosen < count:
            raise ValueError(f"trace: chosen is {self.chosen}, of {count} nodes")
        if self.answer_verdict not in ANSWER_VERDICTS:
            raise ValueError(
                f"trace: answer_verdict is {self.answer_verdict!r}, not one of "
                f"{', '.join(ANSWER_VERDICTS)}"
            )
        for name, number in self.spent._asdict().items():
            _check(f"spent.{name}", number, float)

    def path(self, node: int) -> tuple[int, ...]:
        """Ids from the root to a node."""
        if not 0 <= node < len(self.parent):
            raise ValueError(f"node {node} is none of {len(self.parent)}")
        ids = [node]
        while self.parent[ids[-1]] >= 0:
            ids.append(self.parent[ids[-1]])
        return tuple(reversed(ids))

    def text(self, node: int) -> str:
        """The steps from the root to a node."""
        return "".join(self.step[n] for n in self.path(node))

    def to_json(self) -> dict[str, Any]:
        """A mapping of lists, texts and numbers; from_json() gives the trace back."""
        data = {own.name: getattr(self, own.name) for own in fields(self)}
        columns = {name: list(data[name]) for name in COLUMNS}
        return data | columns | {"spent": self.spent._asdict()}

    @classmethod
    def from_json(cls, data: Any) -> "Trace":
        """The trace of such a mapping; ValueError names what is wrong with it."""
        if not isinstance(data, dict):
            raise ValueError(f"trace: {_shown(data)} is not an object")
        _check_names("", data, [own.name for own in fields(cls)])
        columns = {}
        for name in COLUMNS:
            if not isinstance(data[name], list):
                raise ValueError(f"trace: {name} is {_shown(data[name])}, not a list")
            columns[name] = tuple(data[name])
        if not isinstance(data["spent"], dict):
            raise ValueError(f"trace: spent is {_shown(data['spent'])}, not an object")
        _check_names("spent.", data["spent"], list(Spent._fields))
        return cls(**(data | columns | {"spent": Spent(**data["spent"])}))


def trace_of(
    nodes: Nodes,
    b: int,
    *,
    question: str,
    method: str,
    decode: Callable[[list[int]], str],
    chosen: int = 0,
    answer_verdict: str = "not graded",
    verdict: Sequence[str] | None = None,
    spent: Spent | None = None,
) -> Trace:
    """The tree of problem b. For many problems, give harvest.on_host(nodes).

    decode: the text of token ids. Each step gets what it adds to its path's text, so
    spaces between steps stay. verdict: of each node; spent: numbers of this problem.
    """
    nodes = on_host(nodes)
    used, store = int(nodes.used[b]), nodes.store
    parent = nodes.parent[b, :used].tolist()
    ids: list[list[int]] = []  # of the whole path
    texts: list[str] = []
    steps: list[str] = []
    for n, above in enumerate(parent):
        own = store.tokens[b, n, : store.length[b, n]].tolist()
        before = ids[above] if n else []
        known = texts[above] if n else ""
        ids.append(before + own)
        texts.append(decode(ids[n]))
        # Where a step ends inside a character, the texts do not continue each other.
        fits = texts[n].startswith(known)
        steps.append(texts[n].removeprefix(known) if fits else decode(own))
    column = lambda rows: tuple(rows[b, :used].tolist())
    spent = Spent() if spent is None else spent
    return Trace(
        question=question,
        method=method,
        parent=tuple(parent),
        action=column(nodes.action),
        step=tuple(steps),
        visits=column(nodes.visits),
        value=column(nodes.value),
        raw_value=column(nodes.raw_value),
        logprob=column(np.sum(store.logprob, axis=-1)),
        finished=column(store.finished),
        chosen=int(chosen),
        answer_verdict=answer_verdict,
        verdict=("",) * used if verdict is None else tuple(verdict),
        spent=Spent(*(float(number) for number in spent)),
    )


def write_traces(file: str | os.PathLike, traces: Iterable[Trace]) -> None:
    """Writes traces, one a line; the file is there whole or not at all."""
    with written_whole(file) as out:
        for trace in traces:
            line = json.dumps(trace.to_json(), ensure_ascii=False, allow_nan=False)
            # A lone surrogate is no UTF-8, but JSON can escape it.
            out.write(line.encode("utf-8", "backslashreplace") + b"\n")


def read_traces(file: str | os.PathLike) -> list[Trace]:
    """The traces of a file; ValueError `file:line: reason` for the first bad line."""
    traces = []
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                traces.append(Trace.from_json(json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}:{number}: not JSON: {error.msg}") from error
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}:{number}: not UTF-8") from error
            except RecursionError as error:
                raise ValueError(f"{file}:{number}: nested too deeply") from error
            except ValueError as error:
                raise ValueError(f"{file}:{number}: {error}") from error
    return traces


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _check(name: str, value: object, kind: type) -> None:
    """ValueError unless value is of the kind; a whole number is a float as well."""
    if kind is float:
        fits = type(value) is int or (type(value) is float and math.isfinite(value))
    else:
        fits = type(value) is kind
    if not fits:
        raise ValueError(f"trace: {name} is {_shown(value)}, not {NAMES[kind]}")


def _check_names(prefix: str, data: dict, names: list[str]) -> None:
    for name in names:
        if name not in data:
            raise ValueError(f"trace: {prefix}{name} is missing")
    for name in data:
        if name not in names:
            raise ValueError(f"trace: {prefix}{name} is no field of a trace")

"""Questions and documents by index: from a task, or from a user's files on disk.

In: a task, a JSONL file of questions, or a folder of text. Out: a source, which has
`len(source)` and `source[i]`: an `Example`, or a document as str. A `TaskSource` is
endless; the others are files of records (data/records.py), written once.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from o1jax.config import configurable
from o1jax.data.jsonl import read_jsonl
from o1jax.data.records import (
    LAYOUT,
    RecordSource,
    is_prepared,
    read_prepared,
    write_documents,
    write_examples,
)
from o1jax.tasks.task import SPLITS, Example, Task, split_of

__all__ = [
    "ENDLESS",
    "DatasetConfig",
    "RecordSource",
    "Source",
    "TaskSource",
    "freeze_task",
    "is_prepared",
    "prepare",
    "read_questions",
]

ENDLESS = sys.maxsize  # len() of a source without an end
TEXT_SUFFIXES = (".md", ".txt")


class Source(Protocol):
    """Random access to records; `len` is ENDLESS for a task."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class TaskSource:
    """Every example of one split of a task."""

    task: Task
    seed: int
    split: str

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Example:
        if index < 0:
            raise IndexError(f"an endless source has no index {index}")
        return self.task.example(self.seed, self.split, int(index))


def freeze_task(
    task: Task, directory: str | Path, *, seed: int, sizes: Mapping[str, int]
) -> Path:
    """Write examples 0..sizes[split]-1 of each split; returns `directory`.

    Record i of a split is `task.example(seed, split, i)` without its `hidden` field.
    Raises ValueError if `directory` exists: a frozen set never changes.
    """
    directory = Path(directory)
    if directory.exists():
        raise ValueError(f"{directory} exists already; a frozen task is never changed")

    def examples(split: str) -> Iterator[Example]:
        source = TaskSource(task, seed, split)
        return (source[i] for i in range(sizes[split]))

    write_examples({split: examples(split) for split in sizes}, directory)
    return directory


@configurable
@dataclass(frozen=True)
class DatasetConfig:
    """A user's own data.

    With `path` alone, a record goes to train (14/16), valid or test by a hash of its
    text, so a duplicate never crosses over. With another path, each holds its split.
    """

    # A .jsonl file of questions (data/jsonl.py says of what shapes); a dataset that
    # tensorflow_datasets wrote, of the same shapes; or a folder of .txt and .md files.
    path: str
    valid_path: str = ""
    test_path: str = ""


def prepare(config: DatasetConfig, cache: str | Path) -> Path:
    """Write the records into a folder of `cache`, unless they are there already.

    The folder is named by a hash of the files' content, so a changed file gives a new
    one. Raises ValueError naming file and line of a malformed record; then, as after a
    crash, nothing is left behind that could be mistaken for the dataset.
    """
    paths = dict(zip(SPLITS, (config.path, config.valid_path, config.test_path)))
    paths = {split: Path(path) for split, path in paths.items() if path}
    files = {split: _files(path) for split, path in paths.items()}
    directory = Path(cache) / f"records-{_fingerprint(files)}"
    if directory.exists():
        return directory
    if is_prepared(paths["train"]):
        write_examples(read_questions(config), directory)
    elif paths["train"].is_dir():
        documents = _assign(files, _read_text)
        texts = {split: map(_read_text, chosen) for split, chosen in documents.items()}
        write_documents(texts, directory)
    else:
        examples = {
            split: [example for file in chosen for example in read_jsonl(file)]
            for split, chosen in files.items()
        }
        write_examples(_assign(examples, lambda e: e.question), directory)
    return directory


def read_questions(config: DatasetConfig) -> dict[str, list[Example]]:
    """All questions by split. What valid or test asks too is left out of train.

    A prepared dataset has its own splits (`validation` is valid); where it has no other
    than train, they are made as of one file.
    """
    paths = dict(zip(SPLITS, (config.path, config.valid_path, config.test_path)))
    paths = {split: Path(path) for split, path in paths.items() if path}
    if is_prepared(paths["train"]):
        given = read_prepared(paths["train"])
    else:
        given = {split: read_jsonl(path) for split, path in paths.items()}
    splits = _assign(given, lambda example: example.question)
    held_out = {e.question for k in ("valid", "test") for e in splits.get(k, ())}
    train = [e for e in splits.get("train", ()) if e.question not in held_out]
    return splits | {"train": train}


def _assign(given: Mapping[str, list], text: Callable[[Any], str]) -> dict[str, list]:
    """Items by split: as given if several are, else by a hash of the text."""
    if len(given) > 1:
        return dict(given)
    assigned: dict[str, list] = {split: [] for split in SPLITS}
    for item in given["train"]:
        assigned[split_of(text(item))].append(item)
    return {split: items for split, items in assigned.items() if items}


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(f"no such file or folder: {path}")
    if not path.is_dir():
        return [path]
    if is_prepared(path):
        return [f for f in sorted(path.iterdir()) if f.is_file()]
    files = [f for f in sorted(path.rglob("*")) if f.suffix in TEXT_SUFFIXES]
    files = [f for f in files if f.is_file() and f.stat().st_size]
    if not files:
        raise ValueError(f"{path} holds no .txt or .md file with text")
    return files


def _fingerprint(files: Mapping[str, list[Path]]) -> str:
    digest = hashlib.blake2b(f"layout {LAYOUT}".encode(), digest_size=8)
    for split, chosen in files.items():
        for file in chosen:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "blake2b").hexdigest()
            digest.update(f"{split} {file.suffix} {content}\n".encode())
    return digest.hexdigest()


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start} is not UTF-8") from error

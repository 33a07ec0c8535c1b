"""Questions and documents by index: from a task, or from a user's files on disk.

In: a task, a JSONL file of questions, or a folder of text. Out: a source, which has
`len(source)` and `source[i]`: an `Example`, or a document as str. A `TaskSource` is
endless; the others are array_record files written once by tensorflow_datasets (no
TensorFlow), for which this is the only module that imports it, and only when used.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from o1jax.config import configurable
from o1jax.data.jsonl import example_of, read_jsonl
from o1jax.tasks.task import SPLITS, Example, Task, split_of

ENDLESS = sys.maxsize  # len() of a source without an end
TEXT_SUFFIXES = (".md", ".txt")
_LAYOUT = 1  # part of a cache's name: raise it when the records on disk change
_VERSION = "1.0.0"


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


class RecordSource:
    """One split of records on disk: `Example`s, or documents as str."""

    def __init__(self, directory: str | Path, split: str) -> None:
        import tensorflow_datasets as tfds

        if not (Path(directory) / _VERSION / "dataset_info.json").exists():
            raise ValueError(f"{directory} holds no dataset")
        builder = tfds.builder_from_directory(Path(directory) / _VERSION)
        if split not in builder.info.splits:
            sizes = {k: v.num_examples for k, v in builder.info.splits.items()}
            raise ValueError(f"{directory} has no {split!r} records, only {sizes}")
        self._records = builder.as_data_source(split=split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example | str:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        record = self._records[int(index)]
        if "text" in record:
            return record["text"].decode()
        return Example(
            question=record["question"].decode(),
            steps=tuple(step.decode() for step in record["steps"]),
            answer=record["answer"].decode(),
            difficulty=int(record["difficulty"]),
        )


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

    def records(split: str) -> Iterator[dict[str, Any]]:
        source = TaskSource(task, seed, split)
        return (_example_record(source[i]) for i in range(sizes[split]))

    _write({split: records(split) for split in sizes}, _example_features, directory)
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
        examples = read_questions(config)
        splits = {k: map(_example_record, chosen) for k, chosen in examples.items()}
        features = _example_features
    elif paths["train"].is_dir():
        documents = _assign(files, _read_text)
        splits = {
            split: ({"text": _read_text(file)} for file in chosen)
            for split, chosen in documents.items()
        }
        features = _text_features
    else:
        examples = {
            split: [example for file in chosen for example in read_jsonl(file)]
            for split, chosen in files.items()
        }
        splits = {
            split: map(_example_record, chosen)
            for split, chosen in _assign(examples, lambda e: e.question).items()
        }
        features = _example_features
    _write(splits, features, directory)
    return directory


def read_questions(config: DatasetConfig) -> dict[str, list[Example]]:
    """All questions by split. What valid or test asks too is left out of train.

    A prepared dataset has its own splits (`validation` is valid); where it has no other
    than train, they are made as of one file.
    """
    paths = dict(zip(SPLITS, (config.path, config.valid_path, config.test_path)))
    paths = {split: Path(path) for split, path in paths.items() if path}
    if is_prepared(paths["train"]):
        given = _read_prepared(paths["train"])
    else:
        given = {split: read_jsonl(path) for split, path in paths.items()}
    splits = _assign(given, lambda example: example.question)
    held_out = {e.question for k in ("valid", "test") for e in splits.get(k, ())}
    train = [e for e in splits.get("train", ()) if e.question not in held_out]
    return splits | {"train": train}


def is_prepared(path: Path) -> bool:
    """Whether tensorflow_datasets wrote the folder."""
    return (path / "dataset_info.json").is_file()


def _read_prepared(path: Path) -> dict[str, list[Example]]:
    """Its examples by split; ValueError names the split and number of a bad record."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(path)
    if builder.info.file_format.value != "array_record":
        raise ValueError(
            f"{path} is written as {builder.info.file_format.value}: prepare it with "
            "file_format='array_record', which is read without TensorFlow"
        )
    splits = {}
    for name in builder.info.splits:
        examples = splits.setdefault({"validation": "valid"}.get(name, name), [])
        for i, record in enumerate(builder.as_data_source(split=name)):
            try:
                examples.append(example_of(_decoded(record)))
            except ValueError as error:
                raise ValueError(f"{path}, {name} record {i}: {error}") from error
    if unknown := [name for name in splits if name not in SPLITS]:
        raise ValueError(f"{path}: unknown split {unknown[0]!r}")
    return splits


def _decoded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes as text, arrays as lists, numbers as Python's."""

    def decoded(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
            return [decoded(x) for x in value] if isinstance(value, list) else value
        return [decoded(x) for x in value] if isinstance(value, list) else value

    return {name: decoded(value) for name, value in record.items()}


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
    digest = hashlib.blake2b(f"layout {_LAYOUT}".encode(), digest_size=8)
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


def _example_record(example: Example) -> dict[str, Any]:
    record = {f.name: getattr(example, f.name) for f in dataclasses.fields(example)}
    del record["hidden"]
    return record | {"steps": list(example.steps)}


def _example_features() -> dict[str, Any]:
    from tensorflow_datasets import features

    text = features.Text()
    return {
        "question": text,
        "steps": features.Sequence(text),
        "answer": text,
        "difficulty": np.int64,
    }


def _text_features() -> dict[str, Any]:
    from tensorflow_datasets import features

    return {"text": features.Text()}


def _write(
    splits: Mapping[str, Iterable[dict[str, Any]]],
    features: Callable[[], dict[str, Any]],
    directory: Path,
) -> None:
    """Build beside `directory` and rename, so that it exists only complete."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".part-") as part:
        builder = _builder(splits, features(), part)
        # TFDS announces a "download" on stdout; nothing is downloaded here.
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                builder.download_and_prepare()
            except ModuleNotFoundError as error:
                if error.name != "tensorflow":
                    raise
                # TFDS sorts in memory up to that size, and beyond it through tf.io.
                raise ValueError(
                    "more than 1,000 MiB in a split: install tensorflow to write it, "
                    "or divide the data"
                ) from error
        try:
            os.rename(Path(part) / builder.name, directory)
        except OSError:
            # Another process of the same run wrote the same records first.
            if not directory.exists():
                raise


def _builder(
    splits: Mapping[str, Iterable[dict[str, Any]]],
    features: dict[str, Any],
    data_dir: str,
) -> Any:
    import tensorflow_datasets as tfds

    class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Records in the order given."""

        VERSION = tfds.core.Version(_VERSION)
        # No downloads; looking for their checksums needs a package TFDS omits to name.
        url_infos = None

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,  # record i on disk is record i as given
            )

        def _split_generators(self, manager: Any) -> dict[str, Any]:
            del manager
            return {k: self._generate_examples(v) for k, v in splits.items()}

        def _generate_examples(self, records: Iterable[dict[str, Any]]) -> Any:
            yield from enumerate(records)

    tfds.disable_progress_bar()
    return Records(data_dir=data_dir, file_format="array_record")

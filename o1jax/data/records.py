"""Examples and documents in array_record files, by tensorflow_datasets.

In: what is to be kept, or a folder that was written here or by others. Out: the folder,
or its records by index. No TensorFlow: this is the only module that imports
tensorflow_datasets, and only when used.
"""

import contextlib
import dataclasses
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from o1jax.data.jsonl import example_of
from o1jax.tasks.task import SPLITS, Example

LAYOUT = 1  # part of a cache's name: raise it when the records on disk change
_VERSION = "1.0.0"


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


def write_examples(splits: Mapping[str, Iterable[Example]], directory: Path) -> None:
    """Examples without their `hidden` field, record i being the i-th of its split."""
    records = {split: map(_example_record, each) for split, each in splits.items()}
    _write(records, _example_features, directory)


def write_documents(splits: Mapping[str, Iterable[str]], directory: Path) -> None:
    """Texts, record i being the i-th of its split."""
    record = lambda text: {"text": text}
    records = {split: map(record, each) for split, each in splits.items()}
    _write(records, _text_features, directory)


def is_prepared(path: Path) -> bool:
    """Whether tensorflow_datasets wrote the folder."""
    return (path / "dataset_info.json").is_file()


def read_prepared(path: Path) -> dict[str, list[Example]]:
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

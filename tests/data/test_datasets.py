import json
import subprocess
import sys

import pytest

from o1jax.data.datasets import (
    ENDLESS,
    DatasetConfig,
    RecordSource,
    TaskSource,
    freeze_task,
    prepare,
)
from o1jax.tasks.task import Example, split_of


def _questions(path, numbers) -> str:
    lines = [
        json.dumps({"question": f"{n}+1?", "answer": f"{n}+1\n#### {n + 1}"})
        for n in numbers
    ]
    path.write_text("\n".join(lines))
    return str(path)


def test_a_task_is_an_endless_source(task) -> None:
    source = TaskSource(task, seed=0, split="train")
    assert len(source) == ENDLESS
    assert source[7] == Example("2 =", ("0", "1", "2"), "2", 3)  # 7 % 5 is 2
    with pytest.raises(IndexError):
        source[-1]


def test_a_frozen_task_is_read_back_by_index(task, tmp_path) -> None:
    class Shifted:
        """Another example for each split, so that no split can pass for another."""

        def example(self, seed: int, split: str, index: int) -> Example:
            return task.example(seed, split, index + seed + len(split))

    shifted, sizes = Shifted(), {"train": 30, "test": 4}
    directory = freeze_task(shifted, tmp_path / "frozen", seed=1, sizes=sizes)
    for split, size in sizes.items():
        source = RecordSource(directory, split)
        assert len(source) == size
        assert list(source) == [shifted.example(1, split, i) for i in range(size)]
    with pytest.raises(ValueError, match=r"no 'valid' records, only .*'train': 30"):
        RecordSource(directory, "valid")
    with pytest.raises(ValueError, match="exists already"):
        freeze_task(task, directory, seed=1, sizes=sizes)


def test_questions_are_split_by_a_hash_of_their_text(tmp_path) -> None:
    file = _questions(tmp_path / "q.jsonl", range(100))
    directory = prepare(DatasetConfig(file), tmp_path / "cache")
    found = {s: list(RecordSource(directory, s)) for s in ("train", "valid", "test")}
    for split, examples in found.items():
        assert [e.question for e in examples] == [
            f"{n}+1?" for n in range(100) if split_of(f"{n}+1?") == split
        ]
    assert sum(map(len, found.values())) == 100
    assert found["train"][0].steps == (found["train"][0].question[:-1],)


def test_files_given_for_a_split_hold_that_split(tmp_path) -> None:
    config = DatasetConfig(
        path=_questions(tmp_path / "a.jsonl", range(20)),
        test_path=_questions(tmp_path / "b.jsonl", range(20, 23)),
    )
    directory = prepare(config, tmp_path / "cache")
    assert len(RecordSource(directory, "train")) == 20
    assert [e.answer for e in RecordSource(directory, "test")] == ["21", "22", "23"]


def test_a_folder_of_text(tmp_path) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "held").mkdir()
    (tmp_path / "docs" / "b.txt").write_bytes("é\r\n\n two  spaces ".encode())
    (tmp_path / "docs" / "deep" / "c.md").write_text("# c")
    (tmp_path / "docs" / "empty.txt").write_text("")
    (tmp_path / "docs" / "image.png").write_bytes(b"\xff")
    (tmp_path / "held" / "a.txt").write_text("held out")
    config = DatasetConfig(str(tmp_path / "docs"), valid_path=str(tmp_path / "held"))
    directory = prepare(config, tmp_path / "cache")
    assert list(RecordSource(directory, "train")) == ["é\r\n\n two  spaces ", "# c"]
    assert list(RecordSource(directory, "valid")) == ["held out"]


def test_the_cache_follows_the_content(tmp_path) -> None:
    file = tmp_path / "q.jsonl"
    config = DatasetConfig(_questions(file, range(40)))
    first = prepare(config, tmp_path / "cache")
    written = {f: f.stat().st_mtime_ns for f in first.rglob("*")}
    assert prepare(config, tmp_path / "cache") == first
    assert {f: f.stat().st_mtime_ns for f in first.rglob("*")} == written
    _questions(file, range(41))
    assert prepare(config, tmp_path / "cache") != first


def test_bad_data_leaves_nothing_behind(tmp_path) -> None:
    file = tmp_path / "q.jsonl"
    _questions(file, range(3))
    file.write_text(file.read_text() + "\n{oops\n")
    with pytest.raises(ValueError, match=r"q.jsonl:4: not JSON"):
        prepare(DatasetConfig(str(file)), tmp_path / "cache")

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "bad.txt").write_bytes(b"ok \xff")
    docs = str(tmp_path / "docs")
    for config in (DatasetConfig(docs), DatasetConfig(docs, test_path=docs)):
        with pytest.raises(ValueError, match=r"bad.txt: byte 3 is not UTF-8"):
            prepare(config, tmp_path / "cache")

    class Breaks:
        def example(self, seed: int, split: str, index: int) -> Example:
            raise ValueError(f"no example {index}")

    with pytest.raises(ValueError, match="no example 0"):
        freeze_task(Breaks(), tmp_path / "cache" / "x", seed=0, sizes={"train": 2})
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_data_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no such file or folder: .*absent.jsonl"):
        prepare(DatasetConfig(str(tmp_path / "absent.jsonl")), tmp_path)
    with pytest.raises(ValueError, match=r"holds no .txt or .md file"):
        prepare(DatasetConfig(str(tmp_path)), tmp_path)
    with pytest.raises(ValueError, match="holds no dataset"):
        RecordSource(tmp_path, "train")


def test_what_tfds_cannot_write_without_tensorflow_says_so(
    task, tmp_path, monkeypatch
) -> None:
    from tensorflow_datasets.core import shuffle

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)  # bytes; really 1,000 MiB
    with pytest.raises(ValueError, match="1,000 MiB in a split: install tensorflow"):
        freeze_task(task, tmp_path / "big", seed=0, sizes={"train": 20})


def test_only_building_or_opening_records_imports_tfds() -> None:
    code = (
        "import sys, o1jax.data.batches, o1jax.data.datasets\n"
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Questions from files as a task: JSONL and datasets that others prepared."""

import json

import numpy as np
import pytest

from o1jax.data import questions
from o1jax.data.datasets import DatasetConfig, RecordSource, prepare
from o1jax.data.questions import Questions
from o1jax.data.template import TextTemplate
from o1jax.tasks.task import Example, Task, split_of


def gsm8k(i):
    return {"question": f"{i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"}


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def task(tmp_path):
    path = write(tmp_path / "q.jsonl", map(gsm8k, range(80)))
    return Questions(DatasetConfig(path), verifier="number")


def test_it_is_a_task_whose_solutions_are_right(task):
    assert isinstance(task, Task)
    template = TextTemplate()
    for split in ("train", "valid", "test"):
        example = task.example(0, split, 0)
        assert split_of(example.question) == split
        assert task.grade(example, template.response(example)) == 1.0
        assert task.grade(example, "#### -7") == task.grade(example, "") == 0.0


def test_train_comes_again_in_another_order_and_test_does_not(task):
    train = [q for q in (f"{i} + 1?" for i in range(80)) if split_of(q) == "train"]
    count = len(train)
    asked = [task.example(3, "train", i).question for i in range(2 * count)]
    first, second = asked[:count], asked[count:]
    assert sorted(first) == sorted(second) == sorted(train)
    assert first != second and first != train
    assert asked == [task.example(3, "train", i).question for i in range(2 * count)]
    tests = 80 - count - len(task._splits["valid"])
    assert task.example(0, "test", tests - 1) == task.example(1, "test", tests - 1)
    with pytest.raises(ValueError, match=rf"q.jsonl has {tests} test .* {tests} was"):
        task.example(0, "test", tests)


def test_what_is_tested_is_not_trained_on(tmp_path):
    train = write(tmp_path / "a.jsonl", map(gsm8k, range(6)))
    test = write(tmp_path / "b.jsonl", map(gsm8k, range(4, 9)))
    task = Questions(DatasetConfig(train, test_path=test), verifier="number")
    asked = {task.example(0, "train", i).question for i in range(20)}
    assert asked == {f"{i} + 1?" for i in range(4)}
    assert task.example(0, "test", 4).question == "8 + 1?"
    with pytest.raises(ValueError, match="has 0 valid questions: number 0"):
        task.example(0, "valid", 0)


def test_a_question_of_the_files_is_known_and_others_have_no_answer(task):
    assert task.parse(" 7 +  1? ").answer == "8"
    unknown = task.parse("What is love?")
    assert unknown == Example("What is love?", (), "", 0)
    assert task.grade(unknown, "#### 8") == 0.0


def test_the_verifier_is_one_of_three(task, monkeypatch):
    monkeypatch.setitem(questions.VERIFIERS, "math", lambda text, gold: 0.25)
    example = task.example(0, "train", 0)
    assert Questions(task.dataset).grade(example, "anything") == 0.25
    number = f"#### {int(example.answer)}.0"
    assert Questions(task.dataset, "words").grade(example, number) == 0.0
    assert Questions(task.dataset, "number").grade(example, number) == 1.0
    with pytest.raises(ValueError, match="verifier must be one of math, number, words"):
        Questions(task.dataset, "sympy")


def prepared(folder, splits, features, file_format="array_record"):
    """A dataset as others publish them: split -> records."""
    import tensorflow_datasets as tfds

    class Shaped(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Records of a shape."""

        VERSION = tfds.core.Version("2.0.0")
        url_infos = None

        def _info(self):
            shape = tfds.features.FeaturesDict(dict.fromkeys(features, np.str_))
            return tfds.core.DatasetInfo(builder=self, features=shape)

        def _split_generators(self, manager):
            return {name: self._generate_examples(x) for name, x in splits.items()}

        def _generate_examples(self, records):
            yield from enumerate(records)

    tfds.disable_progress_bar()
    builder = Shaped(data_dir=str(folder), file_format=file_format)
    builder.download_and_prepare()
    return str(builder.data_dir)


def test_a_prepared_dataset_of_the_shape_of_gsm8k(tmp_path):
    splits = {"train": map(gsm8k, range(5)), "test": map(gsm8k, range(4, 7))}
    path = prepared(tmp_path, splits, ("question", "answer"))
    task = Questions(DatasetConfig(path), verifier="number")
    asked = {task.example(0, "train", i).question for i in range(9)}
    assert asked == {f"{i} + 1?" for i in range(4)}
    tested = {task.example(0, "test", i).answer for i in range(3)}
    assert tested == {"5", "6", "7"}
    # As the data of a stage that fine-tunes:
    records = RecordSource(prepare(DatasetConfig(path), tmp_path / "cache"), "train")
    assert {records[i].question for i in range(len(records))} == asked
    assert records[0].steps[0].startswith(records[0].question.removesuffix("?"))


def test_a_prepared_dataset_of_the_shape_of_math(tmp_path):
    problem = {
        "problem": "7?",
        "solution": "It is\n\\boxed{7}.",
        "level": "Level 2",
        "type": "Algebra",
    }
    path = prepared(tmp_path, {"train": [problem]}, tuple(problem))
    split = split_of("7?")
    task = Questions(DatasetConfig(path), verifier="number")
    example = Example("7?", ("It is", "\\boxed{7}."), "7", 2)
    assert task.example(0, split, 0) == example


def test_a_bad_record_is_named(tmp_path):
    path = prepared(tmp_path, {"train": [{"question": "?"}]}, ("question",))
    with pytest.raises(ValueError, match='train record 0: no "answer"; the fields'):
        Questions(DatasetConfig(path)).example(0, "train", 0)

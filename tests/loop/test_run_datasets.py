"""A run on a user's own data: pre-training on text, then fine-tuning on questions."""

import json

import pytest

from o1jax.cli import main
from o1jax.tasks.task import split_of

EXPERIMENT = """
Experiment.template = @TextTemplate()
Experiment.stages = [@pre/Imitate(), @tune/Imitate()]
TokenizerConfig.kind = 'text'
TokenizerConfig.vocab_size = 300
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
SamplerConfig.max_new_tokens = 8
Imitate.checkpoint_every = 2
OptimizerConfig.learning_rate = 0.02
OptimizerConfig.warmup_steps = 1
Probe.every = 3
BatchConfig.rows = 8

pre/Imitate.name = 'pre'
pre/Imitate.dataset = @pre/DatasetConfig()
pre/DatasetConfig.path = 'text'
pre/DatasetConfig.valid_path = 'held-out'
pre/Imitate.steps = 5
pre/BatchConfig.length = 32

tune/Imitate.name = 'tune'
tune/Imitate.dataset = @tune/DatasetConfig()
tune/DatasetConfig.path = 'train.jsonl'
tune/DatasetConfig.valid_path = 'valid.jsonl'
tune/Imitate.steps = 100
tune/BatchConfig.epochs = 2
tune/BatchConfig.length = 64
"""


def problem(i):
    answer = [f"{i} + 1 = {i + 1}", f"#### {i + 1}"]
    return json.dumps({"question": f"What is {i} + 1?", "answer": "\n".join(answer)})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder that holds the experiment and its data."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "own.gin").write_text(EXPERIMENT)
    for name, size in (("text", 12), ("held-out", 2)):
        (folder / name).mkdir()
        for i in range(size):
            text = f"Page {i} of {name}.\n" + "So we count. " * (3 + i)
            (folder / name / f"{i}.txt").write_text(text)
    texts = (f"Text {i} alone in its folder." for i in range(99))
    (folder / "one").mkdir()
    alone = next(text for text in texts if split_of(text) == "train")
    (folder / "one" / "page.md").write_text(alone)
    (folder / "train.jsonl").write_text("\n".join(map(problem, range(20))))
    (folder / "valid.jsonl").write_text("\n".join(map(problem, range(20, 24))))
    return folder


@pytest.fixture(scope="module")
def trained(o1jax, data):
    workdir = data / "trained"
    code, _, err = o1jax("run", "own.gin", "--workdir", workdir, cwd=data)
    assert code == 0, err
    return workdir


def test_text_and_questions_lower_the_held_out_loss(trained):
    rows = [json.loads(x) for x in (trained / "metrics.jsonl").read_text().splitlines()]
    held_out = {r["step"]: r["valid_loss"] for r in rows if "valid_loss" in r}
    # Every 3 steps and at the end: of 5 steps, then of 2 x 20 questions in rows of 8.
    assert list(held_out) == [3, 5, 5 + 3, 5 + 5]
    assert held_out[5] < held_out[3] < rows[0]["loss"]
    results = json.loads((trained / "results.json").read_text())
    assert results["stages"]["pre"] == {"steps": 5, "valid_loss": held_out[5]}
    assert results["stages"]["tune"] == {"steps": 5, "valid_loss": held_out[10]}
    assert {row["kind"] for row in results["ledger"]} == {"train", "evaluate", "total"}


def test_killed_in_the_middle_of_the_data_it_goes_on(o1jax, data, trained, differences):
    workdir = data / "killed"
    command = ("run", "own.gin", "--workdir", workdir)
    # Writing its 5th checkpoint: 3 of the first stage, 2 of the second.
    o1jax.killed_at("o1jax.loop.manifest:write", 3 + 2, *command, cwd=data)
    assert (workdir / "checkpoints" / "01-tune" / "000002").exists()
    assert o1jax(*command, cwd=data)[0] == 0
    assert differences(workdir, trained) == []


def test_ask_answers_without_a_verdict_and_eval_has_nothing_to_grade(
    o1jax, trained, capsys
):
    code, out, err = o1jax("ask", trained, "What is 3 + 1?")
    assert (code, err) == (0, "")
    assert out.startswith("Question: What is 3 + 1?\nAnswer:\n")
    assert out.splitlines()[-1].startswith("not graded  (log-prob -")
    assert main(["eval", str(trained)]) == 2
    assert capsys.readouterr().err == (
        f"o1jax: error: {trained} learned from datasets only: no task grades it\n"
    )


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "TokenizerConfig.kind='symbols'",
            "'pre' has a dataset, but TokenizerConfig.kind is 'symbols', which "
            "knows only the words of tasks: choose 'text'",
        ),
        (
            "pre/DatasetConfig.valid_path=''",
            "has no 'valid' records, only {'train': 1}: set DatasetConfig.valid_path",
        ),
        ("pre/DatasetConfig.path='txt'", "no such file or folder: txt"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_line(
    data, tmp_path, monkeypatch, capsys, override, message
):
    monkeypatch.chdir(data)
    paths = ["--set", "pre/DatasetConfig.path='one'", "--set", override]
    assert main(["run", "own.gin", "--workdir", str(tmp_path), *paths]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and message in error

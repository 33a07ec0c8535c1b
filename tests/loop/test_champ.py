"""First-error labels by people (a file of the same shape) judge a model of steps."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.cli import main
from o1jax.data import champ as data
from o1jax.data.champ import read_champ
from o1jax.data.template import TextTemplate
from o1jax.data.tokenizer import from_symbols, from_texts
from o1jax.loop import champ, read_once
from o1jax.loop.champ import judge_run, lines
from o1jax.loop.ledger import Ledger
from o1jax.models.steps import split_text
from o1jax.parallel.mesh import MeshConfig, build_mesh
from o1jax.reward.model import RewardModel, RewardModelConfig, build_reward_model
from o1jax.types import StepLabels

FILE = Path(__file__).parents[1] / "data" / "champ.json"
SPLIT = partial(split_text, kind="blank")


@pytest.fixture(scope="module")
def solutions():
    return read_champ(SPLIT, FILE)


@pytest.fixture
def run(tmp_path):
    """A run with a reward model that says of each step what a table says."""
    texts = ["2 + 3 * 4 = 14. So we take 9 - 7, that is it.\n\n\n"] * 4
    return SimpleNamespace(
        path=tmp_path,
        tokenizer=from_texts(texts, 320),
        policy_config=SimpleNamespace(vocab=320),
        experiment=SimpleNamespace(
            template=TextTemplate(),
            stages=[SimpleNamespace(name="prm", learns="steps")],
        ),
    )


def says(run, oracle):
    """The run's model: log-odds 2 for a step that the oracle calls right, else -2.

    oracle(prompt and text so far) -> bool.
    """

    def score(params, tokens, prompt_length, length, step_end):
        out = np.zeros(tokens.shape)
        for row, (ids, ends) in enumerate(zip(tokens, step_end)):
            for at in np.flatnonzero(ends):
                text = run.tokenizer.decode(ids[: at + 1].tolist())
                out[row, at] = 2 if oracle(text) else -2
        return jnp.asarray(out)

    model = RewardModel(init=None, score=score)
    run.reward_model = lambda name: (model, SimpleNamespace(params=None))


def test_a_mark_of_a_person_is_the_number_of_a_paragraph(solutions):
    assert [solution.first_error for solution in solutions] == [
        *(-1, 0, 1, -1, 0, -1, 1, -1)
    ]
    assert solutions[2].steps == ("We take 4 from 9.\n\n", "That is 6.\n\n", "So 6.")
    assert solutions[3].steps == ("9 - 4 = 5.\n\n", "\nSo 5.")
    assert {solution.author for solution in solutions} == {"A", "B"}


WRONG = ("2 + 3 = 5.", "6.", "1 + 1 = 3.", "So 43.")


def test_a_model_that_knows_the_errors_finds_them(run, solutions, monkeypatch):
    monkeypatch.setattr(champ.jax, "jit", lambda fn: fn)
    says(run, lambda text: not any(wrong in text for wrong in WRONG))
    said = judge_run(run, solutions)
    assert said["step_auc"] == said["first_error_f1"] == 1.0
    # Behind a first error nothing counts: 3 + 1, 2 + 2, 1 + 1 and 2 + 2 steps do.
    assert (said["solutions"], said["with_an_error"], said["steps"]) == (8, 4, 14)
    assert said["reward"] == "prm"
    assert json.loads((run.path / "prm" / "champ.json").read_text())["left_out"] == 0
    rows = (run.path / "prm" / "champ.jsonl").read_text().splitlines()
    assert len(rows) == 8 and len(json.loads(rows[0])["probability"]) == 3
    assert "step AUC         1.000" in "\n".join(lines(said))


def test_a_model_that_calls_all_steps_right_finds_no_error(run, solutions, monkeypatch):
    monkeypatch.setattr(champ.jax, "jit", lambda fn: fn)
    says(run, lambda text: True)
    said = judge_run(run, solutions, problems=3)
    assert said["step_auc"] == 0.5 and said["first_error_f1"] == 0.0
    assert said["problems"] == 3


def test_a_head_on_the_policys_trunk_beside_its_likelihood(
    run, solutions, make, monkeypatch
):
    """Both are of one reading, which a second command finds."""
    one_width = lambda length: np.full_like(length, 256)
    monkeypatch.setattr(read_once, "_rounded", one_width)  # to compile one program
    size, _, policy = make(vocab=320, layers=1)
    head = {"kernel": np.ones((16, 1), "f4"), "bias": np.zeros(1, "f4")}
    config = RewardModelConfig(readout="head", trunk="frozen")
    params = {"net": policy, "readout": {"process": head}}
    run.reward_model = lambda name: (
        build_reward_model(config, size),
        SimpleNamespace(params=params),
    )
    run.policy_config, run.newest_params = size, lambda: policy
    run.mesh, run.shards = build_mesh(MeshConfig(), jax.devices()[:1]), 1
    run.ledger = Ledger()
    said = judge_run(run, solutions)
    (file,) = (run.path / "readings").iterdir()
    written = file.stat().st_mtime_ns
    run.experiment.stages = []
    alone = judge_run(run, solutions)
    assert alone["reward"] == "its likelihood" and "auc_over_likelihood" not in alone
    assert file.stat().st_mtime_ns == written
    for name, key in (("auc", "step_auc"), ("f1", "first_error_f1")):
        over, _, _ = said[f"{name}_over_likelihood"]
        assert over == pytest.approx(said[key] - alone[key])
    assert "over its likelihood, step AUC" in "\n".join(lines(said))


def test_the_length_of_a_step_alone_is_a_baseline():
    """Steps of 2 and 6 tokens behind 2 of the prompt; of the third nothing is said."""
    step_end = np.zeros((1, 12), bool)
    step_end[0, [3, 9, 11]] = True
    weight = np.where(np.arange(12) < 10, step_end, 0)
    label = np.where(np.arange(12) < 5, step_end, 0)
    rows = StepLabels(
        tokens=step_end,
        prompt_length=np.array([2]),
        length=np.array([12]),
        step_end=step_end,
        label=label,
        weight=weight,
    )
    shortness, right = champ._shortness(rows)
    assert shortness.tolist() == [-2, -6] and right.tolist() == [1, 0]


def test_solutions_of_a_problem_are_on_one_side(solutions):
    ordered = champ._in_halves(solutions)
    sides = [{solution.problem for solution in ordered[i::2]} for i in (0, 1)]
    assert sides[0] == {"P_Sum_1", "P_Sum_3"}
    assert sides[1] == {"P_Sum_2", "P_Sum_4"}


def test_a_tokenizer_of_words_cannot_read_it(run, solutions):
    run.tokenizer = from_symbols(["1", ";"])
    says(run, lambda text: True)
    with pytest.raises(ValueError, match=r"unknown word .* in "):
        judge_run(run, solutions)


def test_mistakes_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"champ is a package: pip .*o1jax\[champ\]"):
        read_champ(SPLIT)
    (tmp_path / "config.gin").touch()
    for option in ("--search=beam", "--samples=3"):
        assert main(["eval", str(tmp_path), "--prm", "champ", option]) == 2
        assert "does not go with --prm" in capsys.readouterr().err
    assert main(["eval", str(tmp_path), "--prm", "chimp"]) == 2
    assert "invalid choice: 'chimp'" in capsys.readouterr().err

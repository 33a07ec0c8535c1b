"""Runs that train on texts, sample them, and say what the texts show."""

import json
from types import SimpleNamespace

import jax
import numpy as np

from o1jax.cli import main
from o1jax.data.behaviours import Behaviours
from o1jax.loop.held_out import HeldOut, build_held_out
from o1jax.loop.text_meter import MOST, text_shares
from o1jax.tasks import Chain

EXPERIMENT = """
Experiment.task = @Behaviours()
Experiment.template = @PathTemplate()
Experiment.stages = [@learn/Imitate(), @rl/Improve()]
Behaviours.task = @Chain()
Behaviours.correction = 0.4
Behaviours.masked = True
Chain.min_steps = 1
Chain.max_steps = 1
Chain.modulus = 3
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
OptimizerConfig.learning_rate = 0.02
OptimizerConfig.warmup_steps = 1
learn/Imitate.name = 'learn'
learn/Imitate.batch = @BudgetBatch()
BudgetBatch.tokens = 5_001
BudgetBatch.rows = 8
BudgetBatch.length = 64
BudgetBatch.packed = True
learn/Imitate.steps = 50
learn/Probe.problems = 8
SamplerConfig.max_new_tokens = 24
SamplerConfig.rows = 16
rl/Improve.name = 'rl'
Improve.rounds = 1
Improve.questions = 8
Improve.samples = 2
HeldOut.problems = 8
HeldOut.samples = 2
"""


def test_a_run_meters_its_own_texts(tmp_path):
    """Its probe does, of greedy answers, and a round of what it samples."""
    file = tmp_path / "texts.gin"
    file.write_text(EXPERIMENT)
    assert main(["run", str(file), "--workdir", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())["stages"]
    names = {f"text_{name}" for name in ("analysis", "completion", "correction")}
    assert names <= set(results["learn"])
    assert 10 <= results["learn"]["steps"] <= 12  # 5,001 tokens in rows of 8 x 64
    metrics = [
        json.loads(line)
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    logged = {name for row in metrics for name in row}
    assert names <= logged and {f"improve_{name}" for name in names} <= logged


def test_held_out_questions_are_metered():
    """Two samples a question, of which one in four checks itself, wrongly."""
    task = Behaviours(task=Chain())
    texts = [["1 ; <check> wrong 0% ;", "2 ;"], ["3 ;", "4 ;"]]

    def answer(params, key, samples, *, task, examples):
        assert len(examples) == samples == 2
        return SimpleNamespace(
            texts=texts, grades=np.array([[1, 0], [0, 0]]), tokens=np.array([4, 2])
        )

    run = SimpleNamespace(experiment=SimpleNamespace(seed=0), key=jax.random.key(0))
    config = HeldOut(problems=2, samples=2)
    found = build_held_out(run, config, task, answer)(None)
    assert found["pass@1"][0] == 1 / 4 and found["length"] == 3
    assert found["text_evaluation"] == [1 / 4] and found["text_correction"] == [0]


def test_only_so_many_texts_are_read():
    asked = []

    class Metered(Chain):
        def measure(self, examples, texts):
            asked.append((list(examples), list(texts)))
            return {"mean": float(np.mean([len(t) for t in texts]))}

    assert text_shares(Metered(), "ab", [["1", "22"], ["333", "4444"]]) == {
        "text_mean": 2.5
    }
    assert asked[0] == (["a", "a", "b", "b"], ["1", "22", "333", "4444"])
    text_shares(Metered(), range(3), [["x"] * 1000] * 3)
    assert len(asked[1][1]) == 3 * (MOST // 3)
    text_shares(Metered(), range(2000), [["x"]] * 2000)
    assert len(asked[2][1]) == MOST
    assert text_shares(Chain(), "ab", [["1"], ["2"]]) == {}

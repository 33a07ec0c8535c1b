"""Runs that train on texts, sample them, and say what the texts show."""

import json

import numpy as np

from o1jax.cli import main
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
rl/Improve.rounds = 1
rl/Improve.questions = 8
rl/Improve.samples = 2
rl/HeldOut.problems = 8
rl/HeldOut.samples = 2
"""


def test_a_run_meters_its_own_texts(tmp_path):
    """Through imitation and a round of learning."""
    file = tmp_path / "texts.gin"
    file.write_text(EXPERIMENT)
    assert main(["run", str(file), "--workdir", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())["stages"]
    names = {f"text_{name}" for name in ("analysis", "completion", "correction")}
    learned, rl = results["learn"], results["rl"]
    assert names <= set(learned)
    assert 10 <= learned["steps"] <= 12  # 5,001 tokens in rows of 8 x 64
    assert names <= set(rl["before"]) and names <= set(rl["after"])
    metrics = [
        json.loads(line)
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    logged = {name for row in metrics for name in row}
    assert {"text_analysis", "improve_held_out_text_analysis"} <= logged


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

"""Stages that hand on: mixtures, trees told as text, runs that begin with other runs.

One tiny run: two tasks mixed, trees grown and told as journeys, a round or two of
learning from samples.
"""

import json
import re
import shutil

import jax
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.cli import main
from o1jax.config import check_workdir, load
from o1jax.data.template import Template
from o1jax.inspect.report import evaluation_table
from o1jax.loop.diversity import diversity
from o1jax.loop.run import run
from o1jax.loop.workdir import Workdir
from o1jax.search.trace import read_traces
from o1jax.tasks import Chain

BASE = """
Experiment.title = 'Tiny chain of stages'
Experiment.task = @Behaviours()
Experiment.template = @PathTemplate()
Behaviours.task = @Chain()
Chain.min_steps = 1
Chain.max_steps = 1
Chain.modulus = 3
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
SamplerConfig.max_new_tokens = 8
SamplerConfig.rows = 8
"""
STAGES = """
Experiment.stages = [
    @mix/Imitate(), @Grow(), @journey/Imitate(), @loop/Improve(), @after/Evaluate()]
OptimizerConfig.warmup_steps = 1
OptimizerConfig.learning_rate = 0.02
BatchConfig.rows = 8
BatchConfig.length = 32
Imitate.steps = 60
Probe.problems = 8
mix/Imitate.name = 'mix'
mix/Imitate.task = @Mixture()
Mixture.tasks = (@Chain(), @Countdown(), @Behaviours())
Mixture.weights = (3, 1, 0)
Countdown.numbers = 2
Grow.task = @Chain()
Grow.problems = 8
Grow.search = @grow/Search()
grow/Search.method = 'best_of_n'
grow/Search.budget = 4
grow/Search.verifier = @Verifier()
grow/Steps.tokens = 4
journey/Imitate.name = 'journey'
journey/Imitate.task = @TreeText()
journey/Imitate.steps = 2
TreeText.path = 'trees/grow.jsonl'
TreeText.task = @Chain()
loop/Improve.name = 'loop'
loop/Improve.rounds = 2
loop/Improve.questions = 4
loop/Improve.samples = 2
loop/Improve.learner = @Clone()
HeldOut.problems = 4
HeldOut.samples = 2
after/Evaluate.name = 'after'
after/Evaluate.problems = 8
after/Evaluate.samples = 3
"""


@pytest.fixture(scope="module")
def chained(o1jax, tmp_path_factory):
    """The workdir of a run that nobody interrupted, and its file."""
    folder = tmp_path_factory.mktemp("stages")
    file = folder / "chained.gin"
    file.write_text(BASE + STAGES)
    code, _, err = o1jax("run", file, "--workdir", folder / "whole")
    assert code == 0, err
    return folder / "whole", file


def test_killed_while_trees_grow_the_chain_ends_where_it_would_have(
    o1jax, chained, tmp_path, differences
):
    whole, file = chained
    arguments = ("run", file, "--workdir", tmp_path / "killed")
    o1jax.killed_at("o1jax.loop.grow:write_traces", 1, *arguments)
    assert not (tmp_path / "killed/trees/grow.jsonl").exists()
    code, _, err = o1jax(*arguments)
    assert code == 0, err
    assert differences(whole, tmp_path / "killed") == []
    name = "trees/grow.jsonl"
    assert (whole / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_what_the_stages_say(chained):
    whole, _ = chained
    results = json.loads((whole / "results.json").read_text())
    section = results["sections"][0]
    assert section["name"] == "Stages"
    rows = [dict(zip(section["table"]["columns"], r)) for r in section["table"]["rows"]]
    assert [row["data"] for row in rows] == [
        "0.75 chain + 0.25 countdown: 8 x 32 tokens",
        "chain: 8 trees of best-of-n (verifier)",
        "chain-journey: 8 x 32 tokens",
        "chain-behaviours: 4 questions a round, 2 samples; Clone",
        "chain-behaviours: 8 test questions",
    ]
    # What the stages spent is what the run spent, and each of them spent something.
    (total,) = (row for row in results["ledger"] if row["kind"] == "total")
    for name, column in (("tokens", "tokens"), ("flops", "FLOP")):
        assert sum(row[column] for row in rows) == pytest.approx(total[name])
        assert all(row[column] > 0 for row in rows)
    named = {section["name"]: section for section in results["sections"]}
    shown = dict(named["What texts show"]["table"]["rows"])
    texts = results["stages"]["after"]["texts"]
    assert shown == {name.removeprefix("text_"): x for name, x in texts.items()}
    table = evaluation_table(results["stages"]["after"])
    assert re.search(r"\| completion +\| +0\.\d+ \|", table)
    found = results["stages"]["after"]["diversity"]
    assert 1 <= found["distinct"][0] <= 3 and found["surprise"][0] > 0

    trees = read_traces(whole / "trees" / "grow.jsonl")
    grown = results["stages"]["grow"]
    assert grown["trees"] == len(trees) == 8
    assert grown["nodes"] == sum(len(tree.parent) for tree in trees)
    task = Chain(min_steps=1, max_steps=1, modulus=3)
    right = [
        any(
            task.grade(task.parse(tree.question), tree.text(n))
            for n, done in enumerate(tree.finished)
            if done
        )
        for tree in trees
    ]
    assert grown["right"] == sum(right) > 0


def test_a_run_begins_where_another_ended(chained, tmp_path, capsys):
    whole, _ = chained
    text = BASE.replace("'Tiny chain of stages'", "'Further'")
    text += f"""
Experiment.stages = [@Pretrained()]
Pretrained.path = '{whole}'
TokenizerConfig.kind = 'file'
TokenizerConfig.path = '{whole}/tokenizer.model'
"""
    file = tmp_path / "further.gin"
    file.write_text(text)
    loaded = load(file)
    check_workdir(loaded, tmp_path / "further")
    run(loaded, tmp_path / "further")
    there = Workdir(load(whole / "config.gin").experiment, whole)
    here = Workdir(loaded.experiment, tmp_path / "further")
    before, after = there.newest_params(), here.newest_params()
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)

    def refused(*lines, of="refused"):
        file.write_text("\n".join([text, *lines]))
        assert main(["run", str(file), "--workdir", str(tmp_path / of)]) == 2
        return capsys.readouterr().err

    words = ("TokenizerConfig.kind = 'symbols'", "TokenizerConfig.path = ''")
    said = refused(*words, "Experiment.stages = [@Pretrained(), @Evaluate()]")
    assert "has another tokenizer: bind TokenizerConfig.kind = 'file'" in said
    (tmp_path / "none").mkdir()
    said = refused(f"Pretrained.path = '{tmp_path}/none'", of="other")
    assert "neither an imported model nor a run that trained a policy" in said
    shutil.copytree(whole, tmp_path / "cut", symlinks=True)
    (tmp_path / "cut" / "results.json").unlink()
    said = refused(f"Pretrained.path = '{tmp_path}/cut'", of="third")
    assert "has not come to its end" in said


def test_diversity_by_hand():
    texts = [["1 ; 2 ;", "1 ;  2 ;", "3 ; 2 ;", "9"], ["5 ;"] * 4]
    right = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    logprob = np.array([[-1.0, -2.0, -3.0, -2.0], [-0.5] * 4])
    found = diversity(texts, right, logprob, Template().parse)
    # First question: steps (1, 2) twice, (3, 2), and a text without a step; then one.
    entropy = 0.5 * np.log(2) + 2 * 0.25 * np.log(4)
    for name, both in (
        ("distinct", (3, 1)),
        ("distinct_right", (2, 0)),
        ("entropy", (entropy, 0)),
        ("surprise", (2.0, 0.5)),
    ):
        mean, lo, hi = found[name]
        assert mean == pytest.approx(sum(both) / 2)
        assert min(both) - 1e-9 <= lo <= mean <= hi <= max(both) + 1e-9

"""A claim is trained, run, concluded and resumed; bad input ends in one line.

The policy is two steps old and guesses; the arms here are stand-ins with known answers,
but for one that samples.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from o1jax.cli import main
from o1jax.loop.reproduce import registry, runner
from o1jax.loop.reproduce.claim import Arm, Check, Claim, Findings, Predictions, Tier
from o1jax.loop.reproduce.predictions import read_predictions, write_predictions
from o1jax.loop.reproduce.record import verdict
from o1jax.loop.reproduce.sample import Sample, sample
from o1jax.tasks.task import Example

EXPERIMENT = """
Experiment.title = 'Guesses'
Experiment.task = @Chain()
Experiment.stages = [@Imitate()]
Chain.min_steps = 2
Chain.max_steps = 3
Chain.modulus = 5
PolicyConfig.width = 16
PolicyConfig.layers = 1
PolicyConfig.heads = 2
PolicyConfig.ff = 16
BatchConfig.rows = 8
BatchConfig.length = 16
SamplerConfig.max_new_tokens = 8
SamplerConfig.rows = 8
Imitate.steps = 2
Probe.problems = 8
"""
RUNS = []  # (seed, share) of each run of a stand-in arm


@dataclass(frozen=True)
class Share:
    """Answers the first `of` of 4 problems, and dies on a seed."""

    of: int
    dies_on: int | None = None


def answer(workdir, params, key, examples, method):
    seed = workdir.experiment.seed
    if seed == method.dies_on:
        raise KeyboardInterrupt
    RUNS.append((seed, method.of))
    right = np.arange(len(examples)) < method.of
    tokens = np.full(len(examples), 10.0)
    return Predictions(
        right=right.astype(int),
        samples=np.ones(len(examples), int),
        tokens=tokens,
        flops=100 * tokens,
        extra={"place": list(range(len(examples)))},
        facts={"auc": 0.5},
    )


def analyse(evidence):
    a, b = evidence.accuracy("a").mean(), evidence.accuracy("b").mean()
    checks = [
        Check("b answers some", bool(b > 0), f"{b:.3f}"),
        Check("a beats b", bool(a > b), f"{a:.3f} and {b:.3f}"),
    ]
    return Findings(checks, [{"name": "Own", "text": f"{evidence.seeds}"}])


def made_up(folder):
    """The claim that a beats b, with its experiment in `folder`; b is the better."""
    file = folder / "guesses.gin"
    file.write_text(EXPERIMENT)
    tier = Tier(str(file), (Arm("a", Share(1), answer), Arm("b", Share(3), answer)), 4)
    return Claim("A1", "A beats B", "2407.21787", "1 > 3", {"nano": tier}, analyse)


# The command in a process of its own, where A1 is the claim above.
SCRIPT = f"""
import pathlib, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_reproduce
from o1jax.cli import main
from o1jax.loop.reproduce.registry import CLAIMS

CLAIMS["A1"] = test_reproduce.made_up(pathlib.Path.cwd())
sys.exit(main())
"""


class Done(NamedTuple):
    stdout: str
    results: Path
    cache: Path


@pytest.fixture(scope="session")
def done(o1jax, tmp_path_factory):
    """The claim on two seeds. The policies are trained here once for all tests."""
    folder = tmp_path_factory.mktemp("claims")
    (folder / "claimed.py").write_text(SCRIPT)
    results, cache = folder / "results", folder / "cache"
    arguments = ("--seeds", 2, "--results", results, "--cache", cache)
    script = (folder / "claimed.py",)
    code, out, err = o1jax("reproduce", "a1", *arguments, script=script, cwd=folder)
    assert code == 0, err
    return Done(out, results, cache)


@pytest.fixture
def cache(done):
    return done.cache


@pytest.fixture
def claim(tmp_path, monkeypatch):
    RUNS.clear()
    claim = made_up(tmp_path)
    monkeypatch.setattr(registry, "CLAIMS", {"A1": claim})
    return claim


def with_arms(claim, *arms):
    tier = replace(claim.tiers["nano"], arms=arms)
    return replace(claim, tiers={"nano": tier})


def test_a_failed_check_is_told_and_the_command_ends_well(done):
    results, cache = done.results, done.cache
    told = "passed  b answers some: 0.750\nFAILED  a beats b: 0.250 and 0.750"
    assert told in done.stdout
    assert (
        "A1: 1 of 2 checks passed: not all of the published shape was found"
        in done.stdout
    )

    report = (results / "A1" / "report.md").read_text()
    rows = [[c.strip() for c in r.split("|")[1:-1]] for r in report.splitlines()]
    assert ["a beats b", "**FAILED**", "0.250 and 0.750"] in rows
    assert "o1jax reproduce A1 --tier nano --seeds 2" in report
    assert "(0, 1)" in report  # the claim's own section
    content = json.loads((results / "A1" / "results.json").read_text())
    assert (content["passed"], content["failed"]) == (1, 1)
    # Four problems of 10 tokens on two seeds.
    (a,) = (row for row in content["ledger"] if row["kind"] == "a")
    assert (a["tokens"], a["flops"]) == (80, 8000)
    fingerprints = content["config_fingerprint"].split()
    assert len(set(fingerprints)) == 2
    assert all((cache / f / "config.gin").exists() for f in fingerprints)

    predicted = sorted(file.name for file in (results / "A1" / "predictions").iterdir())
    assert predicted == ["0-a.jsonl", "0-b.jsonl", "1-a.jsonl", "1-b.jsonl"]
    lines = {
        name: (results / "A1" / "predictions" / name).read_text().splitlines()
        for name in predicted
    }
    questions = {
        name: [json.loads(line)["question"] for line in rows]
        for name, rows in lines.items()
    }
    assert questions["0-a.jsonl"] == questions["0-b.jsonl"]  # the same problems
    assert questions["0-a.jsonl"] != questions["1-a.jsonl"]
    index = (results / "README.md").read_text()
    assert "[A1](A1/report.md)" in index and "1 passed, **1 failed**" in index


def run(claim, cache, folder, seeds=2):
    return runner.reproduce(
        claim, "nano", seeds=seeds, results=folder / "results", cache=cache
    )[0]


def test_what_was_done_is_not_done_again(claim, cache, tmp_path, monkeypatch):
    arms = Arm("a", Share(2), answer), Arm("b", Share(4), answer)
    first = run(with_arms(claim, *arms), cache, tmp_path)
    assert RUNS == [(0, 2), (0, 4), (1, 2), (1, 4)]
    monkeypatch.setattr(runner, "run", None)  # training again would fail
    assert run(with_arms(claim, *arms), cache, tmp_path) == first
    assert len(RUNS) == 4
    # Another method runs on the same policies; a known one of another name does not.
    changed = Arm("a", Share(4), answer), Arm("b", Share(0), answer)
    second = run(with_arms(claim, *changed), cache, tmp_path)
    assert RUNS[4:] == [(0, 0), (1, 0)]
    assert [check["found"] for check in first["checks"]] == ["1.000", "0.500 and 1.000"]
    assert [check["found"] for check in second["checks"]] == [
        "0.000",
        "1.000 and 0.000",
    ]


def test_a_killed_run_goes_on(claim, cache, tmp_path):
    share = Share(3, dies_on=1)
    dying = with_arms(claim, Arm("a", share, answer), Arm("b", share, answer))
    with pytest.raises(KeyboardInterrupt):
        run(dying, cache, tmp_path)
    assert RUNS == [(0, 3)]  # b has the method of a: there is nothing left to run
    with pytest.raises(KeyboardInterrupt):
        run(dying, cache, tmp_path)
    assert RUNS == [(0, 3)]
    run(dying, cache, tmp_path, seeds=1)  # all of it is there


def test_samples_are_graded_and_their_cost_is_shared_out(claim, cache, tmp_path):
    arms = Arm("a", Sample(3), sample), Arm("b", Sample(1), sample)
    content = run(with_arms(claim, *arms), cache, tmp_path, seeds=1)
    file = tmp_path / "results" / "A1" / "predictions" / "0-a.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["samples"] for row in rows} == {3}
    assert all(0 <= row["right"] <= 3 <= row["tokens"] <= 24 for row in rows)
    assert {row["difficulty"] for row in rows} <= {2, 3}
    # A problem's FLOPs are in proportion to its tokens.
    rates = [row["flops"] / row["tokens"] for row in rows]
    np.testing.assert_allclose(rates, rates[0])
    # At 12 samples in rows of 8 the sampler makes two fills of at most 8 steps and
    # reads 12 prompts or more: more than 2 FLOPs a parameter and token.
    (a,) = (row for row in content["ledger"] if row["kind"] == "a")
    assert a["flops"] > 2 * 1000 * a["tokens"]


EXAMPLES = [Example("1 + 1 =", (), "2", 1), Example("1 + 2 * 2 =", (), "1", 2)]
TWO = Predictions(
    right=np.array([1, 0]),
    samples=np.array([2, 2]),
    tokens=np.array([5.0, 6.5]),
    flops=np.array([50.0, 65.0]),
    extra={"chosen": ["2", None], "scores": [[0.5, 0.25], [1.0, 0.0]]},
    facts={"auc": 0.9},
)


def test_predictions_come_back_as_they_were(tmp_path):
    file = tmp_path / "deep" / "a.jsonl"
    write_predictions(file, EXAMPLES, TWO)
    back = read_predictions(file, EXAMPLES, TWO.facts)
    for name in ("right", "samples", "tokens", "flops"):
        np.testing.assert_array_equal(getattr(back, name), getattr(TWO, name))
    assert (back.extra, back.facts) == (TWO.extra, TWO.facts)
    with pytest.raises(ValueError, match=r"a\.jsonl holds other problems"):
        read_predictions(file, EXAMPLES[::-1], {})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokens": np.ones(3)}, "column 'tokens' has 3 entries for 2 problems"),
        ({"extra": {"x": [1]}}, "column 'x' has 1 entries for 2 problems"),
        ({"extra": {"right": [1, 1]}}, "extra column 'right' has the name of another"),
        ({"right": np.array([3, 0])}, "right must lie between 0 and samples"),
    ],
    ids=["tokens", "extra", "name", "right"],
)
def test_malformed_predictions_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_predictions(tmp_path / "a.jsonl", EXAMPLES, TWO._replace(**change))


def nested():
    def inner(workdir, params, key, examples, method):
        return TWO

    return inner


@pytest.mark.parametrize(
    "arm, message",
    [
        (("a/b", Share(1), answer), "arm name 'a/b' does not fit into a file name"),
        (("a", Share(1), nested()), "arm 'a': run must be a function of a module"),
        (("a", Share(1), lambda *_: TWO), "arm 'a': run must be a function of a mod"),
        (("a", object(), answer), "arm 'a': method has no repr of its own"),
    ],
    ids=["name", "nested", "lambda", "method"],
)
def test_an_arm_that_could_not_be_known_again_is_refused(arm, message):
    with pytest.raises(ValueError, match=message):
        Arm(*arm)


def test_two_arms_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two arms are named 'a'"):
        Tier("x.gin", (Arm("a", 1, answer), Arm("a", 2, answer)), 4)


def test_all_checks_held_reads_so():
    check = {"name": "it rises", "passed": True, "found": "0.1, 0.2"}
    content = {"claim": "A9", "passed": 1, "failed": 0, "checks": [check]}
    assert verdict(content) == ("passed  it rises: 0.1, 0.2\nA9: 1 of 1 checks passed")


@pytest.mark.parametrize(
    "args, message",
    [
        (["B"], "unknown claim 'B'; choose from A1"),
        (["A11"], "unknown claim 'A11'; did you mean A1?"),
        ([], "reproduce: which claim? --list shows them"),
        (["A1", "--tier", "big"], "claim A1 has no tier 'big'; choose from nano"),
        (
            ["A1", "--seeds", "0"],
            "reproduce: argument --seeds: '0' is not a count of 1 or more",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_in_one_line(claim, args, message, capsys):
    assert main(["reproduce", *args]) == 2
    assert capsys.readouterr().err == f"o1jax: error: {message}\n"


def test_a_missing_experiment_is_named(claim, tmp_path, capsys):
    (tmp_path / "guesses.gin").unlink()
    assert main(["reproduce", "A1"]) == 2
    err = capsys.readouterr().err
    assert "guesses.gin is missing: claims need the experiments/ folder" in err


def test_the_list_names_every_claim(capsys):
    assert main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.CLAIMS)
    assert "arXiv 2407.21787" in lines[0]


def test_every_claim_trains_from_a_file_that_is_there():
    files = [
        tier.experiment for c in registry.CLAIMS.values() for tier in c.tiers.values()
    ]
    assert files and all((runner.EXPERIMENTS / file).is_file() for file in files)

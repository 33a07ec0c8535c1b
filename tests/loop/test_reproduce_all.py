"""All claims in one go: so many at a time, none lost, resumable, and on one page.

Claims run as processes; here each is a small script that notes when it ran.
"""

import json
import sys
import threading
import time
from pathlib import Path

import pytest

from o1jax.cli import main
from o1jax.config import ConfigError
from o1jax.inspect.claims import write_index
from o1jax.inspect.claims_page import write_page
from o1jax.loop.reproduce.claim import Claim, Tier
from o1jax.loop.reproduce.everything import reproduce_all
from o1jax.loop.reproduce.runner import alone

TIER = Tier("none.gin", (), 1)
CLAIMS = {
    name: Claim(name, "", "", "", {tier: TIER}, None)
    for name, tier in (("A1", "nano"), ("A2", "nano"), ("A3", "nano"), ("A4", "base"))
}
# Takes the arguments of `o1jax reproduce`. A2 fails until told otherwise, and told to
# be together each one waits for the two others.
SCRIPT = """
import pathlib, sys, time
name, results = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--results") + 1])
begin = time.time()
print("a report\\n" + name + ": 1 of 1 checks passed")
if name == "A2" and not (results / "mended").exists():
    sys.exit("o1jax: error: no room")
(results / f"{name}.begun").touch()
while (results / "together").exists() and len(list(results.glob("*.begun"))) < 3:
    time.sleep(0.01)
    if time.time() > begin + 60:
        sys.exit("alone")
(results / f"{name}.ran").write_text(f"{begin} {time.time()} {sys.argv[2:]}")
"""


@pytest.fixture
def run_all(tmp_path):
    """A function: how many at a time -> outcomes by claim."""
    (tmp_path / "results").mkdir()
    script = tmp_path / "claim.py"
    script.write_text(SCRIPT)

    def run_all(jobs, tier="nano"):
        outcomes = reproduce_all(
            CLAIMS,
            tier,
            seeds=1,
            jobs=jobs,
            results=tmp_path / "results",
            cache=tmp_path / "cache",
            command=(sys.executable, str(script)),
        )
        return {outcome.claim: outcome for outcome in outcomes}

    return run_all


def clock(results, seconds):
    """Sets the clock of the last run."""
    said = json.loads((results / "all.json").read_text())
    assert said["seconds"] > 0 and set(said["claims"]) == {"A1", "A3"}
    (results / "all.json").write_text(json.dumps(said | {"seconds": seconds}))


def spans(results):
    texts = {file.stem: file.read_text() for file in results.glob("*.ran")}
    return {name: tuple(map(float, t.split()[:2])) for name, t in texts.items()}


def test_one_that_fails_ends_no_other_and_is_run_again(run_all, tmp_path):
    results = tmp_path / "results"
    (results / "A3").mkdir()
    (results / "A3" / "results.json").write_text('{"seconds": 60}')
    found = run_all(jobs=1)
    assert {n: o.ended_well for n, o in found.items()} == {
        "A3": True,  # took longest, so it comes first
        "A1": True,
        "A2": False,
    }
    assert next(iter(found)) == "A3"
    assert found["A1"].said == "A1: 1 of 1 checks passed"
    assert found["A2"].said.startswith("A2: no room (see ")
    assert "a report" in (tmp_path / "cache" / "logs" / "A1.txt").read_text()
    times = spans(results)
    assert times["A3"][1] <= times["A1"][0]  # one at a time
    assert "'--seeds', '1'" in (results / "A1.ran").read_text()

    # The clock of a run that was broken off goes on; that of a whole one begins anew.
    clock(results, 1000.0)
    (results / "mended").touch()
    assert all(outcome.ended_well for outcome in run_all(jobs=1).values())
    said = json.loads((results / "all.json").read_text())
    assert (set(said["claims"]), said["of"]) == ({"A1", "A2", "A3"}, 3)
    assert 1000 < said["seconds"] < 1500
    run_all(jobs=1)
    again = json.loads((results / "all.json").read_text())
    assert again["seconds"] < 500 and again["longest"] == said["seconds"]


def test_several_at_a_time(run_all, tmp_path):
    for told in ("mended", "together"):
        (tmp_path / "results" / told).touch()
    assert all(outcome.ended_well for outcome in run_all(jobs=3).values())


def test_a_tier_that_no_claim_has(run_all):
    with pytest.raises(ConfigError, match="no claim has tier 'vast'; choose from base"):
        run_all(jobs=1, tier="vast")


def test_two_never_make_the_same_thing_at_once(tmp_path):
    inside, most = [], []

    def make():
        with alone(tmp_path / "new" / "policy.lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def content(claim, passed):
    checks = [{"name": "a < b & c", "passed": passed, "found": "0.1 <script>"}]
    text = "Published ([arXiv 1.2](https://arxiv.org/abs/1.2)): b beats a.\n\nA check"
    return {
        "claim": claim,
        "statement": "b > a",
        "source": "1.2",
        "tier": "nano",
        "seeds": 2,
        "passed": int(passed),
        "failed": int(not passed),
        "checks": checks,
        "date": "2026-11-23",
        "seconds": 90.0,
        "device": "1 x cpu",
        "command": f"o1jax reproduce {claim}",
        "sections": [{"name": "The claim", "text": text}],
        "ledger": [
            {"kind": "train", "tokens": 10, "flops": 2e9, "seconds": 60.0},
            {"kind": "arm", "tokens": 10, "flops": 1e9, "seconds": 30.0},
        ],
    }


def test_the_page_holds_all_that_was_found(tmp_path):
    for claim, passed in (("A10", True), ("A2", False)):
        folder = tmp_path / claim
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(content(claim, passed)))
    (tmp_path / "A2" / "report.png").write_bytes(b"\x89PNG")
    page = write_page(tmp_path).read_text()
    assert page.index('id="A2"') < page.index('id="A10"')
    assert "1 of 2 checks hold, of 2 claims" in page
    assert "Compute: 6 GFLOP in 3 min 00 s" in page  # two claims of 3e9 and 90 s each
    assert page.count('<span class="failed">FAILED</span>') == 1
    assert page.count("b beats a.") == 2  # and not what stands behind it
    assert "<script" not in page and "0.1 &lt;script&gt;" in page
    assert page.count("data:image/png;base64,iVBORw==") == 1

    index = write_index(tmp_path).read_text()
    assert "Published: b beats a.\n" in index and "| 3 G" in index
    assert "- **FAILED**: a < b & c: 0.1 <script>" in index


def test_the_page_of_the_results_of_this_repository(tmp_path, capsys):
    results = Path(__file__).parents[2] / "results"
    for file in results.glob("*/results.json"):
        (tmp_path / file.parent.name).mkdir()
        (tmp_path / file.parent.name / file.name).write_bytes(file.read_bytes())
    assert main(["reproduce", "--page", "--results", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    names = {file.parent.name for file in results.glob("*/results.json")}
    assert names and all(f'<section id="{name}">' in page for name in names)
    assert "Published (" in page and "): </p>" not in page
    order = ("A1", "A2", "A9", "A10", "A13", "A13V", "A14")
    places = [page.index(f'<section id="{name}">') for name in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["A1", "--all"], "--all and --page are for all claims: name none"),
        (["A1", "--jobs", "2"], "--jobs needs --all"),
        (["--page", "--jobs", "2"], "--jobs needs --all"),
        (["--page"], "holds no claim yet"),
        (["--all", "--tier", "vast"], "no claim has tier 'vast'"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys):
    folders = ["--results", str(tmp_path), "--cache", str(tmp_path)]
    assert main(["reproduce", *arguments, *folders]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1

"""Files that are missing, cut or half-written are named; the rest is shown."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from o1jax.cli import main
from o1jax.inspect.checkpoint_report import inspect_checkpoint
from o1jax.loop.checkpoint import Checkpoints
from o1jax.types import TrainState

BIG = (64, 257)  # too large to be stored inside the database's nodes
CONFIG = "Experiment.seed = 3\nPolicyConfig.width = 257\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with two stages: steps 5 and 10 of the first, 15 of the second."""
    workdir = tmp_path_factory.mktemp("damage") / "run"
    random = np.random.default_rng(0).standard_normal((2, *BIG), np.float32)
    params = {"embed": jnp.array(random[0]), "layers": {"up": jnp.array(random[1])}}
    for stage, steps in (("00-facts", (5, 10)), ("01-chains", (15,))):
        folder = workdir / "checkpoints" / stage
        with Checkpoints(folder, keep=2) as checkpoints:
            for step in steps:
                state = TrainState(
                    step=jnp.int32(step),
                    params=jax.tree.map(lambda x, step=step: x * step, params),
                    opt_state=({"mu": params}, jnp.int32(step)),
                    key=jax.random.key(0),
                )
                position = {"record": 40 * step}
                checkpoints.save(step, state, position, {"ledger": {"tokens": step}})
    (workdir / "config.gin").write_text(CONFIG)
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def newest(workdir):
    return workdir / "checkpoints/01-chains/000015"


def largest(step):
    """The file with the chunks of the big arrays."""
    return max(step.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


def test_of_a_workdir_the_stages_are_listed_and_the_newest_step_shown(run):
    found = inspect_checkpoint(str(run))
    assert [(s.name, s.steps, s.newest.number) for s in found.stages] == [
        ("checkpoints/00-facts", ("000005", "000010"), 10),
        ("checkpoints/01-chains", ("000015",), 15),
    ]
    checkpoint = found.checkpoint
    assert (checkpoint.number, found.problems) == (15, ())
    assert checkpoint.documents["meta"]["position"] == {"record": 600}
    assert checkpoint.config == (str(run / "config.gin"), CONFIG)
    assert [a.path for a in checkpoint.params] == ["params/embed", "params/layers/up"]
    values = {array.path: array.value for array in checkpoint.arrays}
    assert values["step"] == values["opt_state/1"] == 15


def test_the_folder_of_a_stage_and_a_step_are_understood_too(run):
    stage = inspect_checkpoint(str(run / "checkpoints/00-facts"))
    assert [s.steps for s in stage.stages] == [("000005", "000010")]
    step = inspect_checkpoint(str(run / "checkpoints/00-facts/000005"))
    item = inspect_checkpoint(str(run / "checkpoints/00-facts/000005/state"))
    assert (stage.checkpoint.number, step.checkpoint.number) == (10, 5)
    assert item.checkpoint.arrays == step.checkpoint.arrays
    assert step.stages == item.stages == ()


def test_a_cut_file_is_named_with_the_arrays_it_held(copy):
    file = largest(newest(copy))
    size = file.stat().st_size
    os.truncate(file, 100)
    found = inspect_checkpoint(str(copy), stats=True)
    lost = {array.path for array in found.checkpoint.arrays if array.problems}
    assert lost  # orbax fills several files side by side: which lie here varies
    names = sorted(lost)
    held = ", ".join(names)
    if len(names) > 3:
        held = f"{names[0]}, {names[1]} and {len(names) - 2} more"
    name = file.relative_to(newest(copy))
    assert f"{name}: 100 bytes instead of {size:,} ({held})" in found.problems
    # What lay in it can't be read; everything else can.
    assert {error.path for error in found.failed} == lost
    read = {stats.path for stats in found.stats}
    assert read == {array.path for array in found.checkpoint.arrays} - lost
    assert len(found.problems) == 1 + len(lost)


def test_every_missing_file_is_named(copy):
    step = newest(copy)
    gone = [step / "meta/metadata", step / "state/_sharding", largest(step)]
    for file in gone:
        file.unlink()
    found = inspect_checkpoint(str(step))
    assert [line.split(" (")[0] for line in found.problems] == sorted(
        f"{file.relative_to(step)}: missing" for file in gone
    )
    assert [array.shape for array in found.checkpoint.params] == [BIG, BIG]
    assert {array.sharding for array in found.checkpoint.arrays} == {None}


@pytest.mark.parametrize("name", ["manifest.ocdbt", "d"])
def test_without_the_merged_database_that_of_each_process_is_read(run, copy, name):
    step = newest(copy)
    (step / "files.json").unlink()  # as with another writer
    if name == "d":
        shutil.rmtree(step / "state/d")
    else:
        (step / "state" / name).write_bytes(b"torn")
    found = inspect_checkpoint(str(step), stats=True)
    (problem,) = found.problems
    if name == "d":
        assert problem.startswith("state/d/") and problem.endswith(": missing")
    else:
        assert problem.startswith("state/manifest.ocdbt: Error decoding manifest")
    assert {stats.path for stats in found.stats} == {
        array.path for array in inspect_checkpoint(str(run)).checkpoint.arrays
    }
    assert found.failed == ()


def test_broken_metadata_leaves_the_arrays_with_the_names_they_are_stored_by(copy):
    step = newest(copy)
    (step / "state/_METADATA").write_text('{"tree_metadata": {')
    (step / "_CHECKPOINT_METADATA").write_text("")
    found = inspect_checkpoint(str(step))
    paths = {array.path for array in found.checkpoint.arrays}
    assert "params/layers/up" in paths and len(paths) == 7
    assert [line.split(":")[0] for line in found.problems] == [
        "_CHECKPOINT_METADATA",
        "state/_METADATA",
    ]


def test_a_flipped_bit_is_found_by_its_checksum(copy):
    file = largest(newest(copy))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    name = file.relative_to(newest(copy))
    assert inspect_checkpoint(str(copy)).problems == ()  # sizes alone can't tell
    assert (
        f"{name}: wrong checksum" in inspect_checkpoint(str(copy), stats=True).problems
    )


def test_saves_that_were_never_committed_are_told_from_steps(copy):
    stage = copy / "checkpoints/01-chains"
    shutil.copytree(newest(copy), stage / "000020.orbax-checkpoint-tmp-7")
    shutil.copytree(newest(copy), stage / "broken-000018")
    found = inspect_checkpoint(str(copy))
    assert found.checkpoint.number == 15
    assert found.problems == (
        "checkpoints/01-chains/broken-000018: damaged, and moved aside by its run",
        "checkpoints/01-chains/000020.orbax-checkpoint-tmp-7: half-written, never "
        "committed",
    )
    half = inspect_checkpoint(str(stage / "000020.orbax-checkpoint-tmp-7"))
    assert half.problems == ("half-written: this save was never committed",)
    assert [array.shape for array in half.checkpoint.params] == [BIG, BIG]


def test_an_emptied_step_is_still_a_step(copy):
    for path in newest(copy).iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = inspect_checkpoint(str(copy))
    assert found.checkpoint.number == 10  # the newest that tells when it was committed
    assert found.problems == ("checkpoints/01-chains/000015: there are no files",)


def test_exit_codes(copy, capsys):
    assert main(["inspect", str(copy)]) == 0
    assert "params" in capsys.readouterr().out
    os.truncate(largest(newest(copy)), 100)
    assert main(["inspect", str(copy), "--json"]) == 1
    out, err = capsys.readouterr()
    assert len(json.loads(out)["problems"]) == 1 and err == ""
    assert main(["inspect", str(copy / "none")]) == 2
    assert capsys.readouterr().err == f"o1jax: error: {copy}/none: no such folder\n"
    (copy / "empty").mkdir()
    assert main(["inspect", str(copy / "empty")]) == 2
    assert "no checkpoint there" in capsys.readouterr().err
    assert main(["inspect", str(copy), "--only", "("]) == 2
    assert "--only: '(' is no pattern" in capsys.readouterr().err


class Bucket(http.server.BaseHTTPRequestHandler):
    """As much of Google's object store as reading needs; a folder is the bucket."""

    folder: Path

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        _, _, name = url.path.partition("/storage/v1/b/bucket/o")
        if not name:
            prefix = query.get("prefix", [""])[0]
            files = [p for p in self.folder.rglob("*") if p.is_file()]
            names = sorted(str(p.relative_to(self.folder)) for p in files)
            items = [
                {"name": n, "generation": "1"} for n in names if n.startswith(prefix)
            ]
            return self.answer(200, json.dumps({"items": items}).encode())
        file = self.folder / urllib.parse.unquote(name[1:])
        if not file.is_file():
            return self.answer(404, b"{}")
        content = file.read_bytes()
        if bounds := self.headers.get("Range"):
            first, _, last = bounds.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1]
            where = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            return self.answer(206, part, {"Content-Range": where})
        return self.answer(200, content)

    def answer(self, status, content, headers=()):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("x-goog-generation", "1")
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


def test_an_object_store_is_read_the_same_way(run):
    handler = type("Handler", (Bucket,), {"folder": run.parent})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        env = {**os.environ, "TENSORSTORE_GCS_HTTP_URL": address}
        env["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "none"
        command = [sys.executable, "-m", "o1jax", "inspect", "gs://bucket/run"]
        result = subprocess.run(
            [*command, "--stats", "--json"], env=env, capture_output=True, text=True
        )
        server.shutdown()
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    here = inspect_checkpoint(str(run), stats=True)
    assert [stage["newest"] for stage in found["stages"]] == [10, 15]
    assert found["checkpoint"]["config"]["text"] == CONFIG
    assert [stats["norm"] for stats in found["stats"]] == [s.norm for s in here.stats]

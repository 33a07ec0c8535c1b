"""Lines arrive one step late, survive a kill, and are replayed after a resume."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from o1jax.loop.metrics import Metrics, progress


def lines(workdir) -> list[dict]:
    return [json.loads(s) for s in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir) -> list[Event]:
    """TensorBoard's records: length u64, checksum u32, an Event, checksum u32."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_values_are_fetched_one_step_late(tmp_path, monkeypatch):
    fetched = []
    real = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: fetched.append(x) or real(x))
    loss = jax.jit(lambda step: 1 / step)
    with Metrics(tmp_path) as metrics:
        metrics.log(1, {"loss": loss(1.0)})
        assert fetched == [] and lines(tmp_path) == [] and metrics.latest == {}
        metrics.log(2, {"loss": loss(2.0), "rows": 7})
        assert len(fetched) == 1 and metrics.latest == {"loss": 1.0}
        assert lines(tmp_path) == [{"loss": 1.0, "step": 1}]
        metrics.flush()  # before a checkpoint of step 2
        assert lines(tmp_path)[1:] == [{"loss": 0.5, "rows": 7, "step": 2}]
        metrics.log(3, {"loss": loss(4.0)})
    assert lines(tmp_path)[2:] == [{"loss": 0.25, "step": 3}]  # close flushes


def test_one_line_a_step_with_sorted_keys(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.log(1, {"z": jnp.int32(3), "b": jnp.bfloat16(0.5)})
        metrics.log(1, {"a": jnp.bool_(True)})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"a": 1, "b": 0.5, "step": 1, "z": 3}\n'


def test_nan_becomes_null_and_is_named_once(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.log(5, {"loss": jnp.nan, "norm": -jnp.inf, "good": 1.0})
        with pytest.warns(RuntimeWarning) as warned:
            metrics.log(6, {"loss": jnp.nan})
    assert sorted(str(w.message) for w in warned) == [
        "metric 'loss' is nan at step 5; null is written",
        "metric 'norm' is -inf at step 5; null is written",
    ]
    assert lines(tmp_path) == [
        {"good": 1.0, "loss": None, "norm": None, "step": 5},
        {"loss": None, "step": 6},
    ]


@pytest.mark.parametrize(
    "step, values, message",
    [
        (2, {"loss": jnp.ones(3)}, r"metric 'loss' has shape \(3,\)"),
        (2, {"step": 1}, "can't be named 'step'"),
        (0, {"loss": 1}, "step 0 logged after step 1"),
    ],
)
def test_bad_values_are_refused(tmp_path, step, values, message):
    with Metrics(tmp_path) as metrics:
        metrics.log(1, {"loss": 1})
        with pytest.raises(ValueError, match=message):
            metrics.log(step, values)


def run(workdir, start, stop, resume_step=None):
    with Metrics(workdir, resume_step=resume_step) as metrics:
        for step in range(start, stop + 1):
            metrics.log(step, {"loss": jnp.float32(1 / step)})


def test_resume_drops_what_will_be_replayed(tmp_path):
    run(tmp_path / "whole", 1, 6)
    run(tmp_path / "killed", 1, 5)  # dies after step 5; its checkpoint is of step 3
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"loss": 0.1666')  # a line cut short
    run(tmp_path / "killed", 4, 6, resume_step=3)
    files = [tmp_path / name / "metrics.jsonl" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


def test_without_a_checkpoint_the_file_starts_afresh(tmp_path):
    run(tmp_path, 1, 5)
    run(tmp_path, 1, 2, resume_step=None)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_kill_9_leaves_readable_lines_up_to_the_flush(tmp_path):
    code = """
        import os, signal, sys
        from o1jax.loop.metrics import Metrics
        metrics = Metrics(sys.argv[1])
        for step in range(1, 8):
            metrics.log(step, {"loss": 1 / step})
            if step == 5:
                metrics.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == -signal.SIGKILL
    assert [line["step"] for line in lines(tmp_path)][:5] == [1, 2, 3, 4, 5]
    run(tmp_path, 6, 8, resume_step=5)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))


def test_tensorboard_scalars_and_purge(tmp_path):
    run(tmp_path, 1, 3)
    run(tmp_path, 3, 3, resume_step=2)
    found = events(tmp_path)
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in found
        for value in event.summary.value
    ]
    third = (3, "loss", pytest.approx(1 / 3))
    assert scalars == [(1, "loss", 1.0), (2, "loss", 0.5), third, third]
    starts = [event.step for event in found if event.HasField("session_log")]
    assert starts == [0, 3]  # TensorBoard forgets the first run's step 3


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_prints_a_line_every_tenth_or_ten_seconds():
    out, clock = io.StringIO(), Clock()
    with progress(100, "train", 50, stream=out, clock=clock) as bar:
        for step in range(51, 101):
            clock.now += 30 if step == 51 else 0.5  # the first step compiles
            bar.advance(1, {"a": 1.0, "loss": 2 / step, "c": 3.0})
    printed = out.getvalue().splitlines()
    assert printed[0] == "train 51/100 (51 %) a 1, loss 0.03922"
    # Ten steps on, 2 steps/s: 39 are left.
    assert printed[1] == ("train 61/100 (61 %) 2 steps/s, ETA 0:20, a 1, loss 0.03279")
    assert [line.split()[1] for line in printed] == [
        "51/100",
        "61/100",
        "71/100",
        "81/100",
        "91/100",
        "100/100",
    ]


def test_progress_shows_the_metrics_asked_for_and_long_times():
    out, clock = io.StringIO(), Clock()
    with progress(7203, "eval", show=("loss",), stream=out, clock=clock) as bar:
        for _ in range(3):
            clock.now += 1
            bar.advance(1, {"a": 1.0, "loss": 0.25})
        clock.now += 10
        bar.advance(10, {"loss": 0.125})
    assert out.getvalue() == ("eval 13/7203 (0 %) 1 steps/s, ETA 1:59:50, loss 0.125\n")


def test_progress_draws_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with progress(4, "train", stream=out) as bar:
        for _ in range(4):
            bar.advance(1, {"loss": 0.5})
    assert "train" in out.getvalue() and "4/4" in out.getvalue()
    assert "loss 0.5" in out.getvalue()

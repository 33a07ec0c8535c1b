"""A stage of improvement as a command: killed, run again, and stopped by its guard."""

import json
import re
import shutil

import pytest

STAGE = """
Experiment.stages = [
    @before/Evaluate(), @one/Imitate(), @two/Imitate(), @after/Evaluate(), @Improve()]
Improve.rounds = 4
Improve.questions = 4
Improve.samples = 4
Improve.checkpoint_every = 2
HeldOut.problems = 4
HeldOut.samples = 2
optimizer/OptimizerConfig.learning_rate = 0.02
optimizer/OptimizerConfig.warmup_steps = 0
Payment.overlong = 6  # to be short is what a policy that knows nothing can learn
"""


@pytest.fixture
def improving(tiny, tmp_path, copied):
    """(experiment file, workdir) with all stages done but the last: improvement."""
    file = tmp_path / "improve.gin"
    file.write_text(tiny.read_text() + STAGE)
    for name in ("config.gin", "results.json"):
        (copied / name).unlink()
    return file, copied


def test_killed_it_ends_at_the_same_parameters(o1jax, improving, tmp_path, differences):
    file, whole = improving
    parts = shutil.copytree(whole, tmp_path / "parts")
    code, out, err = o1jax("run", file, "--workdir", whole)
    assert code == 0, err
    assert "## Improvement" in out and "Compiling" not in err
    # While its second checkpoint is written; then behind the last one.
    o1jax.killed_at("o1jax.loop.manifest:write", 2, "run", file, "--workdir", parts)
    assert [p.name for p in parts.glob("checkpoints/04-improve/??????")] == ["000002"]
    o1jax.killed_at(
        "o1jax.loop.workdir:Workdir.finish", 1, "run", file, "--workdir", parts
    )
    assert o1jax("run", file, "--workdir", parts)[0] == 0
    assert differences(parts, whole) == []
    lines = (parts / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["step"] for x in lines][-4:] == [19, 20, 21, 22]


def test_a_guard_ends_the_run_with_one_line(o1jax, improving):
    file, workdir = improving
    bound = ("--set", "Guard.kl=1e-6", "--set", "Improve.checkpoint_every=1")
    code, _, err = o1jax("run", file, "--workdir", workdir, *bound)
    assert code == 2
    stopped = re.fullmatch(
        "o1jax: error: stage 'improve' stopped in round ([234]): kl is .* nats a "
        "response, above Guard.kl 1e-06: lower the learning rate; checkpoint ([123]) "
        "is kept",
        err.splitlines()[-1],
    )
    assert int(stopped[1]) == int(stopped[2]) + 1
    assert not (workdir / "results.json").exists()


def test_a_reward_model_that_nobody_trains_is_named_before_any_compute(
    o1jax, improving, tmp_path
):
    file, _ = improving
    code, _, err = o1jax(
        "run", file, "--workdir", tmp_path / "new", "--set", "Payment.reward='prm'"
    )
    assert code == 2
    assert err.splitlines()[-1].endswith(
        "'improve' needs the reward model 'prm', which no TrainReward stage "
        "before it trains"
    )
    assert not (tmp_path / "new" / "checkpoints").exists()

"""`o1jax eval` and `o1jax ask` on a finished run, and what they refuse."""

import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import o1jax.loop.experiment  # noqa: F401  registers every config class
from o1jax.cli import main
from o1jax.config import load
from o1jax.loop.workdir import Workdir
from o1jax.tasks import Chain

STEP = re.compile(r"  (.*?) +(-\d+\.\d{3})(?:  (.*))?")
TOTAL = re.compile(
    r"(right|wrong|not graded)  \(log-prob (-\d+\.\d{3}), (\d+) tokens.*\)"
)


def asked(o1jax, workdir, question, *options):
    """(prompt, [(step, log-prob, verdict)], last line) that the command prints."""
    code, out, err = o1jax("ask", workdir, question, *options)
    assert (code, err) == (0, "")
    prompt, *steps, total = out.splitlines()
    steps = [STEP.fullmatch(step).groups() for step in steps]
    return prompt, [(text, float(x), why or "") for text, x, why in steps], total


def test_eval_prints_a_table(o1jax, finished):
    code, out, _ = o1jax("eval", finished.workdir)
    assert code == 0
    title, _, head, _, *rows = out.splitlines()
    assert title == "8 questions, 3 samples each"
    assert re.split(r" *\| *", head) == ["", "", "pass@k", "majority@k", ""]
    assert [row.split("|")[1].strip() for row in rows] == ["greedy", "k = 1", "k = 2"]
    # It is what the run's own last stage measured.
    report = (finished.workdir / "report.md").read_text()
    after, _ = (x for x in report.splitlines() if x.startswith("| after ") and "[" in x)
    assert rows[0].split("|")[2].strip() in after


def test_eval_takes_other_numbers_than_the_run(o1jax, finished):
    options = ("--problems", 3, "--samples", 1, "--temperature", 0, "--split", "valid")
    code, out, _ = o1jax("eval", finished.workdir, *options)
    assert code == 0
    cells = [[c.strip() for c in row.split("|")] for row in out.splitlines()[4:]]
    assert out.startswith("3 questions, 1 samples each\n")
    # At temperature 0 a sample is the greedy answer.
    assert cells[0][2].split()[0] == cells[1][2].split()[0]


def test_ask_prints_log_probs_and_verdicts(o1jax, finished):
    """Log-probs against those that the trainer's own forward gives the tokens."""
    question = "1 + 2 * 3 ="
    prompt, steps, total = asked(o1jax, finished.workdir, "1+2*3")
    assert prompt == question
    response = " ".join(text for text, *_ in steps)

    run = Workdir(load(finished.workdir / "config.gin").experiment, finished.workdir)
    tokenizer = run.tokenizer
    verdict, whole, count = TOTAL.fullmatch(total).groups()
    given = [tokenizer.bos_id, *tokenizer.encode(question)]
    written = tokenizer.encode(response)
    written += [tokenizer.eos_id] * (int(count) - len(written))  # one, if it stopped
    tokens = jnp.array([given + written])
    logits = run.policy.forward(run.newest_params(), tokens).logits[0, len(given) :]
    logprob = jax.nn.log_softmax(logits)[jnp.arange(len(written)), jnp.array(written)]
    np.testing.assert_allclose(float(whole), logprob.sum(), atol=2e-3)
    assert (jnp.argmax(logits, axis=-1) == jnp.array(written)).all()  # greedy

    lengths = [len(tokenizer.encode(text)) for text, *_ in steps]
    ends = np.cumsum(lengths)
    for (_, shown, _), begin, end in zip(steps, ends - lengths, ends):
        np.testing.assert_allclose(shown, logprob[begin:end].sum(), atol=1e-3)

    task = Chain(min_steps=2, max_steps=2, modulus=5)
    example = task.parse(question)
    checks = task.check_steps(example, response)
    assert [why for *_, why in steps[: len(checks)]] == [
        "ok" if check.correct else check.reason for check in checks
    ]
    assert (verdict == "right") == (task.grade(example, response) == 1)


def test_ask_answers_at_random_and_beyond_what_was_trained(o1jax, finished):
    question = "1 + 2 * 3 - 4 + 0 + 1 - 2 ="  # six steps; two were trained
    prompt, steps, total = asked(o1jax, finished.workdir, question, "--temperature", 1)
    assert prompt == question
    _, whole, count = TOTAL.fullmatch(total).groups()
    assert 1 <= int(count) <= 6
    stopped = "cut off" not in total
    parts = sum(x for _, x, _ in steps)
    # The token that ends the answer belongs to no step.
    assert (
        parts >= float(whole) - 1e-2
        if stopped
        else parts == pytest.approx(float(whole), abs=1e-2)
    )


def refused(capsys, *args):
    assert main([str(a) for a in args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.removeprefix("o1jax: error: ").rstrip()


def test_what_ask_cannot_answer_ends_in_one_line(finished, tmp_path, capsys):
    ask = lambda question: refused(capsys, "ask", finished.workdir, question)
    assert ask("hello") == ("chain question 'hello': expected the form 7 + 5 * 3 - 2 =")
    assert ask("1 + 9") == "chain question '1 + 9': 9 is not below the modulus 5"
    assert ask("") == "chain question '': expected the form 7 + 5 * 3 - 2 ="
    assert refused(capsys, "ask", tmp_path, "1 + 1") == (
        f"{tmp_path} is no workdir: it has no config.gin"
    )


def test_a_run_that_has_not_trained_yet_is_refused(finished, tmp_path, capsys):
    shutil.copy(finished.workdir / "config.gin", tmp_path)
    for command in (["eval", tmp_path], ["ask", tmp_path, "1 + 1"]):
        assert refused(capsys, *command) == (
            f"{tmp_path} holds no checkpoint yet: run it first"
        )


def test_a_damaged_checkpoint_is_one_line_too(copied, capsys):
    for file in copied.glob("checkpoints/02-two/*/meta/metadata"):
        file.write_text("{}")
    assert main(["ask", str(copied), "1 + 1"]) == 2
    *said, error = capsys.readouterr().err.splitlines()
    assert len(said) == 2  # one broken step each
    assert error.startswith("o1jax: error: no usable checkpoint in ")


def test_help_and_mistakes_need_no_jax():
    code = "import sys, o1jax.cli; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

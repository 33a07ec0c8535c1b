"""The command line as a user meets it: exit codes, one-line errors, what is printed.

The commands run in a process of their own over a small experiment and a stand-in for
the training loop, so these tests are about the command line alone.
"""

import os
import pty
import subprocess
import sys

import pytest

from o1jax.cli import COMMANDS

STAND_IN = '''
import sys, types

def module(name, source):
    sys.modules[name] = types.ModuleType(name)
    exec(source, sys.modules[name].__dict__)

module("o1jax.loop.experiment", """
from dataclasses import dataclass, field
from o1jax.config import configurable

@configurable
@dataclass(frozen=True)
class Imitate:
    steps: int = 10

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps must be positive")

@configurable
@dataclass(frozen=True)
class Experiment:
    imitate: Imitate = field(default_factory=Imitate)
    note: str = "[bold]plain[/bold]"
""")
module("o1jax.loop.run", """
import json

def run(loaded, workdir):
    steps = loaded.experiment.imitate.steps
    if steps == 13:
        raise KeyboardInterrupt
    if steps == 14:
        raise ValueError("width 6 of 'head'\\\\n does not divide 4")
    if steps == 15:
        json.loads("")  # an unforeseen ValueError of a library is a bug
    print("run", steps, workdir)

def evaluate_workdir(workdir, **options):
    print("eval", workdir, options)
""")
module("o1jax.loop.ask", """
def ask_by_search(workdir, question, method):
    raise AssertionError("not asked to search")

def ask(workdir, question, **options):
    print("ask", workdir, question, options)
""")
module("o1jax.inspect.report", """
import pathlib

def write_report(workdir):
    file = pathlib.Path(workdir, "report.md")
    file.write_text("# A report")
    return file

def evaluation_table(results):
    return "a table"
""")
from o1jax.cli import main
sys.exit(main())
'''


@pytest.fixture
def o1jax(tmp_path):
    """Run `o1jax ...` in a folder that holds quick.gin."""
    (tmp_path / "quick.gin").write_text("# header\nImitate.steps = 20\n")
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    def call(*args, module=False, **env):
        command = [sys.executable, *(("-m", "o1jax") if module else ("stand_in.py",))]
        return subprocess.run(
            [*command, *args],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
        )

    return call


@pytest.mark.parametrize(
    "args, message",
    [
        (["shwo", "quick.gin"], "unknown command 'shwo'; did you mean show?"),
        (
            ["zzz"],
            "unknown command 'zzz'; choose from run, show, eval, ask, reproduce, "
            "profile, inspect, aot, import, prompt, export",
        ),
        (
            ["show", "quik.gin"],
            "quik.gin: no such file or directory; did you mean quick.gin?",
        ),
        (["show"], "show: the following arguments are required: FILE"),
        (["show", "quick.gin", "--sat", "x"], "unrecognized arguments: --sat x"),
        (
            ["show", "quick.gin", "--set", "Imitate.stps=3"],
            "--set: Imitate has no field 'stps'; did you mean steps?",
        ),
        (
            ["run", "quick.gin", "--set", "Imitat.steps=3"],
            "--set: unknown class 'Imitat'; did you mean Imitate?",
        ),
        (
            ["run", "quick.gin", "--set", "Imitate.steps=1.5"],
            "--set: Imitate.steps = 1.5: expected int, got float",
        ),
        (
            ["run", "quick.gin", "--set", "Imitate.steps=-3"],
            "--set: Imitate.steps = -3: must be positive",
        ),
        (
            ["run", "quick.gin", "--set", "Imitate.steps=14"],
            "width 6 of 'head' does not divide 4",
        ),
        (["eval", "."], ". is no workdir: it has no config.gin"),
        (["eval", ".", "--guide", "prm"], "eval: --guide needs --search METHOD"),
        (
            ["ask", ".", "1 2 -> 3", "--guide", "prm"],
            "ask: --guide needs --search METHOD",
        ),
        (
            ["eval", ".", "--problems", "0"],
            "eval: argument --problems: '0' is not a count of 1 or more",
        ),
        (
            ["ask", ".", "1 2 -> 3", "--temperature", "nan"],
            "ask: argument --temperature: 'nan' is not a number of 0 or more",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_with_one_line_and_exit_code_2(o1jax, args, message):
    result = o1jax(*args)
    assert result.stderr == f"o1jax: error: {message}\n"
    assert (result.returncode, result.stdout) == (2, "")


def test_a_bug_keeps_its_traceback_and_a_mistake_shows_its_own_on_request(o1jax):
    bug = o1jax("run", "quick.gin", "--set", "Imitate.steps=15")
    assert bug.returncode == 1 and "Traceback" in bug.stderr
    wanted = o1jax("show", "none.gin", O1JAX_TRACEBACK="1")
    assert "Traceback" in wanted.stderr and "none.gin: no such file" in wanted.stderr


def test_an_interrupt_is_quiet(o1jax):
    result = o1jax("run", "quick.gin", "--set", "Imitate.steps=13")
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_show_lines_up_name_value_and_origin(o1jax):
    result = o1jax("show", "quick.gin", "--set", "Experiment.note=mine")
    assert result.stdout.splitlines() == [
        "Experiment.imitate  @Imitate()  default",
        "Experiment.note     'mine'      --set",
        "Imitate.steps       20          quick.gin:2",
    ]


def test_show_on_a_terminal_prints_values_as_they_are(o1jax, tmp_path):
    reader, terminal = pty.openpty()
    command = [sys.executable, "stand_in.py", "show", "quick.gin"]
    env = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    subprocess.run(command, cwd=tmp_path, stdout=terminal, env=env, check=True)
    os.close(terminal)
    shown = os.read(reader, 10_000).decode()
    assert "'[bold]plain[/bold]'" in shown and "quick.gin:2" in shown


def test_run_names_its_workdir_by_the_file_and_guards_it(o1jax, tmp_path):
    shown = o1jax("run", "quick.gin").stdout
    assert shown == "run 20 runs/quick\n# A report\nReport: runs/quick/report.md\n"
    assert o1jax("run", "quick.gin").returncode == 0  # the same config resumes
    other = o1jax("run", "quick.gin", "--set", "Imitate.steps=30")
    assert other.returncode == 2 and other.stdout == ""
    assert other.stderr == (
        "o1jax: error: runs/quick holds a run of another config "
        "(Imitate.steps was 20, is 30): choose a fresh --workdir\n"
    )
    fresh = o1jax("run", "quick.gin", "--set", "Imitate.steps=30", "--workdir", "w")
    assert fresh.stdout.startswith("run 30 w\n")
    assert (tmp_path / "w" / "config.gin").is_file()


def test_eval_and_ask_pass_on_what_was_asked(o1jax):
    o1jax("run", "quick.gin", "--workdir", "w")
    options = {"split": "valid", "problems": 8, "samples": None, "temperature": 1.0}
    args = ["--split", "valid", "--problems", "8", "--temperature", "1"]
    assert o1jax("eval", "w", *args).stdout == f"eval w {options}\na table\n"
    asked = o1jax("ask", "w", "-3 5 -> 2").stdout
    assert asked == "ask w -3 5 -> 2 {'temperature': 0.0}\n"


def test_every_command_shows_an_example(o1jax):
    listed = o1jax("--help", module=True)
    assert listed.returncode == 0 and all(name in listed.stdout for name in COMMANDS)
    assert o1jax(module=True).stdout == listed.stdout
    for name, command in COMMANDS.items():
        assert command.example.startswith(f"o1jax {name} ")
        assert f"example:\n  {command.example}\n" in o1jax(name, "--help").stdout


def test_output_into_a_closed_pipe_is_no_error(o1jax, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "stand_in.py", "show", "quick.gin"]
    result = subprocess.run(
        command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")

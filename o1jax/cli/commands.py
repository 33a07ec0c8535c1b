"""The subcommands: a few lines each over the library.

What a command needs is imported when it runs, so `o1jax --help` is instant.
"""

import json
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from o1jax.cli import arguments
from o1jax.cli.aot import aot_arguments, aot_command
from o1jax.cli.chat import ask_command
from o1jax.cli.models import (
    export_arguments,
    export_command,
    import_arguments,
    import_command,
)
from o1jax.cli.prompt import prompt_arguments, prompt_command
from o1jax.cli.reproduce import reproduce_all_command
from o1jax.cli.run import run_command
from o1jax.config import ConfigError, Loaded, load

if TYPE_CHECKING:
    from o1jax.loop.methods import Search


class Command(NamedTuple):
    """A subcommand."""

    summary: str
    example: str
    arguments: Callable[[ArgumentParser], None]
    call: Callable[[Namespace], int | None]  # the exit code; None is 0


def _show(args: Namespace) -> None:
    rows = _load(args).rows()
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text  # no markup: a value may hold [brackets]

        table = Table("field", "value", "from", box=None, title=args.file)
        for row in rows:
            style = "dim" if row.origin == "default" else ""
            table.add_row(*map(Text, row), style=style)
        Console(highlight=False).print(table)
        return
    name, value = (max(len(row[i]) for row in rows) for i in (0, 1))
    value = min(value, 60)  # one long list must not push every origin off the screen
    for row in rows:
        print(f"{row.name:{name}}  {row.value:{value}}  {row.origin}")


def _eval(args: Namespace) -> None:
    import o1jax.loop.experiment  # noqa: F401

    if args.prm:
        return _eval_prm(args)
    if args.search:
        return _eval_search(args)
    _only_with_search(args, "budget", "guide", "select")
    from o1jax.inspect.report import evaluation_table
    from o1jax.loop.run import evaluate_workdir

    results = evaluate_workdir(
        _workdir(args.workdir),
        split=args.split,
        problems=args.problems,
        samples=args.samples,
        temperature=args.temperature,
    )
    print(evaluation_table(results))


def _eval_prm(args: Namespace) -> None:
    from o1jax.loop.bucket import push
    from o1jax.loop.champ import judge_workdir, lines

    for name in ("search", "samples", "temperature", "budget", "select"):
        if getattr(args, name) is not None:
            raise ConfigError(f"eval: --{name} does not go with --prm")
    if len(args.guide or ()) > 1:
        raise ConfigError("eval: --prm judges one --guide at a time")
    workdir, reward = _workdir(args.workdir), "".join(args.guide or ())
    said = judge_workdir(workdir, reward=reward, problems=args.problems)
    print("\n".join(lines(said)))
    print(f"Scores: {workdir / 'prm' / 'champ.jsonl'}")
    push(workdir)


def _eval_search(args: Namespace) -> None:
    from o1jax.inspect.report import write_report
    from o1jax.loop.bucket import push
    from o1jax.loop.run import compare_workdir

    if args.samples:
        raise ConfigError("eval: --samples does not go with --search: use --budget")
    workdir = _workdir(args.workdir)
    folder = compare_workdir(
        workdir,
        [
            _method(args, workdir, name, guide)
            for guide in args.guide or ("",)
            for name in args.search
        ],
        budgets=args.budget or (4, 16, 64),
        split=args.split,
        problems=args.problems,
    )
    report = write_report(folder)
    print(report.read_text())
    print(f"Report: {report}")
    push(workdir)


def _ask(args: Namespace) -> None:
    import o1jax.loop.experiment  # noqa: F401

    if not args.search:
        _only_with_search(args, "budget", "guide", "select", "tree", "html")
        heat = args.temperature or 0.0
        ask_command(_workdir(args.workdir), args.question, temperature=heat)
        return
    if args.question is None:
        raise ConfigError("ask: --search needs a question")
    from o1jax.inspect.tree import draw
    from o1jax.inspect.tree_page import write_page
    from o1jax.loop.ask import ask_by_search

    workdir = _workdir(args.workdir)
    method = _method(args, workdir, args.search, args.guide or "")
    if args.budget:
        method = replace(method, budget=args.budget)
    trace = ask_by_search(workdir, args.question, method).to_json()
    if args.html:
        write_page(args.html, trace)
    if args.tree or not args.html:
        width = shutil.get_terminal_size((100, 24)).columns
        # Without --tree the answer's path alone is shown.
        most = 60 if args.tree else 1
        color = sys.stdout.isatty()
        print(draw(trace, width=width, color=color, max_nodes=most), end="")
    if args.html:
        print(f"Tree: {args.html}")


def _method(args: Namespace, workdir: Path, name: str, guide: str) -> "Search":
    """The method of that name, as the run set it up, changed by what is given."""
    from o1jax.loop.run import method_of

    method = method_of(workdir, name, guide)
    if args.temperature is not None:
        sampling = replace(method.steps.sampling, temperature=args.temperature)
        method = replace(method, steps=replace(method.steps, sampling=sampling))
    if args.select:
        method = replace(method, select=args.select, name="")
    return method


def _only_with_search(args: Namespace, *names: str) -> None:
    for name in names:
        if getattr(args, name):
            raise ConfigError(f"{args.command}: --{name} needs --search METHOD")


def _reproduce(args: Namespace) -> None:
    from o1jax.loop.reproduce.registry import find_claim, listing

    if args.list:
        print(listing())
        return
    if args.page or args.all:
        reproduce_all_command(args)
        return
    if args.claim is None:
        raise ConfigError("reproduce: which claim? --list shows them")
    if args.jobs:
        raise ConfigError("reproduce: --jobs needs --all")
    claim = find_claim(args.claim)
    from o1jax.inspect.claims import write_index
    from o1jax.inspect.report import write_report
    from o1jax.loop.reproduce.record import verdict
    from o1jax.loop.reproduce.runner import reproduce

    content, folder = reproduce(
        claim, args.tier, seeds=args.seeds, results=args.results, cache=args.cache
    )
    report = write_report(folder)
    index = write_index(args.results)
    print(f"{report.read_text()}\n{verdict(content)}\nReport: {report}, index: {index}")


def _inspect(args: Namespace) -> int:
    from o1jax.cli.progress import bytes_progress
    from o1jax.inspect.checkpoint_report import inspect_checkpoint, to_json

    found = inspect_checkpoint(
        args.checkpoint,
        stats=args.stats,
        diff=args.diff,
        only=args.only,
        memory=args.memory,
        progress=bytes_progress,
    )
    if args.html:
        from o1jax.inspect.checkpoint_page import write_page

        write_page(args.html, found)
    if args.json:
        print(json.dumps(to_json(found), allow_nan=False))
        return int(bool(found.problems))
    from rich.console import Console
    from rich.text import Text

    from o1jax.inspect.checkpoint_text import lines

    console = Console(highlight=False, soft_wrap=True)
    width = shutil.get_terminal_size((200, 24)).columns
    for line in lines(found, width=width, config=args.config):
        console.print(Text(line.text, line.style))
    if args.html:
        print(f"Page: {args.html}")
    return int(bool(found.problems))


def _profile(args: Namespace) -> None:
    loaded = _load(args)
    from o1jax.inspect.report import write_report
    from o1jax.loop.profile import profile

    folder = args.out or Path("profiles") / Path(args.file).stem
    policy = args.policy and _workdir(args.policy)
    profile(loaded, folder, steps=args.steps, warmup=args.warmup, policy=policy)
    report = write_report(folder)
    print(report.read_text())
    print(f"Report: {report}, traces for xprof: {folder / 'traces'}")


def _load(args: Namespace) -> Loaded:
    import o1jax.loop.experiment  # noqa: F401  registers every config class

    return load(args.file, args.set)


def _workdir(where: str | Path) -> Path:
    """The folder of a run's files, which a bucket has a mirror for."""
    from o1jax.loop.bucket import open_workdir

    path = open_workdir(where)
    if not (path / "config.gin").is_file():
        raise ConfigError(f"{where} is no workdir: it has no config.gin")
    return path


COMMANDS = {
    "run": Command(
        "train what an experiment file describes; resumes when run again",
        "o1jax run experiments/quickstart.gin --set Imitate.steps=200",
        arguments.run_arguments,
        run_command,
    ),
    "show": Command(
        "print every field of an experiment and where it was set",
        "o1jax show experiments/quickstart.gin",
        arguments.file_arguments,
        _show,
    ),
    "eval": Command(
        "measure a trained policy on held-out questions",
        "o1jax eval runs/quickstart --problems 200 --samples 16 --temperature 1\n"
        "  o1jax eval runs/quickstart --search best_of_n,beam --budget 4,16,64\n"
        "  o1jax eval runs/quickstart --search best_of_n,beam --guide likelihood,prm\n"
        "  o1jax eval runs/smollm --prm champ --problems 40",
        arguments.eval_arguments,
        _eval,
    ),
    "ask": Command(
        "answer one question and show the steps; without one, a conversation",
        'o1jax ask runs/quickstart "3 5 7 -> 22"\n'
        "  o1jax ask runs/smollm --temperature 0.7\n"
        '  o1jax ask runs/quickstart "3 5 7 -> 22" --search mcts --tree\n'
        '  o1jax ask runs/quickstart "3 5 7 -> 22" --search beam --guide prm',
        arguments.ask_arguments,
        _ask,
    ),
    "reproduce": Command(
        "redo a published claim and check its shape; resumes when run again",
        "o1jax reproduce A1 --seeds 3\n"
        "  o1jax reproduce --all --tier nano --seeds 1 --jobs 2",
        arguments.reproduce_arguments,
        _reproduce,
    ),
    "profile": Command(
        "time a few steps of every stage by kind of work, with traces for xprof",
        "o1jax profile experiments/quickstart.gin --policy runs/quickstart",
        arguments.profile_arguments,
        _profile,
    ),
    "inspect": Command(
        "show what a checkpoint holds and what is damaged; reads no array unless asked",
        "o1jax inspect runs/quickstart\n"
        "  o1jax inspect runs/quickstart --stats --html page.html\n"
        "  o1jax inspect RUN/000200 --diff RUN/000100 --only params",
        arguments.inspect_arguments,
        _inspect,
    ),
    "aot": Command(
        "check ahead of time that an experiment fits a TPU slice; needs no TPU",
        "o1jax aot experiments/pod/pretrain-7b-v5e-256.gin --topology v5e:16x16\n"
        "  o1jax aot FILE FILE --topology v5p:4x4x4 --json OUT.json --html OUT.html",
        aot_arguments,
        aot_command,
    ),
    "import": Command(
        "make a workdir of a published model: safetensors or GGUF",
        "o1jax import models/Qwen2.5-0.5B runs/qwen\n"
        "  o1jax import SmolLM2-135M-Instruct.Q4_1.gguf runs/smollm --dtype bfloat16",
        import_arguments,
        import_command,
    ),
    "prompt": Command(
        "ask an imported chat model for reasoning behaviours in its system prompt",
        "o1jax prompt runs/smollm runs/checks --behaviours evaluation,correction",
        prompt_arguments,
        prompt_command,
    ),
    "export": Command(
        "write the newest policy of a run as safetensors that transformers loads",
        "o1jax export runs/qwen exported/qwen",
        export_arguments,
        export_command,
    ),
}

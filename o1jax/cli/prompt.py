"""`o1jax prompt`: a chat model asked for behaviours, as a workdir of its own."""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def prompt_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "workdir", type=Path, metavar="WORKDIR", help="of an imported chat model"
    )
    parser.add_argument("target", type=Path, metavar="DIR", help="to make")
    parser.add_argument(
        "--behaviours",
        metavar="NAME,...",
        default="all",
        help="analysis, decomposition, completion, alternatives, evaluation, "
        "correction; or all (default)",
    )
    parser.add_argument(
        "--extra", default="", help="text of your own, before the last sentence"
    )


def prompt_command(args: Namespace) -> None:
    """Makes the workdir and shows its system prompt."""
    import o1jax.loop.experiment  # noqa: F401  registers every config class
    from o1jax.config import ConfigError
    from o1jax.loop.prompted import ASKS, SystemPrompt, prompt_model

    if not (args.workdir / "config.gin").is_file():
        raise ConfigError(f"{args.workdir} is no workdir: it has no config.gin")
    names = tuple(ASKS) if args.behaviours == "all" else args.behaviours.split(",")
    prompt = SystemPrompt(tuple(names), extra=args.extra)
    template = prompt_model(args.workdir, args.target, prompt)
    print(template.system)
    print(f'\nAsk it: o1jax ask {args.target} "What is 17 + 25?"')

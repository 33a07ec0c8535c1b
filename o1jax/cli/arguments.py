"""What each command takes: options, their help, and how their text is read."""

import argparse
import math
from argparse import ArgumentParser
from pathlib import Path

GUIDE = (
    "what judges states: likelihood, certainty, value, process or constant; verifier, "
    "where the task can check a state without knowing the answer; or the name of a "
    "stage that trained a reward model"
)


def file_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="experiment, a .gin file")
    parser.add_argument(
        "--set",
        metavar="Name.field=value",
        action="append",
        default=[],
        help="override one field; may be repeated, scopes as in scope/Name.field=value",
    )


def run_arguments(parser: ArgumentParser) -> None:
    file_arguments(parser)
    parser.add_argument(
        "--workdir",
        type=place,
        help="where to write: a folder, or gs://BUCKET/... (default: runs/ and FILE's "
        "name)",
    )


def profile_arguments(parser: ArgumentParser) -> None:
    file_arguments(parser)
    parser.add_argument(
        "--steps", type=_count, default=5, help="a stage, to look at (default: 5)"
    )
    parser.add_argument(
        "--warmup", type=_count, default=2, help="steps before those (default: 2)"
    )
    parser.add_argument(
        "--policy",
        metavar="WORKDIR",
        type=place,
        help="begin with the newest policy of a run: an untrained one writes answers "
        "of another length",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help="of the report and the traces (default: profiles/ and FILE's name)",
    )


def eval_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("workdir", metavar="WORKDIR", type=place, help="of a run")
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"))
    parser.add_argument("--problems", type=_count, help="how many questions")
    parser.add_argument("--samples", type=_count, help="responses a question")
    parser.add_argument("--temperature", type=_temperature, help="0 is greedy")
    parser.add_argument(
        "--search",
        metavar="METHOD,...",
        type=_names,
        help="compare methods of search at equal compute: best_of_n, beam, dvts, "
        "lookahead, mcts, retry, revision",
    )
    parser.add_argument(
        "--budget",
        metavar="N,...",
        type=_counts,
        help="compute of so many whole answers (default: 4,16,64)",
    )
    parser.add_argument(
        "--guide", metavar="GUIDE,...", type=_names, help=f"{GUIDE}; each in turn"
    )
    select_argument(parser)
    parser.add_argument(
        "--prm",
        choices=("champ",),
        help="judge the run's reward model (--guide, else the last one, else the "
        "policy's likelihood) on solutions whose first wrong step people marked",
    )


def ask_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("workdir", metavar="WORKDIR", type=place, help="of a run")
    parser.add_argument(
        "question",
        nargs="?",
        help='in the words of the task: "3 5 7 -> 22"; without one it is read from '
        "stdin, which may be a terminal: then it is a conversation",
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        help="0, the default without --search, is greedy",
    )
    parser.add_argument(
        "--search", metavar="METHOD", help="search for the answer: mcts, beam, ..."
    )
    parser.add_argument(
        "--budget", type=_count, help="compute of so many whole answers (default: 16)"
    )
    parser.add_argument("--tree", action="store_true", help="draw the whole tree")
    parser.add_argument(
        "--html", metavar="OUT", type=_file, help="write the tree as a page to explore"
    )
    parser.add_argument("--guide", help=GUIDE)
    select_argument(parser)


def select_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--select", help="among finished answers: max, weighted, majority or borda"
    )


def reproduce_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("claim", metavar="CLAIM", nargs="?", help="its name, e.g. A1")
    parser.add_argument("--list", action="store_true", help="show all claims")
    parser.add_argument(
        "--all",
        action="store_true",
        help="every claim that has the tier; ends with a page of all in --results",
    )
    parser.add_argument(
        "--jobs", type=_count, help="claims at a time, with --all (default: 1)"
    )
    parser.add_argument(
        "--page", action="store_true", help="only write that page, of what is there"
    )
    parser.add_argument("--seeds", type=_count, default=3, help="default: 3")
    parser.add_argument("--tier", default="nano", help="nano (default), small or base")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="default: results/"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/claims"),
        help="policies and predictions to reuse (default: runs/claims/)",
    )


def inspect_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a workdir, a stage's folder or a step, of o1jax or of any orbax writer; "
        "gs:// and s3:// too",
    )
    parser.add_argument(
        "--stats",
        action="store_true",
        help="read the arrays: norm, range, NaN, outliers, dead rows, spectra; and "
        "check the checksums of all files",
    )
    parser.add_argument(
        "--diff",
        metavar="OTHER",
        default="",
        help="what changed since another checkpoint, and how far each array moved",
    )
    parser.add_argument(
        "--only",
        metavar="REGEX",
        default="",
        help="of the arrays, measure and compare those with such a path",
    )
    parser.add_argument(
        "--memory",
        metavar="GIB",
        type=_gib,
        default=1.5,
        help="most that --stats and --diff may take (default: 1.5)",
    )
    parser.add_argument("--config", action="store_true", help="print the run's config")
    parser.add_argument(
        "--html", metavar="OUT", type=_file, help="write it all as one page"
    )
    parser.add_argument("--json", action="store_true", help="print it all as JSON")


def _gib(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GiB above 0")
    return value


def place(text: str) -> str | Path:
    """A workdir; Path would make gs:/ of gs://."""
    return text if "://" in text else Path(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of 1 or more")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(_count, text.split(",")))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _file(text: str) -> Path:
    """Where a file can be written: told before the work is done, not after."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: no file can be there")
    return path


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value

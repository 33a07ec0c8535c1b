"""Who may import whom, read from the source with `ast`; and every experiment loads.

The parts of the loop know each other only through records: nothing downstream calls
upstream, search and learn never meet, and each big library is behind one folder.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from o1jax.config import ConfigError, load

ROOT = Path(__file__).parent.parent

# Part of o1jax -> modules that may import it, besides the part itself.
IMPORTERS = {
    "tasks": ("data", "reward.outcome", "loop"),
    "data": ("loop",),
    "policy": (
        "models",
        "rollout",
        "reward",
        "search.steps",
        "search.problems",
        "learn",
        "loop",
    ),
    "models": ("loop",),
    "rollout": ("models.steps", "search", "loop"),
    "reward": ("search.steps", "loop"),
    "search": ("loop",),
    "learn": ("loop",),
    "loop": ("cli", "aot"),
    "aot": ("cli",),
    "inspect": ("cli",),
    "cli": ("__main__",),
}
FOR_EVERYONE = ("types", "arrays", "config", "parallel", "statistics", "selection")

# Library -> modules of o1jax that may import it.
LIBRARIES = {
    "flax.linen": ("policy",),
    "optax": ("learn",),
    "orbax": ("loop.checkpoint", "loop.checkpoint_read", "inspect"),
    "tensorflow_datasets": ("data.records",),
}
ONLY_INSIDE_FUNCTIONS = ("tensorflow_datasets",)  # seconds to import


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def imports(module: str, source: str) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether inside a function) of all that a module of o1jax imports.

    `from a import b` gives a.b, which is right whether or not b is a module.
    """
    tree = ast.parse(source)
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    late = {id(inner) for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = f"o1jax.{module}".split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, id(node) in late) for name in names)


def violations(module: str, source: str) -> list[str]:
    """What a module (its name without `o1jax.`) imports against the rules."""
    found = []
    for name, late in imports(module, source):
        if within(name, ("o1jax",)):
            part = f"{name}.".split(".")[1]
            own = part in ("", "__version__", module.split(".")[0])
            importers = IMPORTERS.get(part, ())
            if not (own or part in FOR_EVERYONE or within(module, importers)):
                found.append(f"{module} may not import {name}")
        for library, allowed in LIBRARIES.items():
            if within(name, (library,)) and not within(module, allowed):
                found.append(f"{module} may not import {name}")
        if within(name, ONLY_INSIDE_FUNCTIONS) and not late:
            found.append(f"{module} must import {name} inside a function")
    return found


def part_of(path: Path) -> str:
    """The name of a module without `o1jax.`, __init__ being a module of its package."""
    return ".".join(path.relative_to(ROOT / "o1jax").with_suffix("").parts)


def test_imports_go_one_way():
    sources = {part_of(path): path for path in (ROOT / "o1jax").rglob("*.py")}
    assert {"types", "cli.commands", "tasks.task", "config.build"} <= set(sources)
    assert [
        found
        for module, path in sorted(sources.items())
        for found in violations(module, path.read_text("utf-8"))
    ] == []


@pytest.mark.parametrize(
    "module, source, forbidden",
    [
        ("search.mcts", "from o1jax.learn import update", "o1jax.learn.update"),
        ("learn.losses", "import o1jax.search.tree", "o1jax.search.tree"),
        ("learn.losses", "from ..search import tree", "o1jax.search.tree"),
        ("search.mcts", "from o1jax.policy import x", "o1jax.policy.x"),
        ("search.mcts", "def f():\n    from o1jax import loop", "o1jax.loop"),
        ("policy.heads", "from o1jax.rollout import decode", "o1jax.rollout.decode"),
        ("reward.process", "from o1jax.tasks import task", "o1jax.tasks.task"),
        ("types", "from o1jax.tasks.task import Task", "o1jax.tasks.task.Task"),
        ("loop.imitate", "from o1jax.cli import main", "o1jax.cli.main"),
        ("learn.state", "from flax import linen as nn", "flax.linen"),
        ("learn.state", "from flax.linen import Dense", "flax.linen.Dense"),
        ("loop.imitate", "import optax", "optax"),
        ("loop.improve", "import orbax.checkpoint as ocp", "orbax.checkpoint"),
        ("data.batches", "import tensorflow_datasets", "tensorflow_datasets"),
    ],
)
def test_a_forbidden_import_is_found(module, source, forbidden):
    assert violations(module, source)[0] == f"{module} may not import {forbidden}"


@pytest.mark.parametrize(
    "module, source",
    [
        ("search.steps", "from o1jax.policy.policy import Policy"),
        ("search.mcts", "from . import tree"),
        ("search.mcts", "from o1jax import arrays, types"),
        ("reward.outcome", "from o1jax.tasks.task import Task"),
        ("policy.transformer", "from flax import linen as nn"),
        ("search.tree", "import flax.struct"),
        ("data.records", "def f():\n    import tensorflow_datasets as tfds"),
        ("__main__", "from o1jax.cli import main"),
        ("cli", "import o1jax"),
    ],
)
def test_an_allowed_import_passes(module, source):
    assert violations(module, source) == []


def test_a_slow_library_is_imported_late():
    assert violations("data.records", "import tensorflow_datasets as tfds") == [
        "data.records must import tensorflow_datasets inside a function"
    ]


def refused(folder: Path) -> list[str]:
    """Why experiment files of a folder do not load; files under base/ are includes."""
    files = sorted(folder.rglob("*.gin"))
    errors, included = [], set()
    for path in files:
        for name in re.findall(r"^include ['\"](.*)['\"]", path.read_text(), re.M):
            included.add((path.parent / name).resolve())
        if "base" in path.relative_to(folder).parts:
            continue
        import o1jax.loop.experiment  # noqa: F401  registers every config class

        try:
            load(path)
        except ConfigError as error:
            errors.append(str(error))
    bases = [path for path in files if "base" in path.relative_to(folder).parts]
    orphans = [path for path in bases if path.resolve() not in included]
    return errors + [f"{path}: no experiment includes it" for path in orphans]


def test_every_experiment_file_loads():
    assert refused(ROOT / "experiments") == []


def test_an_include_that_nothing_loads_is_found(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "lost.gin").write_text("Nothing.width = 3\n")
    (tmp_path / "base" / "used.gin").write_text("Nothing.width = 3\n")
    (tmp_path / "base" / "all.gin").write_text("include 'used.gin'\n")
    lost, all_ = tmp_path / "base" / "lost.gin", tmp_path / "base" / "all.gin"
    assert refused(tmp_path) == [
        f"{path}: no experiment includes it" for path in (all_, lost)
    ]

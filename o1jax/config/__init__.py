"""Experiment files: gin text in, one frozen dataclass out, checked before any compute.

`load` reads a file and its includes, applies overrides, builds the experiment and says
where each field came from. A mistake is a ConfigError of one line: file and line, the
culprit, the nearest known name. Nothing here imports jax.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from o1jax.config.build import Builder, Row
from o1jax.config.registry import ConfigError, configurable, known_class, nearest
from o1jax.config.source import Source

__all__ = [
    "ConfigError",
    "Loaded",
    "Row",
    "check_workdir",
    "configurable",
    "load",
    "nearest",
]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An experiment and where each of its fields came from."""

    experiment: Any
    table: tuple[Row, ...]
    imports: tuple[str, ...]  # modules the experiment file asked for
    transient: frozenset[str]  # names of fields that are not part of the identity
    # Those, and fields that say where a run is: they may differ when it is resumed.
    movable: frozenset[str] = frozenset()

    def rows(self) -> tuple[Row, ...]:
        """Every field of every config the experiment reaches, parents first."""
        return self.table

    def operative(self) -> str:
        """Gin text of every field, which loads back to an equal experiment."""
        lines = [f"import {module}\n" for module in self.imports]
        return "".join(lines + [f"{row.name} = {row.value}\n" for row in self.table])

    def fingerprint(self) -> str:
        """12 hex digits that change with any field that is part of the identity."""
        identity = [row[:2] for row in self.table if row.name not in self.transient]
        return hashlib.blake2b(repr(identity).encode(), digest_size=6).hexdigest()


def load(
    path: str | os.PathLike, overrides: Sequence[str] = (), root: str = "Experiment"
) -> Loaded:
    """Read an experiment file, apply `Name.field=value` overrides, build and check.

    Raises ConfigError, whose message is one line with the place and the culprit.
    """
    source = Source()
    source.read_file(os.fspath(path))
    for override in overrides:
        source.read_override(override)
    source.check_names()
    builder = Builder(source.bindings)
    experiment = builder.build(known_class(root, str(path)), (), str(path))
    builder.check_all_used()
    table = tuple(row for rows in builder.rows.values() for row in rows)
    imports = tuple(sorted(source.imports))
    transient, movable = map(frozenset, (builder.transient, builder.movable))
    return Loaded(experiment, table, imports, transient, movable)


def check_workdir(
    loaded: Loaded,
    workdir: str | os.PathLike,
    name: str | os.PathLike | None = None,
) -> None:
    """Write the operative config into workdir, or refuse one made by another config.

    Only fields that are part of the identity count, and of them not the mesh: a run
    goes on where there is room for it. The write is atomic. `name` is how an error
    calls the workdir.
    """
    file = Path(workdir) / "config.gin"
    if file.exists():
        lines = (line.partition(" = ") for line in file.read_text("utf-8").splitlines())
        old = {name: value for name, equals, value in lines if equals}
        new = {row.name: row.value for row in loaded.table}
        differences = [
            f"{name} was {old.get(name, 'absent')}, is {new.get(name, 'absent')}"
            for name in dict.fromkeys([*new, *old])
            if old.get(name) != new.get(name) and name not in loaded.movable
        ]
        if differences:
            more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
            raise ConfigError(
                f"{name or workdir} holds a run of another config "
                f"({'; '.join(differences[:4])}{more}): choose a fresh --workdir"
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".config.gin.{os.getpid()}")
    partial.write_text(loaded.operative(), "utf-8")
    partial.replace(file)

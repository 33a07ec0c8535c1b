"""Gin text to a table of bindings, each with the file and line that made it.

The grammar is gin-config's own parser. Includes are looked up beside the including
file, and gin's global state is not used. https://github.com/google/gin-config
"""

import dataclasses
import importlib
import importlib.util  # gin uses it without importing it
import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from o1jax.config.registry import REGISTRY, ConfigError, known_class, nearest

# A word or a path, which a shell's user does not want to quote twice.
_BARE_TEXT = re.compile(r"[^\W\d][\w.-]*|[\w.:-]*/[\w./:-]*")


class Key(NamedTuple):
    """What a binding is for."""

    scope: str
    name: str  # of a class; of a macro where field is ""
    field: str

    def __str__(self) -> str:
        scoped = f"{self.scope}/{self.name}" if self.scope else self.name
        return f"{scoped}.{self.field}" if self.field else scoped


class Reference(NamedTuple):
    """`@scope/Class()`, not yet built."""

    name: str
    evaluate: bool  # False where the file left out the parentheses


class Macro(NamedTuple):
    """`%name`, not yet replaced."""

    name: str

    @property
    def key(self) -> Key:
        """Where the macro's value is bound."""
        scope, _, name = self.name.rpartition("/")
        return Key(scope, name, "")


class Binding(NamedTuple):
    """What a file said, and where."""

    value: Any  # literals, containers, Reference, Macro
    origin: str  # file:line or "--set"


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, name: str, evaluate: bool) -> Reference:
        return Reference(name, evaluate)

    def macro(self, name: str) -> Macro:
        return Macro(name)


class Source:
    """Everything the files and overrides say; a later binding replaces an earlier."""

    def __init__(self) -> None:
        self.bindings: dict[Key, Binding] = {}
        self.imports: set[str] = set()
        self.open_files: list[str] = []

    def read_file(self, path: str, included_at: str = "") -> None:
        where = f"{included_at}: include '{path}': " if included_at else f"{path}: "
        if os.path.realpath(path) in self.open_files:
            raise ConfigError(f"{where}the file includes itself")
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as e:
            siblings = [file.name for file in Path(path).parent.glob("*.gin")]
            hint = "" if os.path.exists(path) else nearest(Path(path).name, siblings)
            reason = getattr(e, "strerror", None) or "not UTF-8 text"
            raise ConfigError(f"{where}{reason.lower()}{hint}") from None
        self.open_files.append(os.path.realpath(path))
        for statement in _statements(text, path):
            self.add(statement, f"{path}:{statement.location.line_num}", path)
        self.open_files.pop()

    def read_override(self, override: str) -> None:
        match = re.fullmatch(r"\s*([\w./]+)\s*=\s*(\S.*?)\s*", override)
        if not match:
            raise ConfigError(f"--set {override}: write --set Name.field=value")
        key, value = match.groups()
        if _BARE_TEXT.fullmatch(value) and value not in ("True", "False", "None"):
            value = repr(value)
        for statement in _statements(f"{key} = {value}", "--set"):
            self.add(statement, "--set", "")

    def add(self, statement: Any, origin: str, path: str) -> None:
        match statement:
            case config_parser.BindingStatement(scope, name, field, value):
                key = Key(scope, name, field)
                self.bindings.pop(key, None)
                self.bindings[key] = Binding(value, origin)
            case config_parser.IncludeStatement(filename):
                relative = os.path.join(os.path.dirname(path), filename)
                self.read_file(os.path.normpath(relative), origin)
            case config_parser.ImportStatement(module):
                try:
                    importlib.import_module(module)
                except ImportError as e:
                    raise ConfigError(f"{origin}: import {module}: {e}") from e
                self.imports.add(module)

    def check_names(self) -> None:
        """Every name must exist, also where nothing would use it."""
        for key, (value, origin) in self.bindings.items():
            if key.field:
                known = _field_names(known_class(key.name, origin))
                if key.field not in known:
                    hint = nearest(key.field, known) or f"; it has {', '.join(known)}"
                    raise ConfigError(
                        f"{origin}: {key.name} has no field '{key.field}'{hint}"
                    )
            elif key.name in REGISTRY:
                raise ConfigError(f"{origin}: {key} is a class: bind one of its fields")
            for leaf in _leaves(value):
                if isinstance(leaf, Reference):
                    known_class(leaf.name.rpartition("/")[2], origin)
                    if not leaf.evaluate:
                        raise ConfigError(f"{origin}: write @{leaf.name}() to build it")
                elif isinstance(leaf, Macro) and leaf.key not in self.bindings:
                    macros = [str(key) for key in self.bindings if not key.field]
                    hint = nearest(leaf.name, macros)
                    raise ConfigError(f"{origin}: unknown macro %{leaf.name}{hint}")


def _statements(text: str, path: str) -> Iterator[Any]:
    """The statements of gin text; ConfigError where it is malformed."""
    try:
        parser = config_parser.ConfigParser(text, _Delegate())
        while statement := parser.parse_statement():
            yield statement
    except (SyntaxError, tokenize.TokenError, StopIteration) as e:
        line = getattr(e, "lineno", None) or (e.args[1][0] if len(e.args) > 1 else 0)
        message = str(getattr(e, "msg", None) or (e.args or ["unexpected end"])[0])
        if bad := re.search(r"Failed to parse token '(.*)'", message):
            message = f"cannot read {bad[1]} (text needs quotes)"
        place = path if path == "--set" else f"{path}:{line}"
        message = " ".join(message.split())
        raise ConfigError(f"{place}: {message}") from None


def _field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Reference | Macro | str):
        yield value
    elif isinstance(value, dict):
        yield from _leaves([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)

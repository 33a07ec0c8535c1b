"""Bindings to nested dataclasses, from the root down.

Scopes, references and macros mean what they mean in gin: `@short/Imitate()` builds
Imitate and all it contains in scope `short`; the binding of the innermost scope wins; a
macro is evaluated in the scope of its own name. Every value is checked against the type
hints before the class sees it.
"""

import dataclasses
import re
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from o1jax.config.conform import WrongType, conform
from o1jax.config.registry import ConfigError, is_configurable, known_class
from o1jax.config.source import Binding, Key, Macro, Reference

Scope = tuple[str, ...]


class Row(NamedTuple):
    """One field after resolution."""

    name: str  # scope/Class.field
    value: str  # as gin text; a nested config is a reference such as @short/Adam()
    origin: str  # file:line, "--set" or "default"


class Builder:
    """Builds configs and notes the rows they make and the bindings they use."""

    def __init__(self, bindings: dict[Key, Binding]) -> None:
        self.rows: dict[str, list[Row]] = {}  # by scope/Class, parents first
        self.transient: set[str] = set()  # rows that are not part of the identity
        self.movable: set[str] = set()  # rows that may differ when a run is resumed
        self._bindings = bindings
        self._used: set[Key] = set()
        self._hidden_by: dict[Key, Key] = {}
        self._built: dict[str, Any] = {}
        self._name_of: dict[int, tuple[str, Any]] = {}  # by id, kept alive beside it
        self._open: list[Any] = []  # names and macros being built, to see a cycle

    def build(self, cls: type, scope: Scope, origin: str, base: Any = None) -> Any:
        """An instance as bound in `scope`; `origin` is the place that asked for it.

        `base` is a default with values of its own. Only bindings of exactly its scope
        (the name of the field that holds it) change it; a general binding cannot.
        """
        name = "/".join((*scope, cls.__name__))
        self._enter(name, origin)
        self.rows.setdefault(name, [])  # parents come before what they contain
        hints = typing.get_type_hints(cls)
        values, rows = {}, []
        for field in dataclasses.fields(cls):
            if not field.init:
                continue
            row_name = f"{name}.{field.name}"
            key = self._find(scope, cls, field.name, exact=base is not None)
            if key:
                binding = self._bindings[key]
                value = self._resolve(binding.value, scope, binding.origin)
                row_origin = self._origin(binding)
                place = f"{row_origin}: {key} = {gin_text(binding.value, repr)}"
            else:
                value = self._default(field, row_name, scope, origin, base)
                row_origin, place = "default", f"{origin}: default of {row_name}"
            try:
                values[field.name] = conform(value, hints[field.name])
                text = gin_text(values[field.name], self._reference)
            except WrongType as e:
                raise ConfigError(f"{place}: {e}") from None
            rows.append(Row(row_name, text, row_origin))
            identity = field.metadata.get("identity", True)
            if identity == "if set":  # a field that earlier configs did not have
                identity = values[field.name] is not None
            if not identity:
                self.transient.add(row_name)
            if not identity or field.metadata.get("movable"):
                self.movable.add(row_name)
        try:
            instance = cls(**values)
        except ValueError as e:
            raise ConfigError(_refusal(str(e), name, rows, origin)) from e
        if self._built.setdefault(name, instance) != instance:
            raise ConfigError(f"{origin}: two different configs are named {name}")
        self.rows[name] = rows
        self._name_of[id(instance)] = (name, instance)
        self._open.pop()
        return instance

    def check_all_used(self) -> None:
        """A binding without effect is a mistake; so is a --set that another hides."""
        unused = [key for key in self._bindings if key not in self._used]
        if not unused:
            return
        key = unused[0]
        same_class = [n for n in self.rows if n.rpartition("/")[2] == key.name]
        if not key.field:
            why = f"no binding says %{key}"
        elif key in self._hidden_by:
            why = f"{self._hidden_by[key]} hides it"
        else:
            why = f"the experiment builds {', '.join(same_class) or 'no ' + key.name}"
        more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
        raise ConfigError(
            f"{self._bindings[key].origin}: {key} is never used: {why}{more}"
        )

    def _enter(self, name: Any, origin: str) -> None:
        if name in self._open:
            raise ConfigError(f"{origin}: {name} contains itself")
        self._open.append(name)

    def _find(self, scope: Scope, cls: type, field: str, exact: bool) -> Key | None:
        """The key of the innermost scope that binds the field."""
        depths = [len(scope)] if exact else range(len(scope), -1, -1)
        keys = [Key("/".join(scope[:i]), cls.__name__, field) for i in depths]
        keys = [key for key in keys if key in self._bindings]
        for outer in keys[1:]:
            # In a file that is a fine default; an override must have an effect.
            if self._bindings[outer].origin == "--set":
                self._hidden_by[outer] = keys[0]
            else:
                self._used.add(outer)
        self._used.update(keys[:1])
        return keys[0] if keys else None

    def _resolve(self, value: Any, scope: Scope, origin: str) -> Any:
        """A bound value with its macros and references replaced."""
        match value:
            case Reference(name):
                *inner, cls = name.split("/")
                return self.build(
                    known_class(cls, origin), tuple(inner) or scope, origin
                )
            case Macro(name):
                self._enter(value.key, origin)
                self._used.add(value.key)
                inner, at = self._bindings[value.key]
                result = self._resolve(inner, tuple(name.split("/")), at)
                self._open.pop()
                return result
            case list() | tuple():
                return type(value)(self._resolve(v, scope, origin) for v in value)
            case dict():
                return {k: self._resolve(v, scope, origin) for k, v in value.items()}
        return value

    def _default(
        self, field: dataclasses.Field, name: str, scope: Scope, origin: str, base: Any
    ) -> Any:
        """What an unbound field holds."""
        if base is not None:
            value = getattr(base, field.name)
        elif is_configurable(field.default_factory):
            return self.build(field.default_factory, scope, origin)
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            value = field.default
        else:
            raise ConfigError(f"{origin}: {name} has no default: bind it")
        return self._adopt(value, scope, field.name, origin)

    def _adopt(self, value: Any, scope: Scope, label: str, origin: str) -> Any:
        """A default whose nested configs are scoped by the field that holds them."""
        if is_configurable(type(value)):
            return self.build(type(value), (*scope, label), origin, base=value)
        if isinstance(value, list | tuple):
            return type(value)(
                self._adopt(v, scope, f"{label}_{i}", origin)
                for i, v in enumerate(value)
            )
        return value

    def _origin(self, binding: Binding) -> str:
        """Where the value itself was written, behind any macro."""
        while isinstance(binding.value, Macro):
            binding = self._bindings[binding.value.key]
        return binding.origin

    def _reference(self, value: Any) -> str:
        if id(value) not in self._name_of:
            raise WrongType(f"a config file cannot hold {value!r}")
        return f"@{self._name_of[id(value)][0]}()"


def gin_text(value: Any, other: Callable[[Any], str]) -> str:
    """The value as gin would read it; `other` writes what gin has no literal for."""
    match value:
        case Reference(name, evaluate):
            return f"@{name}()" if evaluate else f"@{name}"
        case Macro(name):
            return f"%{name}"
        case list() | tuple():
            items = [gin_text(v, other) for v in value]
            return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
        case dict():
            items = [
                f"{gin_text(k, other)}: {gin_text(v, other)}" for k, v in value.items()
            ]
            return f"{{{', '.join(items)}}}"
        case float() if value in (float("inf"), -float("inf")):
            return "1e999" if value > 0 else "-1e999"  # gin has no word for it
        case None | bool() | int() | str() | float() if value == value:
            return repr(value)
    return other(value)


def _refusal(message: str, name: str, rows: list[Row], origin: str) -> str:
    """What __post_init__ refused, with the place that bound the field it names."""
    message = " ".join(message.split())
    by_field = {row.name.rpartition(".")[2]: row for row in rows}
    named = [w for w in re.findall(r"\w+", message) if w in by_field]
    if not named:
        return f"{origin}: {name}: {message}"
    field = min(named, key=lambda w: by_field[w].origin == "default")  # a bound one
    row = by_field[field]
    message = re.sub(rf"^({name.rpartition('/')[2]}\.)?{field}:? ", "", message)
    place = "" if row.origin == "default" else f"{row.origin}: "
    return f"{place}{row.name} = {row.value}: {message}"

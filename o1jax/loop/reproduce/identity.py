"""What names a method in the cache: the text of a config, the same in every process.

In: frozen dataclasses, tuples, functions of modules and plain values. Out: their repr,
but for fields that earlier versions did not have and that are not set: a new option
makes no prediction stale that was made without it (config.registry, "if set").
"""

import dataclasses
import hashlib
from types import FunctionType
from typing import Any


def identity(value: Any) -> str:
    """The text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [
            f"{field.name}={identity(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
            if field.repr and not _unset(value, field)
        ]
        return f"{type(value).__qualname__}({', '.join(parts)})"
    if type(value) is tuple:
        inside = ", ".join(map(identity, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def digest(value: Any) -> str:
    """Of that text, for the name of a file."""
    return hashlib.blake2b(identity(value).encode(), digest_size=6).hexdigest()


def _unset(value: Any, field: dataclasses.Field) -> bool:
    since = field.metadata.get("identity") == "if set"
    return since and getattr(value, field.name) is None

"""The config classes an experiment file may name, and the error that names a culprit.

`configurable` only notes the class: whoever constructs it in Python gets the defaults
of the dataclass, whatever config files were loaded before.
"""

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)

REGISTRY: dict[str, type] = {}


class ConfigError(ValueError):
    """What is wrong with an experiment, in one line that names the place."""

    def __init__(self, message: str) -> None:
        # A name quoted from the user's file may itself hold a line break.
        super().__init__(message.replace("\n", "\\n"))


def configurable(cls: Class) -> Class:
    """Let experiment files bind this frozen dataclass under its class name.

    The class itself is returned as it was. A field with `metadata={"identity": False}`
    (how often to log) may change between runs into the same workdir; with "if set"
    in place of False, only while it is None.
    """
    if "__dataclass_params__" not in vars(cls) or not cls.__dataclass_params__.frozen:
        raise TypeError(f"{cls.__name__}: @configurable goes above a frozen dataclass")
    known = REGISTRY.get(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(f"{known.__module__} has a config class {cls.__name__} already")
    REGISTRY[cls.__name__] = cls  # a reloaded module replaces its own class
    return cls


def is_configurable(cls: Any) -> bool:
    """Whether this very class is registered."""
    return isinstance(cls, type) and REGISTRY.get(cls.__name__) is cls


def known_class(name: str, origin: str) -> type:
    """The class of that name, or a ConfigError with the nearest one."""
    if name not in REGISTRY:
        raise ConfigError(f"{origin}: unknown class '{name}'{nearest(name, REGISTRY)}")
    return REGISTRY[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error message, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]}?" if match else ""

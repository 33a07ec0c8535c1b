"""Experiment files: gin text bound to frozen dataclasses.

`configurable` makes a frozen dataclass known by its class name; nothing else about the
class changes, so code that constructs it directly never sees a config file.
"""

import dataclasses
from typing import TypeVar

Class = TypeVar("Class", bound=type)

_REGISTRY: dict[str, type] = {}


class ConfigError(ValueError):
    """What is wrong with an experiment, in one line that names the place."""


def configurable(cls: Class) -> Class:
    """Let experiment files bind this frozen dataclass under its class name."""
    params = getattr(cls, "__dataclass_params__", None)
    if "__dataclass_params__" not in vars(cls) or not params.frozen:
        raise TypeError(
            f"{cls.__name__}: put @dataclass(frozen=True) below @configurable"
        )
    known = _REGISTRY.setdefault(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(
            f"{cls.__name__} is already a config class of {known.__module__}"
        )
    _REGISTRY[cls.__name__] = cls  # a reloaded module replaces its own class
    return cls


def is_configurable(value: object) -> bool:
    """Whether this is an instance of a registered config class."""
    return dataclasses.is_dataclass(value) and type(value) in _REGISTRY.values()

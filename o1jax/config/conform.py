"""Does a value fit the type hint of its field?

A bool is no int, an int is a fine float, and a list becomes the tuple that a frozen
dataclass wants. A Protocol (such as Task) is checked by the members it asks for.
"""

import collections.abc
import types
import typing
from typing import Any, Literal

from o1jax.config.registry import nearest


class WrongType(ValueError):
    """A value that does not fit; the message says what was expected."""


def conform(value: Any, hint: Any) -> Any:
    """The value as the hint wants it; WrongType if it does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _conform_union(value, hint, args)
    if origin is Literal:
        if any(value == arg and type(value) is type(arg) for arg in args):
            return value
        raise _wrong(value, hint, nearest(str(value), [str(arg) for arg in args]))
    if hint is float and type(value) is int:
        return float(value)
    if hint in (bool, int, float, str, types.NoneType):
        if type(value) is hint:
            return value
        raise _wrong(value, hint)
    if (origin or hint) in (tuple, collections.abc.Sequence):
        return _conform_tuple(value, hint, args)
    if getattr(hint, "_is_protocol", False):
        members = [name for name in dir(hint) if not name.startswith("_")]
        missing = [name for name in members if not hasattr(value, name)]
        if missing:
            raise _wrong(value, hint, f", which has no {missing[0]}")
        return value
    if isinstance(value, origin or hint):
        return value
    raise _wrong(value, hint)


def _conform_union(value: Any, hint: Any, args: tuple[Any, ...]) -> Any:
    """The first member that takes the value unchanged, else the first that takes it."""
    fits = []
    for arg in args:
        try:
            fits.append(conform(value, arg))
        except WrongType:
            continue
    if not fits:
        raise _wrong(value, hint)
    return next((fit for fit in fits if type(fit) is type(value)), fits[0])


def _conform_tuple(value: Any, hint: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(value, hint)
    if not args:
        return tuple(value)
    if typing.get_origin(hint) is tuple and args[-1] is not ...:
        if len(value) != len(args):
            raise WrongType(f"expected {len(args)} values, got {len(value)}")
        return tuple(conform(v, arg) for v, arg in zip(value, args))
    return tuple(conform(v, args[0]) for v in value)


def _wrong(value: Any, hint: Any, remark: str = "") -> WrongType:
    got = "None" if value is None else type(value).__name__
    return WrongType(f"expected {_describe(hint)}, got {got}{remark}")


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is types.NoneType:
        return "None"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args)
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    if (origin or hint) in (tuple, collections.abc.Sequence):
        inner = [_describe(arg) for arg in args if arg is not ...]
        return f"a list of {', '.join(inner)}" if inner else "a list"
    return getattr(hint, "__name__", str(hint))

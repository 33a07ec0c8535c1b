"""Compiled programs kept on disk, since libtpu takes minutes for a large one.

In: a key, made of everything that decides what comes out. Out: what the compiler said
of memory, and the text of the program, from which all else is read anew.
"""

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple


class Compiled(NamedTuple):
    """What is known of a compiled program."""

    memory: dict[str, int]  # bytes a device: arguments, output, temporary, alias, code
    seconds: float  # of compiling
    text: str  # optimised HLO; "" where libtpu could not print it
    error: str = ""  # why it did not compile
    from_cache: bool = False


def folder() -> Path:
    """O1JAX_AOT_CACHE, or a folder of the user's cache."""
    if given := os.environ.get("O1JAX_AOT_CACHE"):
        return Path(given)
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "o1jax" / "aot"


def key(*parts: Any) -> str:
    """A name for what these parts decide."""
    text = "\0".join(map(str, parts))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read(name: str) -> Compiled | None:
    """What was kept; None if nothing was, or not all of it."""
    file = folder() / f"{name}.json.gz"
    try:
        kept = json.loads(gzip.decompress(file.read_bytes()))
        return Compiled(**kept)._replace(from_cache=True)
    except (OSError, EOFError, ValueError, TypeError):
        return None


def write(name: str, compiled: Compiled) -> None:
    """Keeps it, whole or not at all."""
    file = folder() / f"{name}.json.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    content = compiled._replace(from_cache=False)._asdict()
    partial.write_bytes(gzip.compress(json.dumps(content).encode(), 3))
    partial.replace(file)

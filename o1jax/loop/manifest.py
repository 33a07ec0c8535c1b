"""Sizes and checksums of the files of a checkpoint step.

In: the directory of a step. Out: a list of its files inside it, written before the step
is committed, and later the name of a file that no longer agrees with the list. crc32
finds flipped bits and torn writes; it is no defence against a forger.
"""

import json
import os
import pathlib
import zlib

NAME = "files.json"  # {file: [bytes, crc32]}


def write(step: pathlib.Path) -> None:
    """List the files of the step's items, and get the list itself onto the disk.

    Files directly in `step` are orbax's own stamps, which it rewrites at the commit.
    """
    files = sorted(path for path in step.glob("*/**/*") if path.is_file())
    listed = {str(path.relative_to(step)): _sum(path) for path in files}
    with open(step / NAME, "w") as file:
        json.dump(listed, file, indent=0)
        file.flush()
        os.fsync(file.fileno())


def damage(step: pathlib.Path) -> str | None:
    """The first file that is not as listed, and how; "" if all are; None if no list."""
    if not (step / NAME).exists():
        return None
    try:
        listed = json.loads((step / NAME).read_bytes()).items()
    except (ValueError, AttributeError):
        return f"{NAME}: not a list of files"
    for name, (size, checksum) in listed:
        if not (step / name).exists():
            return f"{name}: missing"
        try:
            found_size, found = _sum(step / name)
        except OSError as error:  # a bad sector
            return f"{name}: {error.strerror}"
        if found_size != size:
            return f"{name}: {found_size} bytes instead of {size}"
        if found != checksum:
            return f"{name}: wrong checksum"
    return ""


def _sum(path: pathlib.Path) -> list[int]:
    """Size and crc32 of a file."""
    size, checksum = 0, 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]

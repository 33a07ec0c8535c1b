"""The records of a user's .jsonl file, one JSON object a line.

In: a file and what makes a record of a line's object. Out: the records. The first line
that is not one is named `file:line: reason`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Record = TypeVar("Record")


def read_lines(file: str | Path, make: Callable[[dict], Record]) -> list[Record]:
    """make(object) of each line that is not blank; ValueError names a bad line."""
    records = []
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    records.append(make(_object(json.loads(text))))
            except json.JSONDecodeError as error:
                reason = f"not JSON: {error.msg} at column {error.colno}"
                raise ValueError(f"{file}:{number}: {reason}") from error
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}:{number}: not UTF-8") from error
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file}:{number}: {error}") from error
    return records


def text_field(record: dict[str, Any], name: str) -> str:
    """The field as text that is not blank."""
    if name not in record:
        raise ValueError(f'no "{name}"; the fields are {sorted(record)}')
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'"{name}" is {value!r}, not a text')
    value.encode()  # refuses lone surrogates here
    return value


def _object(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"an object was expected, not {type(record).__name__}")
    return record

"""Files with one JSON value per line: logs, which a kill may truncate, and lists, which are written atomically.

A line of a log contains its checksum, ``crc32`` of the text before that key. Lines of earlier versions have none.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")
_CRC32 = ', "crc32": '


@dataclass(frozen=True)
class Lines(Generic[Row]):
    """``rows``: the valid rows, in order. ``damaged``: numbers (from 1) of invalid lines. ``torn``: the last line is
    invalid, as after a kill; it is not in ``damaged``."""

    rows: list[Row]
    damaged: list[int]
    torn: bool

    @property
    def whole(self) -> bool:
        """Whether every line is valid."""
        return not self.damaged and not self.torn


def read_lines(path: Path, parse: Callable[[Any], Row]) -> Lines[Row]:
    """The rows of a file. ``parse`` converts a JSON value to a row; its ValueError, KeyError or TypeError marks the line as
    damaged. Empty lines are skipped. Raises OSError, FileNotFoundError for a missing file."""
    rows, damaged = list[Row](), list[int]()
    lines = [(number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    for number, line in lines:
        try:
            text = line.decode("utf-8")
            rows.append(parse(read_line(text) if _CRC32 in text else json.loads(text)))
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged.append(number)
    torn = bool(damaged) and damaged[-1] == lines[-1][0]
    return Lines(rows, damaged[:-1] if torn else damaged, torn)


def checked_line(value: Mapping[str, Any]) -> str:
    """One line of JSON with newline; its last key ``crc32`` is the checksum of the text before it."""
    text = json.dumps(value, allow_nan=False)
    return f"{text[:-1]}{_CRC32}{zlib.crc32(text[:-1].encode())}}}\n"


def read_line(line: str) -> dict[str, Any]:
    """The object that `checked_line` wrote, without its checksum. Raises ValueError for anything else."""
    text, _, rest = line.rpartition(_CRC32)
    if zlib.crc32(text.encode()) != int(rest.removesuffix("}")):
        raise ValueError("checksum mismatch")
    return json.loads(text + "}")

"""Files of one JSON value a line: logs that a kill may cut short, and lists that are written whole.

A line of a log holds a checksum of itself, ``crc32`` of the text in front of that key. Lines of an earlier version have none.
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
    """``rows``: what reads, in order. ``damaged``: numbers (from 1) of lines that do not. ``torn``: the last line does not
    read, as a kill leaves it; it is not in ``damaged``."""

    rows: list[Row]
    damaged: list[int]
    torn: bool

    @property
    def whole(self) -> bool:
        """Whether every line reads."""
        return not self.damaged and not self.torn


def read_lines(path: Path, parse: Callable[[Any], Row]) -> Lines[Row]:
    """The rows of a file. ``parse`` makes a row of a JSON value; its ValueError, KeyError or TypeError says that the line is
    damaged. Empty lines are no rows. Raises OSError, FileNotFoundError for a file that is not there."""
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
    """One line of JSON, with its end, whose last key is ``crc32``, over the text before it."""
    text = json.dumps(value, allow_nan=False)
    return f"{text[:-1]}{_CRC32}{zlib.crc32(text[:-1].encode())}}}\n"


def read_line(line: str) -> dict[str, Any]:
    """The object that `checked_line` wrote, without its checksum. Raises ValueError for anything else."""
    text, _, rest = line.rpartition(_CRC32)
    if zlib.crc32(text.encode()) != int(rest.removesuffix("}")):
        raise ValueError("not what was written")
    return json.loads(text + "}")

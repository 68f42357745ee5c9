"""Files of one JSON value a line: logs that a kill may cut short, and lists that are written whole."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")


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
            rows.append(parse(json.loads(line.decode("utf-8"))))
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged.append(number)
    torn = bool(damaged) and damaged[-1] == lines[-1][0]
    return Lines(rows, damaged[:-1] if torn else damaged, torn)

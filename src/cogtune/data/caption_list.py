"""Captions of a data folder in one file, as in Hugging Face's video folders: `metadata.csv` or `metadata.jsonl` with the
columns `file_name` and `text`. Does not import torch."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple, TextIO

from cogtune.errors import UserError
from cogtune.runtime import git_lfs
from cogtune.runtime.failures import machine_error_message
from cogtune.runtime.paths import inside, quoted

NAME, TEXT = "file_name", "text"
LONGEST_CAPTION = 1 << 20  # bytes; T5 sees 226 tokens of it
_MAX_LISTED = 5
"""Invalid rows listed in an error message."""
_Row = tuple[int, dict[str, Any] | str]
"""(number of its first line, its fields, or why it cannot be read)."""


class ListedCaption(NamedTuple):
    """One row of a list. ``place``: file and line, for messages."""

    text: str
    place: str


def read_caption_list(path: Path) -> dict[str, ListedCaption]:
    """Name of a clip, relative to the list's folder with slashes -> its caption, in the order of the file.

    Other columns are ignored. Raises UserError with file and line: the file is not UTF-8, a column or a value is missing,
    a row does not match the header, a name leads out of the folder or occurs twice.
    """
    captions, problems = dict[str, ListedCaption](), list[str]()
    try:
        with _open(path) as file:
            for line, fields in READERS[path.name](file, path):
                place = f"{path}:{line}"
                problem = fields if isinstance(fields, str) else _problem(fields, path.parent)
                if problem is None and not isinstance(fields, str):
                    name = fields[NAME]
                    if name not in captions:
                        captions[name] = ListedCaption(fields[TEXT], place)
                        continue
                    problem = f"{quoted(name)} is in line {captions[name].place.rpartition(':')[2]} already"
                problems.append(f"{place}: {problem}")
    except UnicodeDecodeError:
        raise UserError(f"{path}:{_first_line_not_utf8(path)}: not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(machine_error_message(error, path) or f"{path}: cannot be read: {error.strerror}") from None
    if problems:
        more = len(problems) - _MAX_LISTED
        raise UserError("\n".join(problems[:_MAX_LISTED]) + (f"\n… and {more} more" if more > 0 else ""))
    return captions


def _open(path: Path) -> TextIO:
    # Without O_NONBLOCK, opening a FIFO without a writer would block the scan forever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = open(descriptor, encoding="utf-8-sig", newline="")  # noqa: SIM115
    if not S_ISREG(os.fstat(descriptor).st_mode) or git_lfs.is_pointer_file(path):
        file.close()
        regular = path.is_file()
        raise UserError(f"{path} {git_lfs.advice(path) if regular else 'is not a regular file'}")
    return file


def _csv_rows(file: TextIO, path: Path) -> Iterator[_Row]:
    reader = csv.reader(file, strict=True)
    line = 1
    try:
        header = next(reader, [])
        if header.count(NAME) != 1 or header.count(TEXT) != 1:
            names = ", ".join(map(quoted, header)) or "an empty line"
            raise UserError(
                f"{path}:1: expected a header with one column {NAME} and one column {TEXT}; found {names}. Rename the "
                f"columns, or rename the file if it does not hold captions"
            )
        line = reader.line_num + 1
        for fields in reader:
            if len(fields) == len(header):
                yield line, dict(zip(header, fields, strict=True))
            elif fields:
                fault = f"fields: {len(fields)}; in the header: {len(header)}. Put a text with commas in double quotes"
                yield line, fault
            line = reader.line_num + 1
    except csv.Error as error:
        yield line, f"invalid CSV: {error}"


def _json_rows(file: TextIO, _: Path) -> Iterator[_Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError) as error:
            yield number, f"invalid JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else "expected a JSON object"


READERS: dict[str, Callable[[TextIO, Path], Iterator[_Row]]] = {"metadata.csv": _csv_rows, "metadata.jsonl": _json_rows}
"""Name of a list -> its reader. A data folder may have one of them, in the folder itself."""
NAMES = " or ".join(READERS)
"""For messages."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key occurs twice")
    return row


def _problem(fields: dict[str, Any], folder: Path) -> str | None:
    """What is wrong with a row; None if it is valid."""
    for key in (NAME, TEXT):
        if key not in fields:
            return f"no {key}; expected the keys {NAME} and {TEXT}"
        value = fields[key]
        if not isinstance(value, str):
            return f"{key} is {quoted(value)}; expected a string"
        if "\0" in value or not _is_utf8(value):
            return f"{key} holds NUL characters or halves of surrogate pairs"
    try:
        inside(folder, fields[NAME], NAME)
    except UserError as error:
        return str(error)
    if len(fields[TEXT].encode()) > LONGEST_CAPTION:
        return f"{TEXT} has more than {LONGEST_CAPTION} bytes; is it a caption?"
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line_not_utf8(path: Path) -> int:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1

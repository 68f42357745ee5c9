"""Files of one JSON value a line: what a kill and what damage leaves of them."""

from pathlib import Path

import pytest

from cogtune.runtime.jsonl import read_lines

LINES = [b'{"n": 1}', b'{"n": 2}', b'{"n": 3}']


def number(value: dict[str, int]) -> int:
    return value["n"]


@pytest.mark.parametrize("wrong", [b'{"n": \xb3}', b"5", b"[", b"null", b'{"m": 3}', b"[" * 100_000])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_that_does_not_read_is_told_apart_from_a_torn_one(tmp_path: Path, wrong: bytes, place: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*LINES[:place], wrong, *LINES[place + 1 :]]) + b"\n")
    lines = read_lines(path, number)
    assert lines.rows == [n for n in (1, 2, 3) if n != place + 1]
    assert (lines.damaged, lines.torn) == (([], True) if place == 2 else ([place + 1], False))
    assert not lines.whole


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_whole_lines(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(LINES) + end)
    lines = read_lines(path, number)
    assert (lines.rows, lines.whole) == ([1, 2, 3], True)
    path.write_bytes(b"")
    assert read_lines(path, number).rows == []

"""What is read back: sealed JSON, and lines of JSON with a checksum."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cogtune.runtime.jsonl import checked_line, read_line
from cogtune.runtime.saved import DamagedError, read_sealed, write_sealed

KEYS = {"step": int, "name": str, "files": dict}
VALUE: dict[str, Any] = {"step": 6, "name": "ä", "files": {"a": "x"}, "rate": 0.1}


@pytest.mark.parametrize("wrong", ["[]", "null", "7", "{", "", '{"step": 6}', '{"step": "6", "name": "", "files": {}}'])
def test_another_shape_is_told_with_the_file(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(wrong)
    with pytest.raises(DamagedError, match=r"record\.json: .*; do this"):
        read_sealed(path, KEYS, "do this")


@pytest.mark.parametrize("key", VALUE)
@pytest.mark.parametrize("value", [None, 5, "other", [], {}, True])
def test_no_edited_value_passes(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "record.json"
    write_sealed(path, VALUE)
    assert read_sealed(path, KEYS, "do this") == VALUE
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(DamagedError, match=r"record\.json: .*; do this"):
        read_sealed(path, KEYS, "do this")


def test_what_was_written_without_a_checksum_is_read(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(VALUE))
    assert read_sealed(tmp_path / "record.json", KEYS, "") == VALUE


def flips(content: bytes) -> Iterator[bytes]:
    """Every copy of ``content`` with one bit flipped."""
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)


@pytest.mark.heavy
def test_no_flipped_bit_of_a_sealed_file_passes(tmp_path: Path) -> None:
    """The checksum's own name too: without it, a file would pass for one of an earlier version."""
    path = tmp_path / "record.json"
    write_sealed(path, VALUE)
    for content in flips(path.read_bytes()):
        path.write_bytes(content)
        with suppress(DamagedError):
            assert read_sealed(path, KEYS, "") == VALUE  # the case of an exponent or of an escape


def test_no_flipped_bit_of_a_line_passes() -> None:
    line = checked_line(VALUE)
    assert read_line(line.rstrip("\n")) == VALUE
    assert line.endswith("}\n")
    for content in flips(line.encode()[:-1]):
        with pytest.raises(ValueError):  # noqa: PT011  (of json, int or ours)
            read_line(content.decode(errors="replace"))

"""Runs: what one run tells its jobs stays as it was cut, whatever other runs do on the same store or results folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.work.runs import known_parts, read_part, write_run
from cogtune.work.volatile import Volatile

PART = Volatile({"args.train_data": ["/here"]})


def test_a_later_run_of_the_same_jobs_changes_nothing_for_an_earlier_one(tmp_path: Path) -> None:
    other = Volatile({"args.train_data": ["/there"]})
    first, second = (write_run(tmp_path, "tiny", {"aaa": part}) for part in (PART, other))
    assert (read_part(first, "aaa"), read_part(second, "aaa")) == (PART, other)
    assert write_run(tmp_path, "tiny", {"aaa": PART}) == first
    assert [part for _, part in known_parts(tmp_path)] in ([PART, other], [other, PART])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "invalid run file"),
        ("{", "invalid run file"),
        ("[]", "format None; expected 'cogtune-run-1'"),
        ("null", "format None"),
        ('{"format": "cogtune-run-9"}', "format 'cogtune-run-9'"),
        ('{"format": "cogtune-run-1", "parts": {}}', "does not match its name"),
    ],
)
def test_a_damaged_run_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = write_run(tmp_path, "tiny", {"aaa": PART})
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_part(path, "aaa")
    assert str(path) in str(caught.value)
    assert list(known_parts(tmp_path)) == []


def test_a_run_that_does_not_know_the_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown job bbb"):
        read_part(write_run(tmp_path, "tiny", {"aaa": PART}), "bbb")


def test_the_file_is_written_once(tmp_path: Path) -> None:
    path = write_run(tmp_path, "tiny", {"aaa": PART})
    inode = path.stat().st_ino
    write_run(tmp_path, "tiny", {"aaa": replace(PART)})
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "cogtune-run-1", "parts": {}}', "\ud800", "[" * 10_000])
def test_a_damaged_run_is_written_anew_by_the_next_one(tmp_path: Path, content: str) -> None:
    path = write_run(tmp_path, "tiny", {"aaa": PART})
    whole = path.read_bytes()
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert write_run(tmp_path, "tiny", {"aaa": PART}) == path
    assert path.read_bytes() == whole

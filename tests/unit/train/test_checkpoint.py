"""Which checkpoint is found: the newest one whose every byte is as recorded."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cogtune.runtime.saved import write_sealed
from cogtune.train.checkpoint import FORMAT, clear_unfinished, newest


def write_checkpoint(folder: Path, step: int) -> Path:
    """What `save` leaves, with other content."""
    path = folder / f"step-{step:08d}"
    (path / "state").mkdir(parents=True)
    (path / "state/optim.pt").write_bytes(bytes([step]) * 100)
    digest = hashlib.sha256(bytes([step]) * 100).hexdigest()
    record = {"format": FORMAT, "step": step, "ranks": 2, "files": {"state/optim.pt": digest}}
    (path / "record.json").write_text(json.dumps(record))
    return path


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": lambda path: flip_byte(path / "state/optim.pt"),
    "a truncated file": lambda path: (path / "state/optim.pt").write_bytes(b"\x02"),
    "a lost file": lambda path: (path / "state/optim.pt").unlink(),
    "a file that the record does not have": lambda path: (path / "state/more.pt").write_bytes(b"pickle"),
    "no record": lambda path: (path / "record.json").unlink(),
    "half a record": lambda path: (path / "record.json").write_text('{"format": '),
    "another format": lambda path: (path / "record.json").write_text('{"format": "cogtune-checkpoint-9"}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    write_checkpoint(tmp_path, 1)
    DAMAGES[damage](write_checkpoint(tmp_path, 2))
    found = newest(tmp_path)
    assert found is not None
    assert (found.step, found.ranks) == (1, 2)
    assert "step-00000002: this checkpoint is damaged" in caplog.text


ODD_VALUES = [5, None, [], {}, "odd", ["odd"], {"state/optim.pt": 5}, {"state/optim.pt": None}]


@pytest.mark.parametrize("text", ["", "[]", "null", "5", '"text"', "[[]]"])
def test_a_record_that_is_no_object_is_damage(tmp_path: Path, text: str) -> None:
    write_checkpoint(tmp_path, 1)
    (write_checkpoint(tmp_path, 2) / "record.json").write_text(text)
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 1


@pytest.mark.heavy
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("value", ODD_VALUES, ids=json.dumps)
@pytest.mark.parametrize("key", ["format", "step", "ranks", "files", "skipped"])
def test_a_record_with_an_odd_value_is_damage(tmp_path: Path, key: str, value: Any, sealed: bool) -> None:
    """Also in a record of a version that kept no checksum of it, unless the value may be the right one."""
    write_checkpoint(tmp_path, 1)
    path = write_checkpoint(tmp_path, 2) / "record.json"
    record = json.loads(path.read_text()) | {"skipped": []}
    if sealed:
        write_sealed(path, record)
        record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {key: value}))
    found = newest(tmp_path)
    assert found is not None
    possible = (key, value) == ("skipped", []) or (not sealed and (key, value) == ("ranks", 5))
    assert found.step == (2 if possible else 1)


def test_the_newest_whole_one_is_found(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "absent") is None
    for step in (5, 100, 20):
        write_checkpoint(tmp_path, step)
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 100


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".writing-00000007/state").mkdir(parents=True)
    write_checkpoint(tmp_path, 3)
    clear_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]

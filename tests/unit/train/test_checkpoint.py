"""Which checkpoint is found: the newest one whose every byte is as recorded."""

import hashlib
import json
from pathlib import Path

import pytest

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

"""Which checkpoint is found: the newest one whose every byte is as recorded."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cogtune.checkpoints.training import EARLIER, FORMAT, Ranges, Record, read_record
from cogtune.errors import UserError
from cogtune.model.weights.read import read
from cogtune.runtime.saved import write_sealed
from cogtune.train.checkpoint import clear_unfinished, newest, newest_step, remove_old, verify

ELEMENTS = {"rank-00000.safetensors": [0, 4], "rank-00001.safetensors": [4, 6]}


def write_checkpoint(folder: Path, step: int, /, **changes: Any) -> Path:
    """What two ranks leave of one parameter of six elements. ``changes``: of the record."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    whole = torch.arange(6.0) + step
    for name, (begin, end) in ELEMENTS.items():
        save_file({f"{state}/w": whole[begin:end].clone() for state in ("master", "exp_avg")}, path / name)
    record = Record(
        format=FORMAT, step=step, ranks=2, shapes={"w": [2, 3]}, states=["exp_avg"], scalars={"w": {"step": step}},
        files={name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in ELEMENTS},
        ranges={name: {"w": ends} for name, ends in ELEMENTS.items()}, whole={}, whole_keys={}, groups=[], counters={},
    )  # fmt: skip
    write_sealed(path / "record.json", asdict(record) | changes)
    return path


def write_earlier(folder: Path, step: int) -> Path:
    """What a version left that wrote DeepSpeed's files."""
    path = folder / f"step-{step:08d}"
    (path / "state").mkdir(parents=True)
    (path / "state/optim.pt").write_bytes(bytes([step]) * 100)
    digest = hashlib.sha256(bytes([step]) * 100).hexdigest()
    record = {"format": EARLIER[1], "step": step, "ranks": 2, "files": {"state/optim.pt": digest}, "skipped": []}
    write_sealed(path / "record.json", record)
    return path


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)


FILE = "rank-00001.safetensors"
DAMAGES = {
    "a flipped bit": lambda path: flip_byte(path / FILE),
    "a truncated file": lambda path: (path / FILE).write_bytes(b"\x02"),
    "a lost file": lambda path: (path / FILE).unlink(),
    "a file that the record does not have": lambda path: (path / "more.safetensors").write_bytes(b"more"),
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


ODD_VALUES = [5, None, [], {}, "odd", ["odd"], {FILE: 5}, {FILE: None}, {FILE: {"w": [0, 4]}}]


@pytest.mark.parametrize("text", ["", "[]", "null", "5", '"text"', "[[]]"])
def test_a_record_that_is_no_object_is_damage(tmp_path: Path, text: str) -> None:
    write_checkpoint(tmp_path, 1)
    (write_checkpoint(tmp_path, 2) / "record.json").write_text(text)
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("value", ODD_VALUES, ids=json.dumps)
@pytest.mark.parametrize("key", ["format", "step", "ranks", "files", "shapes", "ranges", "states", "skipped"])
def test_a_record_with_an_odd_value_is_damage(tmp_path: Path, key: str, value: Any) -> None:
    """Unless it may be the right one: a checkpoint need not have states of an optimizer, nor skipped steps."""
    write_checkpoint(tmp_path, 1)
    write_checkpoint(tmp_path, 2, **{key: value})
    found = newest(tmp_path)
    assert found is not None
    possible = [("skipped", []), ("states", []), ("states", ["odd"]), ("ranks", 5), ("shapes", {})]
    assert found.step == (2 if (key, value) in possible else 1)


@pytest.mark.parametrize(
    "ends", [[[0, 4], [5, 6]], [[0, 4], [3, 6]], [[0, 4], [4, 5]], [[1, 4], [4, 6]], [[0, 6], [0, 6]], [[0, 4], [4, 7]]]
)
def test_ranges_that_do_not_cover_a_parameter_once_are_damage(tmp_path: Path, ends: list[list[int]]) -> None:
    ranges = {name: {"w": pair} for name, pair in zip(ELEMENTS, ends, strict=True)}
    with pytest.raises(ValueError, match="does not cover w once"):
        verify(write_checkpoint(tmp_path, 1, ranges=ranges))


@pytest.mark.parametrize(("begin", "end"), [(0, 6), (0, 3), (2, 5), (4, 6), (5, 5)])
def test_any_range_is_read_from_all_files(tmp_path: Path, begin: int, end: int) -> None:
    path = write_checkpoint(tmp_path, 7)
    ranges = Ranges(path, read_record(path))
    places = ranges.elements("exp_avg", "w", begin, end)
    found = torch.cat([read(place) for place in places]) if places else torch.zeros(0)
    assert torch.equal(found, torch.arange(6.0)[begin:end] + 7)
    assert torch.equal(read(ranges.weights()["w"]), (torch.arange(6.0) + 7).view(2, 3))


def test_a_checkpoint_of_an_earlier_version_is_whole_and_refused(tmp_path: Path) -> None:
    path = write_earlier(tmp_path, 3)
    assert verify(path).step == 3
    with pytest.raises(UserError, match=r"step-00000003: written by an earlier version.*its 3 steps are then lost"):
        newest(tmp_path)
    flip_byte(path / "state/optim.pt")
    assert newest(tmp_path) is None


def test_the_newest_whole_one_is_found(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "absent") is None
    for step in (5, 100, 20):
        write_checkpoint(tmp_path, step)
    found = newest(tmp_path)
    assert found is not None
    assert found.step == 100


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".writing-00000007").mkdir(parents=True)
    write_checkpoint(tmp_path, 3)
    clear_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_damaged_checkpoint_does_not_displace_whole_ones(tmp_path: Path, keep: int) -> None:
    """A training that resumed before a damaged checkpoint writes steps below it."""
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, step)
    (tmp_path / "step-00000020").rename(tmp_path / "step-00000020-copy")
    write_checkpoint(tmp_path, 20)
    flip_byte(write_checkpoint(tmp_path, 40) / FILE)
    write_checkpoint(tmp_path, 35)
    remove_old(tmp_path, 35, keep)
    left = [f"step-000000{step}" for step in (10, 20, 30, 35)[-keep:]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*left, "step-00000020-copy"])
    found = newest(tmp_path)
    assert found is not None
    assert found.step == newest_step(tmp_path) == 35

"""Damage: every flipped bit of a shard is found or harmless, is told with the row that it hits, and can be taken out."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cogtune.data import store
from cogtune.data.shards import UNCHECKED
from cogtune.data.store import INDEX, ShardReader, ShardWriter, damaged_rows, remove_rows
from cogtune.errors import UserError
from cogtune.runtime import sums
from cogtune.runtime.saved import DamagedError

Rows = dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]]
ROWS: Rows = {
    "a": ({"moments": torch.arange(6).reshape(2, 3).bfloat16()}, {"name": "ä.mp4", "times": (0.125, 1e-9)}),
    "b": ({}, {"rejected": "too short"}),
    "c": ({"x": torch.tensor(3), "y": torch.zeros(0, 2), "z": torch.tensor([True])}, {}),
}
FOLDER = Path("latents") / "0123456789ab"


def write(folder: Path) -> Path:
    with ShardWriter(folder) as writer:
        for row, (tensors, meta) in ROWS.items():
            writer.add(row, tensors, meta)
    (path,) = folder.glob("*.safetensors")
    return path


def read(folder: Path) -> dict[str, Any]:
    """All rows in a form that compares."""
    reader = ShardReader(folder)
    return {
        row: (reader.meta(row), {name: (t.dtype, t.tolist()) for name, t in sorted(reader.tensors(row).items())})
        for row in sorted(reader.ids())
    }


def flip(path: Path, byte: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(bytes(data))


@pytest.mark.heavy
def test_every_byte_of_a_shard_is_guarded(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    path = write(folder)
    whole, right = path.read_bytes(), read(folder)
    source = random.Random(0)
    passed, told = 0, list[str]()
    for byte in range(len(whole)):
        path.write_bytes(whole)
        flip(path, byte, source.randrange(8))
        (folder / INDEX).unlink(missing_ok=True)
        try:
            assert read(folder) == right, byte
            passed += 1
        except DamagedError as error:
            told.append(str(error))
    assert all(str(path) in message for message in told)
    assert all(f"`cogtune store verify {folder.name} --repair --store {tmp_path}`" in message for message in told)
    assert passed < 0.05 * len(whole), "only what changes nothing (white space, the case of an escape) may pass"


@pytest.mark.parametrize("row", ["a", "c"])
def test_the_row_is_named_and_the_others_are_used(tmp_path: Path, row: str) -> None:
    folder = tmp_path / FOLDER
    path = write(folder)
    right = read(folder)
    first = next(iter(ROWS[row][0].values())).reshape(-1).view(torch.uint8).numpy().tobytes()
    flip(path, path.read_bytes().rindex(first), 6)
    reader = ShardReader(folder)
    with pytest.raises(DamagedError, match=f"{path.name}: the row {row} is damaged"):
        reader.tensors(row)
    for other in right.keys() - {row}:
        reader.tensors(other)
    assert damaged_rows(path)[0] == [row]
    remove_rows(path, [row])
    assert read(folder) == {name: value for name, value in right.items() if name != row}
    (rest,) = folder.glob("*.safetensors")
    assert rest != path, "an index of the old file must not be taken for one of the new"


def test_a_header_bit_is_damage_and_not_another_version(tmp_path: Path) -> None:
    path = write(tmp_path / FOLDER)
    whole = path.read_bytes()
    begin = whole.index(b"cogtune-shard-2")
    for byte in range(begin, begin + 15):
        for bit in range(8):
            path.write_bytes(whole)
            flip(path, byte, bit)
            with pytest.raises(DamagedError, match="damaged"):
                read(path.parent)


def old_shard(folder: Path) -> None:
    folder.mkdir(parents=True)
    meta = {"format": UNCHECKED, "meta": json.dumps({"a": {"n": 1}, "b": {"n": 2}})}
    save_file({"a/x": torch.ones(2), "b/x": torch.zeros(2)}, folder / "old.safetensors", meta)


def test_rows_without_checksums_are_used_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "_TOLD", set())
    folder = tmp_path / FOLDER
    old_shard(folder)
    for _ in range(2):
        assert read(folder)["a"] == ({"n": 1}, {"x": (torch.float32, [1.0, 1.0])})
    assert caplog.text.count("no checksums") == 1
    remove_rows(folder / "old.safetensors", ["a"])
    assert read(folder).keys() == {"b"}
    (new,) = folder.glob("*.safetensors")
    assert damaged_rows(new) == ([], "")


@pytest.mark.parametrize("change", ["rows", "shards", "cut", "text", "list", "null"])
def test_a_wrong_index_changes_nothing(tmp_path: Path, change: str) -> None:
    folder = tmp_path / FOLDER
    path = write(folder)
    right = read(folder)
    index = json.loads((folder / INDEX).read_text())
    wrong = {
        "rows": json.dumps(index | {"shards": {path.name: ["a", "z"]}}),
        "shards": json.dumps(index | {"shards": {path.name: 3}}),
        "cut": (folder / INDEX).read_text()[:-5],
        "text": "garbage",
        "list": "[]",
        "null": "null",
    }
    (folder / INDEX).write_text(wrong[change])
    assert read(folder) == right


@pytest.mark.heavy
def test_many_shards_are_each_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardWriter(tmp_path, flush_megabytes=0) as writer:
        for number in range(300):
            writer.add(f"{number:03d}", {"x": torch.zeros(1)}, {"number": number})
    reader, opened = ShardReader(tmp_path), []
    monkeypatch.setattr(store, "_OPEN_ROWS", 8)
    monkeypatch.setattr(store, "Shard", lambda path, real=store.Shard: opened.append(path) or real(path))
    wanted = sorted(reader.ids())
    assert dict(reader.metas(wanted)) == {name: {"number": int(name)} for name in wanted}
    assert len(opened) == 300
    assert len(reader._open) <= 8


def test_a_row_that_is_not_there_is_told_with_the_command(tmp_path: Path) -> None:
    write(tmp_path)
    reader = ShardReader(tmp_path, "`make it` makes it")
    for ask in (reader.tensors, reader.meta, lambda row: list(reader.metas(["a", row]))):
        with pytest.raises(UserError, match=r"no row z; `make it` makes it"):
            ask("z")

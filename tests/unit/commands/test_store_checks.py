"""A stage that is not in any list of the checks: its rows and its listed files are checked like those of the others."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogtune.commands.store_checks import folder_checks
from cogtune.data.store import ShardWriter, shard_paths
from cogtune.runtime.saved import SUMS
from cogtune.runtime.sums import write_sums


def damages(folder: Path) -> list[str]:
    return [damage.message for check in folder_checks(folder, True) for damage in check.run()]


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("stage", ["text", "grade"])
def test_rows_are_checked(stage: str, tmp_path: Path) -> None:
    folder = tmp_path / stage / "0123456789ab"
    with ShardWriter(folder) as writer:
        writer.add("a", {"x": torch.ones(3)})
    assert damages(folder) == []
    (shard,) = shard_paths(folder)
    flip_last_byte(shard)
    assert [str(shard) in message for message in damages(folder)] == [True]


@pytest.mark.parametrize(("stage", "name"), [("evaluate", "metrics.json"), ("grade", "grades.txt")])
def test_listed_files_are_checked(stage: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / stage / "0123456789ab"
    folder.mkdir(parents=True)
    (folder / name).write_text("12")
    write_sums(folder, [folder / name])
    flip_last_byte(folder / name)
    assert any(f"{folder / name}: " in message and SUMS in message for message in damages(folder))


def test_a_shard_of_another_version_is_reported_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "text" / "0123456789ab"
    folder.mkdir(parents=True)
    save_file({"a/x": torch.ones(3)}, folder / "shard-0.safetensors", {"format": "cogtune-shard-9"})
    found = [damage for check in folder_checks(folder, True) for damage in check.run()]
    assert any("format 'cogtune-shard-9'" in damage.message for damage in found)
    for damage in found:
        damage.take_out()
    assert (folder / "shard-0.safetensors").exists()


@pytest.mark.parametrize("damage", ["flip", "lost file", "no checksums", "another file"])
def test_a_damaged_snapshot_is_removed(tmp_path: Path, damage: str) -> None:
    train = tmp_path / "train" / "0123456789ab"
    for step in (5, 10):
        snapshot = train / f"snapshots/step-{step:08d}"
        snapshot.mkdir(parents=True)
        save_file({"x": torch.ones(3)}, snapshot / "model.safetensors")
        write_sums(snapshot, [snapshot / "model.safetensors"])
    snapshots = [damage for check in folder_checks(train, False) for damage in check.run()]
    assert snapshots == []
    if damage == "flip":
        flip_last_byte(snapshot / "model.safetensors")
    elif damage == "lost file":
        (snapshot / "model.safetensors").unlink()
    elif damage == "no checksums":
        (snapshot / SUMS).unlink()
    else:
        save_file({"x": torch.ones(3)}, snapshot / "ema.safetensors")
    (found,) = [damage for check in folder_checks(train, False) for damage in check.run()]
    assert f"{snapshot}: damaged" in found.message
    found.take_out()
    assert [path.name for path in (train / "snapshots").iterdir()] == ["step-00000005"]

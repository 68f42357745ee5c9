"""Clips of `args.valid_data` by set, from the paths in the manifest."""

from pathlib import Path

import pytest

from cogtune.data.listing import ClipRow
from cogtune.data.rows import Pair
from cogtune.stages.validation_sets import validation_sets


def row(path: str, split: str = "valid") -> ClipRow:
    name = Path(path).name
    return ClipRow(f"id-{name}", path, name, split, "a caption", f"text-{name}", 9, 8.0, 64, 48)


def pair(name: str) -> Pair:
    return Pair(f"id-{name}", f"text-{name}")


def test_each_clip_is_in_the_first_set_that_holds_its_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "far/deep").mkdir(parents=True)
    link.symlink_to(real)
    rows = [
        row(f"{real}/near/a.mp4"),
        row(f"{real}/far/deep/b.mp4"),
        row(f"{real}/far/c.mp4"),
        row(f"{real}/farther/d.mp4"),
        row(f"{real}/near/e.mp4", "train"),
    ]
    valid_data = {"deep": [f"{link}/far/deep"], "far": [f"{link}/far", f"{real}/near"], "none": [f"{real}/none"]}
    sets = validation_sets(rows, valid_data)
    assert sets == {"deep": [pair("b.mp4")], "far": [pair("a.mp4"), pair("c.mp4")], "validation": [pair("d.mp4")]}
    assert "no usable clip in validation set none" in caplog.text


def test_folders_of_a_list_are_sets(tmp_path: Path) -> None:
    rows = [row(f"{tmp_path}/near/a.mp4"), row(f"{tmp_path}/far/b.mp4")]
    sets = validation_sets(rows, [f"{tmp_path}/far", f"{tmp_path}/near"])
    assert list(sets.items()) == [("far", [pair("b.mp4")]), ("near", [pair("a.mp4")])]
    assert validation_sets(rows[:0], None) == {}

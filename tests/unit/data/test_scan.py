"""Captions, memo, duplicates, rejects."""

import os
import random
from pathlib import Path

import pytest

from cogtune.data import scan as module
from cogtune.data.scan import CaptionError, Memo, ScanResult, read_caption, scan
from cogtune.runtime.digest import file_digest
from tests.unit.data.footage import copy, damaged


def put(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        ("a cat", "a cat"),
        ("  a cat \n", "a cat"),
        ("a cat\r\nsits\n\n on\ta mat", "a cat sits on a mat"),
        ("\ufeffa cat", "a cat"),
        ("дом 🏠", "дом 🏠"),
    ],
)
def test_captions(tmp_path: Path, content: str, caption: str) -> None:
    assert read_caption(put(tmp_path / "a.txt", content)) == caption


@pytest.mark.parametrize(("content", "says"), [(None, "does not exist"), ("", "is empty"), (" \n", "is empty")])
def test_a_missing_caption(tmp_path: Path, content: str | None, says: str) -> None:
    label = tmp_path / "a.txt"
    if content is not None:
        put(label, content)
    with pytest.raises(CaptionError, match=says):
        read_caption(label)
    assert read_caption(label, allow_missing=True) == ""


def test_a_caption_that_git_lfs_did_not_fetch_is_not_trained_on(tmp_path: Path) -> None:
    label = put(tmp_path / "a.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(CaptionError, match=r"a\.txt is a Git LFS pointer, .*run `git lfs pull`"):
        read_caption(label)
    put(label, "version https://git-lfs is what a person writes on a white board" + 99 * " with a pen, slowly")
    assert read_caption(label).startswith("version https")


def test_a_caption_that_is_not_utf8(tmp_path: Path) -> None:
    label = put(tmp_path / "a.txt", b"caf\xe9")
    for allow in (False, True):
        with pytest.raises(CaptionError, match="not UTF-8"):
            read_caption(label, allow)


@pytest.fixture
def data(footage: Path, tmp_path: Path) -> Path:
    """Two good clips, and one of each kind that is not."""
    root = tmp_path / "data"
    copy(footage / "plain.mp4", root / "videos/a.mp4")
    copy(footage / "fast.mp4", root / "videos/b.mp4")
    copy(footage / "plain.mp4", root / "videos/copy.mp4")
    copy(footage / "plain.mp4", root / "videos/mute.mp4")
    for kind in ("half", "empty", "text", "noise"):
        damaged(footage / "fast.mp4", root / f"videos/{kind}.mp4", kind)
        put(root / f"labels/{kind}.txt", kind)
    for name in ("a", "b", "copy"):
        put(root / f"labels/{name}.txt", f"caption of {name}")
    put(root / "videos/pointer.mp4", f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    put(root / "labels/pointer.txt", "pointer")
    (root / "videos/link.mp4").symlink_to(footage / "plain.mp4")
    return root


def test_rejects_have_reasons_and_do_not_stop_the_scan(data: Path, tmp_path: Path) -> None:
    found = scan({"train": [data]}, Memo(tmp_path / "memo"), workers=2)
    assert [(row.name, row.caption) for row in found.rows] == [
        ("videos/a.mp4", "caption of a"),
        ("videos/b.mp4", "caption of b"),
    ]
    row = found.rows[0]
    assert (row.frames, row.fps, row.width, row.height, row.split) == (24, 8.0, 48, 32, "train")
    assert row.clip == file_digest(data / "videos/a.mp4")
    reasons = {reject.name.removeprefix("videos/"): reject.reason for reject in found.rejects}
    assert reasons.keys() == {
        f"{name}.mp4" for name in ("copy", "mute", "half", "empty", "text", "noise", "link", "pointer")
    }
    assert "same content as videos/a.mp4" in reasons["copy.mp4"]
    assert "no caption" in reasons["mute.mp4"]
    assert "cut short" in reasons["half.mp4"]
    assert "no caption" in reasons["link.mp4"]
    assert "a Git LFS pointer, not the file itself; run `git lfs pull` in " in reasons["pointer.mp4"]


def test_a_missing_caption_may_be_allowed(data: Path, tmp_path: Path) -> None:
    (data / "videos/copy.mp4").unlink()
    (data / "videos/a.mp4").unlink()
    found = scan({"train": [data]}, Memo(tmp_path / "memo"), allow_missing_caption=True)
    assert {row.name: row.caption for row in found.rows} == {"videos/b.mp4": "caption of b", "videos/mute.mp4": ""}


def test_both_splits_may_hold_a_clip(data: Path, tmp_path: Path) -> None:
    found = scan({"train": [data], "valid": [data]}, Memo(tmp_path / "memo"))
    assert sorted((row.split, row.name) for row in found.rows) == [
        (split, f"videos/{name}.mp4") for split in ("train", "valid") for name in "ab"
    ]


def known_after(memo: Path, data: Path) -> ScanResult:
    return scan({"train": [data]}, Memo(memo))


@pytest.mark.heavy
def test_a_flipped_bit_in_the_memo_costs_one_read_and_changes_nothing(data: Path, tmp_path: Path) -> None:
    memo = tmp_path / "memo.jsonl"
    right = known_after(memo, data).rows
    whole = memo.read_bytes()
    line = whole.index(b"\n")
    chance = random.Random(3)
    clip, rate = whole.index(b'"clip": "') + 9, whole.index(b'"fps": ') + 7
    for place in [clip, rate, line, *chance.sample(range(line), 9)]:
        for bit in (0, 1) if place in (clip, rate) else (chance.randrange(8),):
            memo.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            found = known_after(memo, data)
            assert (found.rows, found.probed) == (right, 2 if place == line else 1)


@pytest.mark.heavy
def test_the_memo_spares_what_did_not_change(data: Path, tmp_path: Path) -> None:
    memo = tmp_path / "store/scan/memo.jsonl"
    assert known_after(memo, data).probed == 3
    assert known_after(memo, data).probed == 0
    os.utime(data / "videos/a.mp4", (1, 1))
    touched = known_after(memo, data)
    assert touched.probed == 1
    assert touched.rows[0].clip == file_digest(data / "videos/a.mp4")
    memo.write_text(memo.read_text()[:-20] + "\n{}\nnull\n")  # a torn line costs one file
    assert known_after(memo, data).probed == 1


def test_a_file_that_changes_meanwhile_is_not_believed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_hash(path: Path) -> str:
        os.utime(path, (2, 2))
        return "f" * 64

    monkeypatch.setattr(module, "file_digest", slow_hash)
    found = scan({"train": [data]}, Memo(tmp_path / "memo"))
    assert not found.rows
    assert not (tmp_path / "memo").exists()
    assert "changed while" in next(reject.reason for reject in found.rejects if reject.name == "videos/a.mp4")

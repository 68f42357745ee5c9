"""Listing, captions' places, links, fingerprints, manifests."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cogtune.config.digest import digest
from cogtune.data.listing import (
    ClipRow,
    fingerprint,
    label_of,
    list_videos,
    read_columns,
    read_manifest,
    write_manifest,
)
from cogtune.errors import UserError

ROW = ClipRow(
    "c" * 64, "/data/videos/a.mp4", "videos/a.mp4", "train", "zwölf \u2028 Boote", "d" * 64, 49, 29.97, 720, 480
)


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("root", "video", "label"),
    [
        ("/d", "videos/a.mp4", "/d/labels/a.txt"),
        ("/d", "videos/sub/a.mp4", "/d/labels/sub/a.txt"),
        ("/d", "a.mp4", "/d/a.txt"),
        ("/d", "my_videos/a.mp4", "/d/my_videos/a.txt"),
        ("/d", "videos/x/videos/a.mp4", "/d/videos/x/labels/a.txt"),
        ("/d", "videos/videos.mp4", "/d/labels/videos.txt"),
        ("/videos/d", "videos/a.mp4.mp4", "/videos/d/labels/a.mp4.txt"),
        ("/d/videos", "a.MP4", "/d/labels/a.txt"),
        ("/d/videos", "sub/a.mp4", "/d/labels/sub/a.txt"),
        ("/d/videos", "videos/a.mp4", "/d/videos/labels/a.txt"),
    ],
)
def test_label_of(root: str, video: str, label: str) -> None:
    assert label_of(Path(root, video), Path(root)) == Path(label)


def test_lists_in_order_and_skips_the_rest(tmp_path: Path) -> None:
    for name in ("videos/b.mp4", "videos/a.MOV", "videos/._a.mp4", "videos/.cache/c.mp4", "labels/a.txt", "z/c.webm"):
        put(tmp_path / name)
    assert [video.name for video in list_videos(tmp_path)] == ["videos/a.MOV", "videos/b.mp4", "z/c.webm"]


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "data"
    for name in ("secret.mp4", "secret.txt", "more/c.mp4"):
        put(outside / name)
    put(root / "videos/own.mp4")
    put(root / "videos/captioned.mp4")
    (root / "videos/out.mp4").symlink_to(outside / "secret.mp4")
    (root / "videos/in.mp4").symlink_to("own.mp4")
    (root / "videos/more").symlink_to(outside / "more")
    (root / "labels").mkdir()
    (root / "labels/captioned.txt").symlink_to(outside / "secret.txt")
    refused = {video.name: video.refused for video in list_videos(root)}
    assert refused.pop("videos/own.mp4") is None
    assert refused.pop("videos/in.mp4") is None
    assert set(refused) == {"videos/more/", "videos/out.mp4", "videos/captioned.mp4"}
    assert all("symbolic link" in str(reason) for reason in refused.values())


def test_a_linked_labels_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "outside/a.txt")
    put(tmp_path / "data/videos/a.mp4")
    (tmp_path / "data/labels").symlink_to(tmp_path / "outside")
    refused = {video.name: str(video.refused) for video in list_videos(tmp_path / "data")}
    assert set(refused) == {"labels/", "videos/a.mp4"}
    assert "caption" in refused["videos/a.mp4"]


def test_a_root_behind_a_link_is_the_users_own_choice(tmp_path: Path) -> None:
    put(tmp_path / "big/videos/a.mp4")
    (tmp_path / "data").symlink_to(tmp_path / "big")
    (video,) = list_videos(tmp_path / "data")
    assert video.refused is None


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "videos")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/videos/\xff.mp4")).write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (video,) = list_videos(tmp_path)
    assert video.name == "videos/\\udcff.mp4"
    assert "UTF-8" in str(video.refused)
    assert len(fingerprint({"train": [tmp_path]})) == 64


def test_fingerprint_sees_what_a_scan_could_see(tmp_path: Path) -> None:
    video, label = put(tmp_path / "a/videos/1.mp4"), put(tmp_path / "a/labels/1.txt")
    put(tmp_path / "b/videos/2.mp4")
    roots = {"train": [tmp_path / "a"], "valid": [tmp_path / "b"]}
    seen = [fingerprint(roots)]
    assert fingerprint(roots) == seen[0]

    def differs() -> None:
        seen.append(fingerprint(roots))
        assert seen.count(seen[-1]) == 1

    os.utime(video, ns=(1, 1))
    differs()
    label.write_text("longer")
    differs()
    label.unlink()
    differs()
    put(tmp_path / "a/videos/3.mp4")
    differs()
    roots["train"], roots["valid"] = [*roots["train"], *roots["valid"]], []
    differs()


def test_fingerprint_is_the_digest_of_what_it_says(tmp_path: Path) -> None:
    for name in ("videos/1.mp4", "labels/1.txt", 'videos/zwölf "Boote".mp4', "videos/sub/3.mkv", "labels/sub/3.txt"):
        put(tmp_path / "a" / name, name)
    (tmp_path / "a/videos/out.mp4").symlink_to("/etc/hostname")
    (tmp_path / "a/labels/link.txt").symlink_to("1.txt")
    put(tmp_path / "a/videos/link.mp4")
    (tmp_path / "b").mkdir()

    def stamp(path: Path | None) -> list[int] | None:
        return [path.stat().st_size, path.stat().st_mtime_ns] if path is not None and path.exists() else None

    roots = {"valid": [tmp_path / "b", tmp_path / "a"], "train": [tmp_path / "a"]}
    state = [
        [split, str(root), [[v.name, v.refused, stamp(v.path), stamp(v.label)] for v in list_videos(root)]]
        for split, folders in sorted(roots.items())
        for root in folders
    ]
    assert fingerprint(roots) == digest(state)


def test_fingerprint_ignores_other_files(tmp_path: Path) -> None:
    put(tmp_path / "videos/1.mp4")
    before = fingerprint({"train": [tmp_path]})
    put(tmp_path / "notes.txt")
    assert fingerprint({"train": [tmp_path]}) == before


def test_manifest_round_trip_is_sorted(tmp_path: Path) -> None:
    rows = [replace(ROW, split="valid"), replace(ROW, clip="b" * 64), ROW]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    assert read_manifest(tmp_path / "manifest.jsonl") == [rows[1], rows[2], rows[0]]


def test_columns_are_those_of_the_rows(tmp_path: Path) -> None:
    tricky = replace(
        ROW, path='/d/"split": "train"/a.mp4', caption='says "caption_id": "x" and {"clip": "y"}', split="valid"
    )
    write_manifest(tmp_path / "manifest.jsonl", [ROW, tricky, replace(ROW, clip="b" * 64)])
    rows = read_manifest(tmp_path / "manifest.jsonl")
    found = read_columns(tmp_path / "manifest.jsonl")
    assert found == ([row.clip for row in rows], [row.caption_id for row in rows], [row.split for row in rows])


@pytest.mark.parametrize(
    ("content", "says"), [(None, "run the scan stage"), ("{}\n", "not a manifest"), ("nonsense", "scan again")]
)
def test_bad_manifest(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "manifest.jsonl").write_text(content)
    for read in (read_manifest, read_columns):
        with pytest.raises(UserError, match=says):
            read(tmp_path / "manifest.jsonl")

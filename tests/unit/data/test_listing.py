"""Listing, captions' places, links, fingerprints, manifests."""

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cogtune.data.listing import (
    ClipRow,
    Listed,
    fingerprint,
    list_videos,
    read_columns,
    read_manifest,
    write_manifest,
)
from cogtune.data.walk import label_of
from cogtune.errors import UserError
from cogtune.runtime.digest import digest

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


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A data folder with links of every kind: to a clip, to a caption, to folders, into nothing, in circles."""
    outside, root = tmp_path / "outside", tmp_path / "data"
    for name in ("blob", "more/c.mp4", "more/c.txt", "text"):
        put(outside / name)
    put(root / "videos/own.mp4")
    put(root / "videos/captioned.mp4")
    for name, target in {
        "videos/out.mp4": outside / "blob",
        "videos/in.mp4": "own.mp4",
        "videos/more": outside / "more",
        "videos/up": "..",
        "videos/gone.mp4": "nowhere",
        "videos/loop.mp4": "loop.mp4",
        "labels/captioned.txt": outside / "text",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(target)
    return root


def test_links_are_followed(linked: Path) -> None:
    found = {video.name: video for video in list_videos(linked)}
    outside = linked.parent / "outside"
    assert {name: video.target for name, video in found.items() if video.refused is None} == {
        "videos/own.mp4": "",
        "videos/captioned.mp4": "",
        "videos/out.mp4": str(outside / "blob"),
        "videos/in.mp4": str(linked / "videos/own.mp4"),
        "videos/more/c.mp4": str(outside / "more/c.mp4"),
    }
    assert found["videos/more/c.mp4"].label == linked / "labels/more/c.txt"
    assert {name: str(video.refused).partition(":")[0] for name, video in found.items() if video.refused} == {
        "videos/gone.mp4": "a symbolic link that cannot be followed",
        "videos/loop.mp4": "a symbolic link that cannot be followed",
        "videos/up/": "a symbolic link that leads in a circle",
    }


def test_links_are_refused_where_the_config_says_so(linked: Path) -> None:
    refused = {video.name: video.refused for video in list_videos(linked, follow_links=False)}
    assert refused.pop("videos/own.mp4") is None
    names = ("more/", "up/", "out.mp4", "in.mp4", "gone.mp4", "loop.mp4", "captioned.mp4")
    assert set(refused) == {f"videos/{name}" for name in names}
    assert all(
        "symbolic link" in str(reason) and "data.params.follow_links" in str(reason) for reason in refused.values()
    )


def test_a_linked_labels_folder(tmp_path: Path) -> None:
    put(tmp_path / "outside/a.txt")
    put(tmp_path / "data/videos/a.mp4")
    (tmp_path / "data/labels").symlink_to(tmp_path / "outside")
    (video,) = list_videos(tmp_path / "data")
    assert (video.refused, video.label) == (None, tmp_path / "data/labels/a.txt")
    refused = {video.name: str(video.refused) for video in list_videos(tmp_path / "data", follow_links=False)}
    assert set(refused) == {"labels/", "videos/a.mp4"}
    assert "caption" in refused["videos/a.mp4"]


def test_links_between_folders_end(tmp_path: Path) -> None:
    """Each of 12 folders links to all others: without a memory these are 12! ways."""
    names = [f"d{number:02d}" for number in range(12)]
    for name in names:
        put(tmp_path / "big" / name / "a.mp4")
        for other in names:
            (tmp_path / "big" / name / f"to-{other}").symlink_to(tmp_path / "big" / other)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/videos").symlink_to(tmp_path / "big")
    used = [video for video in list_videos(tmp_path / "data") if video.refused is None]
    assert sorted({video.target for video in used}) == [str(tmp_path / "big" / name / "a.mp4") for name in names]
    assert len(used) == len(names)


@pytest.mark.parametrize("made", ["fifo", "socket", "folder", "linked fifo"])
@pytest.mark.parametrize("what", ["videos/a.mp4", "labels/a.txt"])
def test_only_regular_files_are_used(tmp_path: Path, what: str, made: str) -> None:
    for name in {"videos/a.mp4", "labels/a.txt"} - {what}:
        put(tmp_path / name)
    path = tmp_path / what
    path.parent.mkdir(exist_ok=True)
    if made == "socket":
        os.mknod(path, 0o600 | stat.S_IFSOCK)
    elif made == "folder":
        put(path / "inner.txt")
    else:
        os.mkfifo(path if made == "fifo" else tmp_path / ".fifo")
    if made == "linked fifo":
        path.symlink_to(tmp_path / ".fifo")
    found = [video for video in list_videos(tmp_path) if video.name == "videos/a.mp4"]
    assert [bool(video.refused) for video in found] == ([] if made == "folder" and what == "videos/a.mp4" else [True])
    assert all(made.rpartition(" ")[2] in str(video.refused).lower() for video in found)


def test_other_files_are_counted_by_kind(tmp_path: Path) -> None:
    names = ("a.gif", "b.GIF", "c.ts", "clips.csv", "prompt.txt", "noext", "odd.xyz", ".hidden.gif", "labels/a.txt")
    for name in ("videos/a.mp4", *names):
        put(tmp_path / name)
    (tmp_path / "link.gif").symlink_to("a.gif")
    told = {video.name: (video.files, str(video.refused)) for video in list_videos(tmp_path) if video.files}
    counts = {"*.gif": 3, "*.ts": 1, "*.csv": 1, "lists": 1, "other files": 2}
    assert {name: files for name, (files, _) in told.items()} == counts
    assert "`ffmpeg -i a.gif a.mp4`" in told["*.gif"][1]
    assert "docs/data.md" in told["*.csv"][1]
    assert "prompt.txt" in told["lists"][1]


def test_lists_beside_a_folder_named_videos(tmp_path: Path) -> None:
    for name in ("videos/a.mp4", "videos.txt", "prompt.txt", "metadata.csv"):
        put(tmp_path / name)
    assert [video.name for video in list_videos(tmp_path / "videos")] == ["a.mp4", "lists"]


@pytest.mark.parametrize(("name", "says"), [("list.csv", "is a file; .* docs/data.md"), ("none", "cannot be read")])
def test_a_root_that_is_no_folder(tmp_path: Path, name: str, says: str) -> None:
    put(tmp_path / "list.csv")
    for look in (lambda: list(list_videos(tmp_path / name)), lambda: fingerprint({"train": [tmp_path / name]})):
        with pytest.raises(UserError, match=says):
            look()


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
    (tmp_path / "a/videos/gone.mp4").symlink_to("nowhere")
    (tmp_path / "a/videos/linked.mp4").symlink_to("1.mp4")
    put(tmp_path / "a/videos/a.gif")
    (tmp_path / "a/labels/link.txt").symlink_to("1.txt")
    put(tmp_path / "a/videos/link.mp4")
    (tmp_path / "b").mkdir()

    def stamp(path: Path | None) -> list[int] | None:
        return [path.stat().st_size, path.stat().st_mtime_ns] if path is not None and path.exists() else None

    roots = {"valid": [tmp_path / "b", tmp_path / "a"], "train": [tmp_path / "a"]}

    def row(video: Listed) -> list[Any]:
        if video.refused is not None:
            return [video.name, video.refused, None, None, None]
        return [video.name, None, stamp(video.path), stamp(video.label), video.target or None]

    state = [
        [split, str(root), [row(video) for video in list_videos(root)]]
        for split, folders in sorted(roots.items())
        for root in folders
    ]
    assert fingerprint(roots) == digest(state)


def test_fingerprint_sees_links_and_other_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        os.utime(put(tmp_path / "big" / name), ns=(1, 1))
    put(tmp_path / "data/videos/1.mp4")
    link, seen = tmp_path / "data/videos/link.mp4", set()
    for target in ("big/one", "big/two"):  # of equal size and time
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / target)
        seen.add(fingerprint({"train": [tmp_path / "data"]}))
    seen.add(fingerprint({"train": [tmp_path / "data"]}, follow_links=False))
    put(tmp_path / "data/a.gif")
    seen.add(fingerprint({"train": [tmp_path / "data"]}))
    assert len(seen) == 4
    before = fingerprint({"train": [tmp_path / "data"]})
    put(tmp_path / "data/notes.txt")
    assert fingerprint({"train": [tmp_path / "data"]}) == before


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
    ("content", "says"),
    [(None, "no manifest"), ("{}\n", "not a manifest of this version"), ("nonsense", "not a manifest of this version")],
)
def test_bad_manifest(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "store/scan/0123456789ab/manifest.jsonl"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_text(content)
    for read in (read_manifest, read_columns):
        with pytest.raises(UserError, match=rf"{says}.*`cogtune store verify 0123456789ab --repair --store .*/store`"):
            read(path)

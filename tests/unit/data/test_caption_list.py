"""Captions from metadata.csv and metadata.jsonl: what is read, what is refused, and where the message points."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from cogtune.data.caption_list import READERS, read_caption_list
from cogtune.data.listing import fingerprint, list_videos
from cogtune.data.scan import CaptionError, Memo, caption_of, scan
from cogtune.errors import UserError
from tests.unit.data.footage import write_video

ROWS = {
    "a.mp4": 'a dog, "Rex", and a cat',
    "zwölf Boote.mp4": "дом 🏠 \u2028 end",
    "sub/b.mp4": "two\nlines",
}
FIRST_LINE = {"metadata.csv": 2, "metadata.jsonl": 1}
"""Line of the first row."""


def written(name: str, rows: dict[str, str]) -> str:
    if name.endswith(".jsonl"):
        return "".join(json.dumps({"text": text, "file_name": key, "fps": 8}) + "\n" for key, text in rows.items())
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("fps", "file_name", "text"), *((8, key, text) for key, text in rows.items())])
    return buffer.getvalue()


def put(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def captions(root: Path) -> dict[str, str]:
    """Caption of each video that is used, or why it is not."""
    result: dict[str, str] = {}
    for video in list_videos(root):
        try:
            result[video.name] = video.refused or caption_of(video)
        except CaptionError as error:
            result[video.name] = str(error)
    return result


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("name", READERS)
def test_captions_of_a_flat_folder(tmp_path: Path, name: str, bom: str) -> None:
    for clip in ROWS:
        put(tmp_path / clip)
    put(tmp_path / name, bom + written(name, ROWS))
    assert captions(tmp_path) == {clip: " ".join(text.split()) for clip, text in ROWS.items()}
    lines = [row.place for row in read_caption_list(tmp_path / name).values()]
    assert lines == [f"{tmp_path / name}:{FIRST_LINE[name] + number}" for number in range(3)]


@pytest.mark.parametrize("name", READERS)
def test_a_list_beside_caption_files(tmp_path: Path, name: str) -> None:
    for clip in ("same", "other", "empty", "own", "none"):
        put(tmp_path / f"videos/{clip}.mp4")
    for clip, text in {"same": "a  cat\n", "other": "a dog", "empty": "", "own": "own file"}.items():
        put(tmp_path / f"labels/{clip}.txt", text)
    rows = {f"videos/{clip}.mp4": "a cat" for clip in ("same", "other", "empty", "gone")}
    place = put(tmp_path / name, written(name, rows))
    by_clip = {key.removeprefix("videos/").removesuffix(".mp4"): text for key, text in captions(tmp_path).items()}
    assert (by_clip["same"], by_clip["empty"], by_clip["own"]) == ("a cat", "a cat", "own file")
    line = FIRST_LINE[name] + 1
    assert by_clip["other"] == f"two captions that differ: {place}:{line} and {tmp_path}/labels/other.txt; remove one"
    assert by_clip["none"] == f"no caption: {tmp_path}/labels/none.txt does not exist, and {place} has no row for it"
    assert by_clip["gone"] == f"no such video: {place}:{line + 2} names 'videos/gone.mp4'"


def test_an_empty_caption(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4")
    put(tmp_path / "metadata.csv", "file_name,text\na.mp4,\n")
    assert captions(tmp_path) == {"a.mp4": f"no caption: {tmp_path}/metadata.csv:2 is empty"}
    (video,) = list_videos(tmp_path)
    assert caption_of(video, allow_missing=True) == ""


BAD = [
    ("metadata.csv", "", ":1: expected a header .* found an empty line"),
    ("metadata.csv", "video,caption\na.mp4,x\n", ":1: expected a header .* found 'video', 'caption'. Rename"),
    ("metadata.csv", "file_name;text\na.mp4;x\n", ":1: expected a header .* found 'file_name;text'"),
    ("metadata.csv", "file_name,text,text\na.mp4,x,y\n", ":1: expected a header .* one column text"),
    ("metadata.csv", "file_name,text\n\na.mp4,a dog, a cat\n", ":3: fields: 3; in the header: 2.*double quotes"),
    ("metadata.csv", "file_name,text\na.mp4\n", ":2: fields: 1; in the header: 2"),
    ("metadata.csv", 'file_name,text\nb.mp4,"x\n\ny"\na.mp4,"x\n', ":5: invalid CSV"),
    ("metadata.csv", f"file_name,text\na.mp4,{'x' * (1 << 18)}\n", ":2: invalid CSV: field larger"),
    ("metadata.csv", "file_name,text\na.mp4,x\na.mp4,x\n", ":3: 'a.mp4' is in line 2 already"),
    ("metadata.csv", "file_name,text\n../a.mp4,x\n", ":2: file_name: .*'../a.mp4'; expected a plain relative path"),
    ("metadata.csv", "file_name,text\n/a.mp4,x\n", ":2: .*expected a plain relative path"),
    ("metadata.csv", "file_name,text\n,x\n", ":2: .*expected a plain relative path"),
    ("metadata.csv", b"file_name,text\nb.mp4,x\na.mp4,caf\xe9\n", ":3: not UTF-8"),
    ("metadata.csv", "file_name,text\na.mp4,x\n".encode("utf-16"), ":1: not UTF-8"),
    ("metadata.csv", b"file_name,text\na.mp4,x\0\n", ":2: .*NUL"),
    ("metadata.jsonl", "\n{}\n", ":2: no file_name; expected the keys file_name and text"),
    ("metadata.jsonl", '{"file_name": "a.mp4"}\n', ":1: no text"),
    ("metadata.jsonl", '{"file_name": "a.mp4", "text": null}\n', ":1: text is None; expected a string"),
    ("metadata.jsonl", '{"file_name": ["a.mp4"], "text": ""}\n', r":1: file_name is \['a.mp4'\]; expected a string"),
    ("metadata.jsonl", '{"file_name": "a.mp4", "text": "x", "text": "y"}', ":1: invalid JSON: a key occurs twice"),
    ("metadata.jsonl", "[1]\n", ":1: expected a JSON object"),
    ("metadata.jsonl", '{"file_name": "a.mp4"\n', ":1: invalid JSON"),
    ("metadata.jsonl", "[" * 100_000, ":1: invalid JSON"),
    ("metadata.jsonl", '{"file_name": "a.mp4", "text": "\\ud800"}\n', ":1: text .*surrogate"),
    ("metadata.jsonl", json.dumps({"file_name": "a.mp4", "text": "x" * (1 << 21)}), ":1: text has more than"),
    ("metadata.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", " is a Git LFS pointer"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[f"{row[2][:40]}-{i}" for i, row in enumerate(BAD)])
def test_an_invalid_row_names_file_and_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    put(tmp_path / "a.mp4")
    put(tmp_path / name, content)
    with pytest.raises(UserError, match=f"^{tmp_path / name}{message}"):
        list(list_videos(tmp_path))


def test_all_invalid_rows_are_named_at_once(tmp_path: Path) -> None:
    path = put(tmp_path / "metadata.jsonl", "\n".join(["1"] * 7))
    with pytest.raises(UserError) as caught:
        read_caption_list(path)
    assert str(caught.value).splitlines()[4:] == [f"{path}:5: expected a JSON object", "… and 2 more"]


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "cannot be followed"),
        (lambda path: put(path.with_suffix(".jsonl")) and put(path), "metadata.csv and metadata.jsonl hold captions"),
    ],
)
def test_a_list_that_cannot_be_used(tmp_path: Path, create: object, message: str) -> None:
    put(tmp_path / "a.mp4")
    assert callable(create)
    create(tmp_path / "metadata.csv")
    with pytest.raises(UserError, match=message):
        list(list_videos(tmp_path))


def test_a_list_behind_a_link(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        os.utime(put(tmp_path / folder / "list", written("metadata.csv", {"a.mp4": folder})), ns=(1, 1))
    put(tmp_path / "data/a.mp4")
    link, digests = tmp_path / "data/metadata.csv", set[str]()
    for folder in ("one", "two"):  # of equal size and time
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / folder / "list")
        assert captions(tmp_path / "data") == {"a.mp4": folder}
        digests.add(fingerprint({"train": [tmp_path / "data"]}))
    assert len(digests) == 2
    with pytest.raises(UserError, match=r"data\.params\.follow_links"):
        list(list_videos(tmp_path / "data", follow_links=False))


def test_the_fingerprint_changes_with_the_list(tmp_path: Path) -> None:
    put(tmp_path / "a.mp4")
    put(tmp_path / "a.txt", "x")
    digests = [fingerprint({"train": [tmp_path]})]
    for content in ("file_name,text\n", "file_name,text\na.mp4,x\n"):
        put(tmp_path / "metadata.csv", content)
        digests.append(fingerprint({"train": [tmp_path]}))
    assert len(set(digests)) == 3
    (tmp_path / "metadata.csv").unlink()
    assert fingerprint({"train": [tmp_path]}) == digests[0]


@pytest.mark.heavy
def test_equal_captions_give_equal_rows_from_any_source(tmp_path: Path) -> None:
    """So moving captions into a list makes nothing again but the scan."""
    write_video(tmp_path / "data/a.mp4")
    rows = []
    for name, content in {
        "a.txt": "a cat\n",
        "metadata.csv": written("metadata.csv", {"a.mp4": "a  cat"}),
        "metadata.jsonl": written("metadata.jsonl", {"a.mp4": "a cat"}),
    }.items():
        path = put(tmp_path / "data" / name, content)
        rows += scan({"train": [tmp_path / "data"]}, Memo(tmp_path / "memo")).rows
        path.unlink()
    assert rows[0].caption == "a cat"
    assert rows == [rows[0]] * 3

"""What mp4 files declare; and that nothing in a file can make the reader fail."""

import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cogtune.data.container import Declared, declared, is_whole


def ffmpeg(*arguments: object) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True)


@pytest.mark.parametrize("name", ["plain.mp4", "fast.mp4"])
def test_a_sound_file(footage: Path, name: str) -> None:
    assert declared(footage / name) == Declared((footage / name).stat().st_size)


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.webm", "a.mov", "fragments.mp4"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_every_container_tells_its_length(footage: Path, tmp_path: Path, name: str, share: float) -> None:
    codec = {"a.avi": "mpeg4", "a.webm": "libvpx"}.get(name, "copy")
    more = ("-movflags", "frag_keyframe+empty_moov") if name.startswith("frag") else ()
    path = tmp_path / name
    ffmpeg("-i", footage / "plain.mp4", "-c:v", codec, *more, path)
    whole = path.read_bytes()
    assert declared(path) == Declared(len(whole))
    path.write_bytes(whole[: int(share * len(whole))])
    found = declared(path)
    assert found is not None
    assert found.bytes > int(share * len(whole)) or not found.indexed


def test_a_recording_of_unknown_length(footage: Path, tmp_path: Path) -> None:
    ffmpeg("-i", footage / "plain.mp4", "-c:v", "copy", "-live", 1, tmp_path / "a.mkv")
    assert declared(tmp_path / "a.mkv") is None


def test_a_lost_index(footage: Path, tmp_path: Path) -> None:
    whole = (footage / "plain.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: whole.index(b"moov") - 4])
    found = declared(tmp_path / "cut.mp4")
    assert found is not None
    assert not found.indexed


def test_bytes_behind_the_last_box_are_no_box(footage: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes((footage / "plain.mp4").read_bytes() + b"\xff\xff\xff\xffjunk")
    found = declared(tmp_path / "a.mp4")
    assert found is not None
    assert found.bytes == (footage / "plain.mp4").stat().st_size


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\0" * 64, struct.pack(">I4s", 4, b"ftyp"), b"\x1a\x45\xdf\xa3" * 9]
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert declared(tmp_path / "a.mp4") is None


STARTS = (
    struct.pack(">I4s8x", 16, b"ftyp") + struct.pack(">I4sQ", 1, b"mdat", 500),
    struct.pack("<4sI4s", b"RIFF", 300, b"AVI "),
    b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67\x01\0\0\0\0\0\1\0",
)


@pytest.mark.heavy
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from(STARTS),
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=12),
)
def test_damage_never_raises(tmp_path: Path, head: bytes, places: list[tuple[float, bytes]]) -> None:
    content = bytearray(head.ljust(200, b"\0"))
    for share, piece in places:
        start = int(share * len(content))
        content[start : start + len(piece)] = piece
    (tmp_path / "a.mp4").write_bytes(bytes(content))
    declared(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["none.mp4", "file/a.mp4", "loop/a.mp4"])
def test_a_path_without_a_file_is_no_whole_video(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert not is_whole(tmp_path / name)

"""What mp4 files declare; and that nothing in a file can make the reader fail."""

import struct
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cogtune.data.container import declared
from tests.unit.data.footage import write_video


def ffmpeg(*arguments: object) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True)


@pytest.mark.parametrize("name", ["plain.mp4", "fast.mp4"])
def test_a_sound_file(footage: Path, name: str) -> None:
    found = declared(footage / name)
    assert found is not None
    assert found.bytes == (footage / name).stat().st_size
    assert found.seconds == pytest.approx(3.0, abs=0.01)
    assert found.indexed


def test_longer_sound_and_a_delay_do_not_count(footage: Path, tmp_path: Path) -> None:
    sound = ("-f", "lavfi", "-i", "sine=d=9")
    ffmpeg("-itsoffset", 1.5, "-i", footage / "plain.mp4", *sound, "-c:v", "copy", tmp_path / "a.mp4")
    found = declared(tmp_path / "a.mp4")
    assert found is not None
    assert found.seconds == pytest.approx(3.0, abs=0.05)


def test_an_edit_shortens(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.mp4", 48, 24, output_params=["-g", "24"])
    ffmpeg("-ss", 0.5, "-i", source, "-c", "copy", tmp_path / "cut.mp4")
    found = declared(tmp_path / "cut.mp4")
    assert found is not None
    assert found.seconds == pytest.approx(1.5, abs=0.1)


def test_fragments_declare_no_duration(footage: Path, tmp_path: Path) -> None:
    ffmpeg("-i", footage / "plain.mp4", "-c", "copy", "-movflags", "frag_keyframe+empty_moov", tmp_path / "f.mp4")
    found = declared(tmp_path / "f.mp4")
    assert found is not None
    assert found.seconds is None
    assert found.indexed


def test_cut_files(footage: Path, tmp_path: Path) -> None:
    whole = (footage / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    found = declared(tmp_path / "cut.mp4")
    assert found is not None
    assert found.bytes == len(whole)
    assert found.seconds == pytest.approx(3.0, abs=0.01)
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


def test_a_box_inside_may_not_lead_behind_the_file(footage: Path, tmp_path: Path) -> None:
    """A track that claims 4 GB within an index of the right length."""
    content = bytearray((footage / "fast.mp4").read_bytes()[:1400])
    track = content.index(b"trak") - 4
    content[track : track + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.mp4").write_bytes(content)
    assert declared(tmp_path / "a.mp4") is not None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=12))
def test_damage_never_raises(footage: Path, tmp_path: Path, places: list[tuple[float, bytes]]) -> None:
    content = bytearray((footage / "fast.mp4").read_bytes()[:1400])  # all of the index, and the start of the data
    for share, piece in places:
        start = int(share * len(content))
        content[start : start + len(piece)] = piece
    (tmp_path / "a.mp4").write_bytes(bytes(content))
    declared(tmp_path / "a.mp4")

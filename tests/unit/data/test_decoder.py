"""Videos that are sound, and videos that are not: always a reason, never the end of the process."""

import errno
import os
import resource
import signal
import tempfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from av.error import FFmpegError, err_check

from cogtune.data import inorder, seeking, streams
from cogtune.data.decoder import Decoder
from cogtune.data.video import VideoError
from cogtune.errors import UserError
from cogtune.runtime.failures import is_environment_error
from tests.unit.data.footage import damaged, frame_numbers, write_video

pytestmark = pytest.mark.heavy


def test_probe(footage: Path, decoder: Decoder) -> None:
    info = decoder.probe(footage / "plain.mp4")
    assert (info.frames, info.fps, info.width, info.height) == (24, 8, 48, 32)
    assert info.seconds == pytest.approx(3.0, abs=0.01)


def test_frames_are_the_ones_asked_for(footage: Path, decoder: Decoder) -> None:
    opened = decoder.open(footage / "plain.mp4")
    assert opened.times == pytest.approx([t / 8 for t in range(24)], abs=1e-3)
    for indices in ([0], [23], [3, 4, 5], [20, 2, 11], [7, 7]):
        assert frame_numbers(decoder.frames(indices)) == indices


@pytest.mark.parametrize("width", [16, 48, 62, 64, 100])
def test_narrow_videos(tmp_path: Path, decoder: Decoder, width: int) -> None:
    path = write_video(tmp_path / "a.mp4", size=(32, width))
    decoder.open(path)
    found = decoder.frames([2, 9])
    assert found.shape == (2, 32, width, 3)
    assert frame_numbers(found) == [2, 9]
    exact = np.stack([iio.imread(path, index=index, plugin="FFMPEG") for index in (2, 9)])
    assert np.array_equal(found, exact)


def test_a_rotated_video_is_seen_upright(tmp_path: Path, decoder: Decoder) -> None:
    write_video(tmp_path / "a.mp4")
    from tests.unit.data.test_container import ffmpeg

    ffmpeg("-display_rotation", 90, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "rotated.mp4")
    info = decoder.probe(tmp_path / "rotated.mp4")
    assert (info.width, info.height) == (32, 48)


@pytest.mark.parametrize(
    ("source", "kind", "reason"),
    [
        ("fast.mp4", "half", "cut short"),
        ("fast.mp4", "tail", "cut short"),
        ("plain.mp4", "half", "cut short"),
        ("plain.mp4", "tail", "cut short"),
        ("plain.mp4", "empty", "empty file"),
        ("plain.mp4", "text", "not a video"),
        ("plain.mp4", "noise", "damaged"),
        ("fast.mp4", "noise", "damaged"),
    ],
)
def test_damaged_files(footage: Path, tmp_path: Path, decoder: Decoder, source: str, kind: str, reason: str) -> None:
    path = damaged(footage / source, tmp_path / "a.mp4", kind)
    with pytest.raises(VideoError, match=reason):
        decoder.probe(path)


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".avi"])
def test_cut_files_without_boxes(footage: Path, tmp_path: Path, decoder: Decoder, suffix: str) -> None:
    from tests.unit.data.test_container import ffmpeg

    codec = ("-c:v", {".mkv": "copy", ".webm": "libvpx", ".avi": "mpeg4"}[suffix])
    whole = tmp_path / f"whole{suffix}"
    ffmpeg("-i", footage / "plain.mp4", *codec, whole)
    assert decoder.probe(whole).frames == 24
    with pytest.raises(VideoError):
        decoder.probe(damaged(whole, tmp_path / f"cut{suffix}", "half"))


def test_a_missing_file_says_nothing_about_a_video(tmp_path: Path, decoder: Decoder) -> None:
    with pytest.raises(FileNotFoundError):
        decoder.probe(tmp_path / "none.mp4")


def test_frames_out_of_range(footage: Path, decoder: Decoder) -> None:
    decoder.open(footage / "plain.mp4")
    with pytest.raises(VideoError, match="it has 24"):
        decoder.frames([24])


def test_a_crash_is_a_reason_and_the_next_file_works(footage: Path) -> None:
    with Decoder() as own:
        own.probe(footage / "plain.mp4")
        assert own._child is not None
        os.kill(own._child.pid, signal.SIGABRT)
        own._child.wait()
        with pytest.raises(VideoError, match="crashed on it"):
            own.probe(footage / "plain.mp4")
        assert own.probe(footage / "plain.mp4").frames == 24


def test_patience_ends(footage: Path) -> None:
    with Decoder(patience=0.3) as own:
        own._child = own._start()
        os.kill(own._child.pid, signal.SIGSTOP)
        with pytest.raises(VideoError, match=r"took longer than 0\.3 s"):
            own.probe(footage / "plain.mp4")


def test_the_child_ends_with_its_requests(footage: Path) -> None:
    own = Decoder()
    own.probe(footage / "plain.mp4")
    child = own._child
    own.close()
    own.close()
    assert child is not None
    assert child.returncode == 0


def limited(own: Decoder, limit: int, value: int) -> None:
    """Set a limit of the running child."""
    assert own._child is not None
    resource.prlimit(own._child.pid, limit, (value, value))


def used_memory(own: Decoder) -> int:
    """Bytes of address space that the child has."""
    assert own._child is not None
    return 4096 * int(Path(f"/proc/{own._child.pid}/statm").read_text().split()[0])


def test_too_little_memory_is_the_machines_fault(tmp_path: Path, footage: Path) -> None:
    """However far the child gets before there is none left: Python and numpy say so, and ffmpeg calls good packets
    invalid."""
    large = write_video(tmp_path / "large.mp4", frames=3, size=(1080, 1920))
    errors = []
    for mebibytes in (0.5, 1, 3, 5, 8, 10, 12, 16, 24):
        with Decoder() as own:
            own.probe(footage / "plain.mp4")
            limited(own, resource.RLIMIT_AS, used_memory(own) + int(mebibytes * 2**20))
            try:
                own.open(large)
                own.frames([0, 1, 2])
            except Exception as error:
                errors.append(error)
    assert len(errors) >= 4
    assert [error for error in errors if not is_environment_error(error)] == []
    with Decoder() as own:
        own.open(large)
        assert own.frames([2]).shape == (1, 1080, 1920, 3)


def test_too_few_open_files_are_the_machines_fault(footage: Path) -> None:
    with Decoder() as own:
        own.probe(footage / "plain.mp4")
        limited(own, resource.RLIMIT_NOFILE, 3)
        with pytest.raises(OSError, match="Too many open files") as caught:
            own.probe(footage / "fast.mp4")
        assert is_environment_error(caught.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_decoder_that_was_ended_from_outside_rejects_nothing(footage: Path, number: signal.Signals) -> None:
    with Decoder() as own:
        own.probe(footage / "plain.mp4")
        assert own._child is not None
        own._child.send_signal(number)
        own._child.wait()
        with pytest.raises((UserError, OSError), match=f"ended by {number.name}|memory ran out"):
            own.probe(footage / "plain.mp4")
        assert own.probe(footage / "plain.mp4").frames == 24


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ESTALE])
def test_what_ffmpeg_says_of_the_machine_is_no_damage(footage: Path, number: int) -> None:
    """In the demuxer (`unreadable`) and while decoding (`_decoded`)."""
    with pytest.raises(FFmpegError) as caught:
        err_check(-number)
    assert streams.unreadable(footage / "plain.mp4", caught.value, "damaged") is caught.value

    class Packet:
        opaque = None

        def decode(self) -> None:
            raise caught.value

    with pytest.raises(type(caught.value)):
        inorder._decoded(Packet(), 0)


def test_an_input_error_of_ffmpeg_is_damage_where_the_file_reads(footage: Path) -> None:
    with pytest.raises(FFmpegError) as caught:
        err_check(-errno.EIO)
    assert str(streams.unreadable(footage / "plain.mp4", caught.value, "damaged")) == "damaged"


def test_without_a_temporary_folder_the_other_reader_serves(footage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert seeking.opened(footage / "plain.mp4", [0.0], 1000) is None
    with pytest.raises(UserError, match="No space left on device"):
        Decoder().probe(footage / "plain.mp4")

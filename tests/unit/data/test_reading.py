"""The rules by which a video is read: when a seek is allowed, what damage reaches, which way up."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogtune.data import seeking, streams
from cogtune.data.clips import ClipSettings, describe_clip, load_clip
from cogtune.data.damage import Damage
from cogtune.data.decode import Video, _mostly_skipped
from cogtune.data.decoder import Decoder
from cogtune.data.inorder import shown_frames
from cogtune.data.picture import rotation_filters
from cogtune.data.streams import read_packets
from cogtune.data.video import TimesError, VideoError
from tests.unit.data.footage import frame_numbers, write_video
from tests.unit.data.test_container import ffmpeg

pytestmark = pytest.mark.heavy

ONE = 1 << 16


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 frames at 8 fps, 64x96, in closed groups of 8 frames (closed.mp4), and what else is made of the same frames."""
    folder = tmp_path_factory.mktemp("groups")
    write_video(folder / "closed.mp4", 96, size=(64, 96), output_params=["-g", "8", "-bf", "2"])
    x264 = ("-i", folder / "closed.mp4", "-c:v", "libx264", "-crf", 6)
    ffmpeg(*x264, "-x264-params", "open-gop=1:keyint=8:bframes=2:scenecut=0", folder / "open.mp4")
    ffmpeg(*x264, "-x264-params", "intra-refresh=1:keyint=8:bframes=0", folder / "refresh.mp4")
    ffmpeg(*x264, "-pix_fmt", "yuv420p10le", "-g", 8, folder / "deep.mp4")
    ffmpeg(
        "-i", folder / "closed.mp4", "-c:v", "libx265", "-x265-params", "keyint=8:log-level=none", folder / "h265.mp4"
    )
    ffmpeg("-ss", 1.3, "-i", folder / "closed.mp4", "-c", "copy", folder / "cut.mp4")
    ffmpeg("-i", folder / "closed.mp4", "-c", "copy", folder / "other.mkv")
    ffmpeg("-display_rotation", 90, "-i", folder / "closed.mp4", "-c", "copy", folder / "rotated.mp4")
    ffmpeg("-i", folder / "closed.mp4", "-c:v", "libxvid", "-bf", 2, "-q:v", 2, folder / "packed.avi")
    return folder


def test_only_proven_groups_may_be_seeked_into(groups: Path) -> None:
    assert read_packets(groups / "closed.mp4").sections == list(range(0, 96, 8))
    assert read_packets(groups / "other.mkv").sections == list(range(0, 96, 8))
    for name in ("open.mp4", "refresh.mp4", "deep.mp4", "h265.mp4", "cut.mp4", "packed.avi"):
        assert read_packets(groups / name).sections == [], name


SPARSE = [3, 40, 41, 90]


@pytest.mark.parametrize("name", ["closed.mp4", "other.mkv"])
def test_both_readers_give_the_same_bytes(groups: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("decord")
    video = Video(groups / name)
    sought = video.frames(SPARSE)
    assert (video.reader, frame_numbers(sought)) == ("decord", [index % 50 for index in SPARSE])
    monkeypatch.setitem(sys.modules, "decord", None)
    plain = Video(groups / name)
    assert np.array_equal(plain.frames(SPARSE), sought)
    assert plain.reader == "pyav"


@pytest.mark.parametrize("name", ["open.mp4", "refresh.mp4", "deep.mp4", "h265.mp4", "rotated.mp4"])
def test_other_streams_are_read_in_order(groups: Path, name: str) -> None:
    video = Video(groups / name)
    found = video.frames(SPARSE)
    assert video.reader == "pyav"
    if name != "rotated.mp4":
        assert frame_numbers(found) == [index % 50 for index in SPARSE]


def test_decord_is_left_when_it_complains(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeking, "frames", lambda reader, indices: None)
    video = Video(groups / "closed.mp4")
    assert frame_numbers(video.frames(SPARSE)) == [index % 50 for index in SPARSE]
    assert video.reader == "pyav"


@given(
    ends=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    wanted=st.sets(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8),
)
def test_half_is_left_out(ends: list[int], wanted: set[float]) -> None:
    sections = [sum(ends[:place]) for place in range(len(ends))]
    indices = sorted({int(share * sum(ends)) for share in wanted})
    place = {frame: number for number, start in enumerate(sections) for frame in range(start, start + ends[number])}
    touched = {place[index] for index in indices}
    decoded = sum(place[frame] in touched for frame in range(indices[-1] + 1))
    assert _mostly_skipped(sections, indices) == (2 * decoded <= indices[-1] + 1)


def test_a_cut_starts_where_its_edit_list_says(groups: Path, decoder: Decoder) -> None:
    video = decoder.open(groups / "cut.mp4")
    assert video.times[0] == pytest.approx(0, abs=0.13)
    first = frame_numbers(decoder.frames(list(range(9))))
    assert first == list(range(first[0], first[0] + 9))
    assert first[0] in (10, 11)


def test_times_that_packets_do_not_tell_are_found_by_decoding(groups: Path, decoder: Decoder) -> None:
    """Packed Xvid: a packet holds two frames, the next one none."""
    path, settings = groups / "packed.avi", ClipSettings([64, 96], 4.0, 9, 2, "timestamp")
    decoder.open(path)
    with pytest.raises(TimesError):
        list(decoder.each(range(0, 60)))
    row, pixels = describe_clip(path, settings, decoder)
    numbers = frame_numbers(pixels.permute(0, 2, 3, 1).numpy())
    assert numbers == list(range(numbers[0], numbers[0] + 18, 2))
    assert load_clip(path, row, [64, 96], decoder).equal(pixels)
    with pytest.raises(VideoError, match="is not shown at"):
        load_clip(path, replace(row, timestamps=[time + 0.1 for time in row.timestamps]), [64, 96], decoder)


def test_a_codec_without_a_decoder_is_not_damage(groups: Path, tmp_path: Path, decoder: Decoder) -> None:
    content = (groups / "closed.mp4").read_bytes().replace(b"avc1", b"xyz1")
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match="codec is not supported"):
        decoder.probe(tmp_path / "a.mp4")


def test_a_clock_that_starts_again(groups: Path, tmp_path: Path, decoder: Decoder) -> None:
    """In MPEG-TS it may; what follows is moved, as ffmpeg does it."""
    ffmpeg("-i", groups / "closed.mp4", "-c", "copy", tmp_path / "a.ts")
    (tmp_path / "twice.ts").write_bytes((tmp_path / "a.ts").read_bytes() * 2)
    once, twice = decoder.probe(tmp_path / "a.ts"), decoder.probe(tmp_path / "twice.ts")
    assert twice.frames == 2 * once.frames
    assert twice.seconds == pytest.approx(2 * once.seconds, abs=0.2)
    assert decoder.open(tmp_path / "twice.ts").times[: once.frames - 3] == decoder.open(tmp_path / "a.ts").times[:-3]


def test_a_clock_that_runs_backwards_where_it_must_not() -> None:
    restarts = streams._RestartCheck()
    for seconds in (0.0, 0.5, 0.1, 1.0):
        restarts.add(seconds)
    with pytest.raises(VideoError, match=r"time stamps run backwards, from 1\.00 s to 0\.40 s"):
        restarts.add(0.4)


def test_leaving_off_in_the_middle(groups: Path) -> None:
    with Decoder() as own:
        own.open(groups / "open.mp4")
        for _ in own.each(range(60)):
            break
        own.open(groups / "closed.mp4")
        assert frame_numbers(own.frames([7])) == [7]


#              decoding order: key 0, P 3, b 1, b 2, key 6 (open group: b 4 and b 5 refer to both sides), P 9, b 7, b 8
DECODED = [
    (0, True),
    (3, False),
    (1, False),
    (2, False),
    (6, True),
    (4, False),
    (5, False),
    (9, False),
    (7, False),
    (8, False),
]


@pytest.mark.parametrize(
    ("bad", "hit"),
    [
        ([], []),
        ([0], [0, 1, 2, 3, 4, 5]),
        ([1], [3, 1, 2, 4, 5]),
        ([2], [1, 2, 4, 5]),
        ([4], [4, 5, 6, 7, 8, 9]),
        ([5], [4, 5]),
        ([7], [9, 7, 8]),
        ([9], [8]),
    ],
)
def test_what_damage_reaches(bad: list[int], hit: list[int]) -> None:
    """``bad``: packets in the order of decoding; ``hit``: frames in the order of showing. An error is taken for one of a
    reference, unless it is of a frame that is shown before the key frame in front of it."""
    damage, found = Damage(), []
    packet_of = {frame: number for number, (frame, _) in enumerate(DECODED)}
    fed = 0
    for frame in range(10):
        while fed < len(DECODED) and fed <= packet_of[frame] + 1:
            if fed in bad:
                damage.add_error(fed)
            fed += 1
        if damage.affects(packet_of[frame], dict(DECODED)[frame]):
            found.append(frame)
    assert found == sorted(hit)


def test_intra_refresh_does_not_end_damage(groups: Path, tmp_path: Path) -> None:
    def hits(name: str) -> list[bool]:
        content = bytearray((groups / name).read_bytes())
        place = content.index(b"mdat") + 3000
        for offset in range(0, 400, 7):
            content[place + offset] ^= 0x55
        (tmp_path / name).write_bytes(content)
        return [frame.damaged for frame in shown_frames(tmp_path / name)]

    closed, refresh = hits("closed.mp4"), hits("refresh.mp4")
    assert any(closed)
    assert not any(closed[-40:])
    assert any(refresh)
    assert all(refresh[-40:])


@pytest.mark.parametrize(
    ("matrix", "filters"),
    [
        ((ONE, 0, 0, 0, ONE, 0, 0, 0, ONE), []),
        ((0, ONE, 0, -ONE, 0, 0, 0, 0, ONE), [("transpose", "clock")]),
        ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, ONE), [("hflip", ""), ("vflip", "")]),
        ((0, -ONE, 0, ONE, 0, 0, 0, 0, ONE), [("transpose", "cclock")]),
        ((-ONE, 0, 0, 0, ONE, 0, 0, 0, ONE), [("hflip", "")]),
        ((ONE, 0, 0, 0, -ONE, 0, 0, 0, ONE), [("vflip", "")]),
        ((0, ONE, 0, ONE, 0, 0, 0, 0, ONE), [("transpose", "cclock_flip")]),
        ((0, -ONE, 0, -ONE, 0, 0, 0, 0, ONE), [("transpose", "clock_flip")]),
        ((0,) * 9, []),
    ],
)
def test_which_way_up(matrix: tuple[int, ...], filters: list[tuple[str, str]]) -> None:
    assert rotation_filters(matrix) == filters


def test_no_quarter_turn() -> None:
    with pytest.raises(VideoError, match="rotated by 45 degrees"):
        rotation_filters((46341, 46341, 0, -46341, 46341, 0, 0, 0, ONE))


def test_pixels_that_are_not_square_are_counted(groups: Path, tmp_path: Path, decoder: Decoder) -> None:
    ffmpeg("-i", groups / "closed.mp4", "-vf", "setsar=2", "-c:v", "libx264", tmp_path / "wide.mp4")
    info = decoder.probe(tmp_path / "wide.mp4")
    assert (info.width, info.height, info.sample_aspect) == (96, 64, "2:1")
    row, _ = describe_clip(tmp_path / "wide.mp4", replace(SETTINGS, video_size=[64, 96]), decoder)
    assert row.source.sample_aspect == "2:1"


SETTINGS = ClipSettings([32, 48], 8.0, 9, 0, "timestamp")

"""Every frame that is used is the one that ffmpeg shows at the asked time; `compare` prints the same as a table."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cogtune.data.clips import describe_clip
from cogtune.data.decoder import Decoder
from tests.frames.compare import ALL_SETTINGS, asked_moments, check, check_damaged, checked, compare, covered
from tests.frames.corpus import Corpus, Stream, Truth, flip_bits
from tests.frames.streams import ALL, STREAMS

UNTIL_READ_IN_ORDER = pytest.mark.xfail(strict=True, reason="needs a reader that decodes in order")
_WRONG = [
    "x264-bf0.avi", "mpeg4-bf2.mp4", "av1.mp4", "av1.mkv", "av1.webm",
    "av1-good.mkv", "x264-open.mp4", "x264-open.mkv", "x264-open.ts", "x264-refresh.mp4",
    "x264-refresh.mkv", "x265-60.mp4", "x265-open.mp4", "x265-open.mkv", "xvid-bf2.avi",
    "mpeg4-bf2.avi", "mpeg2-bf2.mkv", "mpeg2-bf2.mpg", "mpeg2-bf2.ts", "mpeg2-bf2.mp4",
    "mpeg1-bf2.mpg", "vfr-jitter.mkv", "vfr-open.mp4", "cut-closed.mp4", "cut-closed.mov",
    "cut-open.mp4", "cut-open.mov", "cut-open.mkv", "cut-x265.mp4", "cut-x265.mov",
    "cut-x265.mkv", "cut-refresh.mp4", "cut-refresh.mov", "cut-refresh.mkv", "cut.ts",
    "cut-av1.mp4", "cut-mpeg2.mkv", "cut-sound.mp4", "cut-sound.mov", "cut-twice.mp4",
    "rotated-90.mkv", "rotated-180.mkv", "rotated-270.mkv", "hflip.mp4", "hflip.mkv",
    "vflip.mp4", "vflip.mkv", "rotated-hflip.mp4", "rotated-hflip.mkv", "rotated-open.mov",
    "offset.mkv", "offset.ts", "offset-open.mkv", "sound-longer.mkv", "sound-longer.avi",
    "sound-early.mkv", "fragmented-open.mp4", "restarting.ts", "x264-90-percent.avi", "x264-10bit.mp4",
    "x265-10bit.mp4", "x265-10bit-open.mkv", "vp9-10bit.webm", "av1-10bit.mkv",
]  # fmt: skip


def rows() -> list:
    marks = {
        name: [pytest.mark.slow] * stream.slow + [UNTIL_READ_IN_ORDER] * (name in _WRONG)
        for name, stream in STREAMS.items()
    }
    return [pytest.param(stream, marks=marks[name], id=name) for name, stream in STREAMS.items()]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus"), ALL)


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decoder]:
    """A decoder that gives up early: a stream of this size takes less than a second."""
    with Decoder(patience=15) as made:
        yield made


@pytest.mark.parametrize("stream", rows())
def test_used_frames_are_those_that_ffmpeg_shows(stream: Stream, corpus: Corpus, patient: Decoder) -> None:
    outcomes = checked(corpus, stream.name, patient)
    assert [outcome.wrong for outcome in outcomes if outcome.wrong] == []
    reasons = [outcome.rejected for outcome in outcomes if outcome.rejected is not None]
    if stream.must_use:
        assert reasons == []
    else:
        assert [reason for reason in reasons if stream.rejects not in reason] == []


@pytest.fixture(scope="session")
def without_decord(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Iterator[Decoder]:
    """A decoder whose process cannot import decord."""
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "decord.py").write_text("raise ImportError('blocked by the test')\n")
    before = os.environ.get("PYTHONPATH")
    with Decoder(patience=15) as made:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
        try:
            made.probe(corpus.path("x264.mp4"))
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
        yield made


@UNTIL_READ_IN_ORDER
@pytest.mark.parametrize("name", [name for name, stream in STREAMS.items() if stream.exact])
def test_the_readers_are_equal_to_the_bit(name: str, corpus: Corpus, patient: Decoder, without_decord: Decoder) -> None:
    for settings in (ALL_SETTINGS[0], ALL_SETTINGS[2]):
        row, pixels = describe_clip(corpus.path(name), settings, patient)
        other_row, other_pixels = describe_clip(corpus.path(name), settings, without_decord)
        assert torch.equal(pixels, other_pixels)
        assert row["indices"] == other_row["indices"]
        assert row["timestamps"] == pytest.approx(other_row["timestamps"], abs=1e-4)
        assert check(corpus.path(name), corpus.truth(name), settings, without_decord).wrong == ""


DAMAGED = ["x264-g48.mp4", "x264-open.mkv", "x265.mp4", "mpeg4.avi", "vp9.webm", "mpeg2-bf2.ts", "av1.mp4"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[UNTIL_READ_IN_ORDER] * (name in ("x264-open.mkv", "mpeg2-bf2.ts", "av1.mp4")))
        for name in DAMAGED
    ],
)
def test_damage_rejects_only_what_it_hits(name: str, corpus: Corpus, patient: Decoder, tmp_path: Path) -> None:
    wrong, accepted = damage(name, range(6), corpus, patient, tmp_path)
    assert wrong == {}
    assert accepted, "every copy was rejected, although most of what was hit is not used"


@pytest.mark.slow
@UNTIL_READ_IN_ORDER
@pytest.mark.parametrize("name", DAMAGED)
def test_much_damage(name: str, corpus: Corpus, patient: Decoder, tmp_path: Path) -> None:
    assert damage(name, range(100, 140), corpus, patient, tmp_path)[0] == {}


def damage(name: str, seeds: range, corpus: Corpus, decoder: Decoder, folder: Path) -> tuple[dict[int, str], int]:
    """What is wrong by seed, and how many copies with one flipped bit were used."""
    wrong, accepted = {}, 0
    whole, settings = corpus.path(name).read_bytes(), ALL_SETTINGS[3]
    for seed in seeds:
        path = folder / f"{seed}{Path(name).suffix}"
        path.write_bytes(flip_bits(1, seed, 0.05, 0.9)(whole))
        outcome = check_damaged(path, corpus.truth(name), settings, decoder)
        if outcome.wrong:
            wrong[seed] = outcome.wrong
        accepted += outcome.rejected is None
    return wrong, accepted


def test_the_comparison_can_fail(corpus: Corpus) -> None:
    """One frame later, one frame repeated, another picture: each is found, and the right frames pass."""
    truth = corpus.truth("x264.mp4")
    settings = replace(ALL_SETTINGS[0], max_num_frames=9)
    moments = asked_moments(truth, settings, truth.fps)
    assert moments is not None
    right = np.abs(truth.times[None] - moments[:, None]).argmin(axis=1)
    shown = covered(truth.frames, settings.video_size)

    def says(indices: np.ndarray, pixels: torch.Tensor | None = None) -> str:
        row = {"timestamps": [truth.times[index] for index in indices], "padded": 0}
        return compare(truth, moments, row, shown[indices] if pixels is None else pixels, settings)[0]

    assert says(right) == ""
    assert "9 of 9 frames are of another time (+0.0" in says(right + 2)
    repeated = right.copy()
    repeated[5] = repeated[4]
    assert "1 of 9 frames" in says(repeated)
    assert "frames differ" in says(right, shown[right] // 2 + 60)
    stamps = {"timestamps": [truth.times[index] * 1.01 for index in right], "padded": 0}
    assert "time stamps" in compare(truth, moments, stamps, shown[right], settings)[0]


def test_every_frame_of_a_source_is_distinct(corpus: Corpus) -> None:
    for name in ("30.y4m", "60.y4m"):
        truth: Truth = corpus.truth(name)
        changes = np.square(np.diff(truth.frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
        assert changes.min() > 30, "neighbours have to be further apart than two decoders of one frame"

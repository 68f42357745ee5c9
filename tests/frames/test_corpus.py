"""Every frame that is used is the one that ffmpeg shows at the asked time; `compare` prints the same as a table."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cogtune.data.clips import describe_clip
from cogtune.data.decoder import Decoder
from cogtune.data.rows import FramePlan
from tests.frames.compare import ALL_SETTINGS, asked_moments, check, check_damaged, checked, compare
from tests.frames.corpus import Corpus, Stream, Truth, flip_bits
from tests.frames.streams import STREAMS
from tests.readers import decoder_without_decord

ROWS = [pytest.param(stream, marks=[pytest.mark.slow] * stream.slow, id=name) for name, stream in STREAMS.items()]


@pytest.mark.parametrize("stream", ROWS)
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
    with decoder_without_decord(tmp_path_factory.mktemp("blocked"), corpus.path("x264.mp4"), patience=15) as made:
        yield made


EXACT = [name for name, stream in STREAMS.items() if stream.exact]
SPARSE = replace(ALL_SETTINGS[0], fps=0.25, max_num_frames=3, skip_frms_num=0.0)
"""Three frames of nine seconds: most groups are left out, so decord seeks."""


@pytest.mark.parametrize("name", EXACT)
def test_both_readers_decode_the_same_bytes(name: str, corpus: Corpus, patient: Decoder) -> None:
    decord = pytest.importorskip("decord")
    row, pixels = describe_clip(corpus.path(name), ALL_SETTINGS[0], patient)
    assert row.reader == "pyav"
    everything = decord.VideoReader(str(corpus.path(name)), num_threads=1)
    frames = everything.get_batch(list(range(max(row.indices) + 1))).asnumpy()[row.indices]
    assert torch.equal(pixels, torch.from_numpy(frames).permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["x264-g30.mp4", "x264-keyint8.mp4"])
def test_without_decord_a_sparse_clip_is_the_same(
    name: str, corpus: Corpus, patient: Decoder, without_decord: Decoder
) -> None:
    pytest.importorskip("decord")
    row, pixels = describe_clip(corpus.path(name), SPARSE, patient)
    other_row, other_pixels = describe_clip(corpus.path(name), SPARSE, without_decord)
    assert (row.reader, other_row.reader) == ("decord", "pyav")
    assert torch.equal(pixels, other_pixels)
    assert replace(row, reader="") == replace(other_row, reader="")
    assert check(corpus.path(name), corpus.truth(name), SPARSE, patient).wrong == ""


DAMAGED = ["x264-g48.mp4", "x264-open.mkv", "x265.mp4", "mpeg4.avi", "vp9.webm", "mpeg2-bf2.ts", "av1.mp4"]


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_rejects_only_what_it_hits(name: str, corpus: Corpus, patient: Decoder, tmp_path: Path) -> None:
    wrong, accepted = damage(name, range(6), corpus, patient, tmp_path)
    assert wrong == {}
    assert accepted, "every copy was rejected, although most of what was hit is not used"


@pytest.mark.slow
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
    shown = torch.from_numpy(truth.frames.copy()).permute(0, 3, 1, 2)

    def says(indices: np.ndarray, pixels: torch.Tensor | None = None) -> str:
        row = FramePlan([], [float(truth.times[index]) for index in indices], 8.0, 0, padded=0)
        return compare(truth, moments, row, shown[indices] if pixels is None else pixels, settings)[0]

    assert says(right) == ""
    assert "9 of 9 frames are of another time (+0.0" in says(right + 2)
    repeated = right.copy()
    repeated[5] = repeated[4]
    assert "1 of 9 frames" in says(repeated)
    assert "frames differ" in says(right, shown[right] // 2 + 60)
    stamps = FramePlan([], [float(truth.times[index]) * 1.01 for index in right], 8.0, 0, padded=0)
    assert "time stamps" in compare(truth, moments, stamps, shown[right], settings)[0]


def test_every_frame_of_a_source_is_distinct(corpus: Corpus) -> None:
    for name in ("30.y4m", "60.y4m"):
        truth: Truth = corpus.truth(name)
        changes = np.square(np.diff(truth.frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
        assert changes.min() > 30, "neighbours have to be further apart than two decoders of one frame"

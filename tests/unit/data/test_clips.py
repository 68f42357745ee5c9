"""Which frames, which pixels: tables from upstream's arithmetic, and properties."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cogtune.data.clips import ClipSettings, Fit, describe_clip, load_clip, resize_and_crop, thumbnail
from cogtune.data.decoder import Decoder
from cogtune.data.frames import fit, is_usable, plan_frames
from cogtune.data.rows import SourceVideo
from cogtune.data.video import VideoError
from tests.unit.data.footage import frame_numbers, write_video


def steady(count: int, fps: float) -> list[float]:
    return [index / fps for index in range(count)]


@pytest.mark.parametrize(
    ("source_fps", "step", "effective"), [(30, 3, 10.0), (25, 3, 8.3333), (60, 7, 8.5714), (24, 3, 8.0), (16, 2, 8.0)]
)
def test_stride_is_upstreams(source_fps: float, step: int, effective: float) -> None:
    """The rates at which upstream trains when it is asked for 49 frames at 8 fps, from a source that is long enough."""
    plan = plan_frames(steady(600, source_fps), source_fps, 8, 49, 3.0, "stride")
    assert plan.indices == list(range(3, 3 + 49 * step, step))
    assert plan.effective_fps == effective
    assert (plan.repeated, plan.padded) == (0, 0)


@pytest.mark.parametrize(
    ("count", "fps", "frames", "skip", "indices", "padded"),
    [
        (40, 8, 49, 3, list(range(3, 36)), 16),  # 34 usable: 33 = 4*8 + 1, the rest is the last one again
        (12, 8, 9, 0, list(range(9)), 0),
        (9, 8, 9, 0, list(range(9)), 0),
        (10, 8, 9, 1, list(range(1, 10)), 0),  # long enough in time, so the end is not skipped
        (10, 8, 9, 3, list(range(3, 10)), 2),  # likewise, and then upstream reads behind the end
        (60, 30, 49, 3, list(range(3, 52)), 0),  # two seconds: the rate is given up
        (8, 8, 9, 0, list(range(5)), 4),
        (6, 8, 9, 2.0, [2], 8),
    ],
)
def test_stride_with_little_footage(
    count: int, fps: float, frames: int, skip: float, indices: list[int], padded: int
) -> None:
    plan = plan_frames(steady(count, fps), fps, 8, frames, skip, "stride")
    assert plan.indices == indices + indices[-1:] * padded
    assert plan.padded == padded


@pytest.mark.parametrize(("count", "fps", "skip", "says"), [(500, 7, 3, "divides by zero"), (6, 8, 3, "too short")])
def test_stride_where_upstream_crashes(count: int, fps: float, skip: float, says: str) -> None:
    with pytest.raises(VideoError, match=says):
        plan_frames(steady(count, fps), fps, 8, 49, skip, "stride")


@pytest.mark.parametrize("source_fps", [8, 12, 15, 23.976, 24, 25, 29.97, 30, 50, 59.94, 60, 120])
def test_timestamps_give_the_asked_rate(source_fps: float) -> None:
    plan = plan_frames(steady(int(source_fps * 8), source_fps), source_fps, 8, 49, 3.0)
    assert plan.indices[0] == 3
    assert plan.effective_fps == pytest.approx(8, rel=0.5 / 48)
    ideal = [3 / source_fps + step / 8 for step in range(49)]
    assert all(abs(a - b) <= 0.5 / source_fps + 1e-5 for a, b in zip(plan.timestamps, ideal, strict=True))
    assert (plan.repeated, plan.padded) == (0, 0)


def test_a_slow_source_repeats_frames() -> None:
    plan = plan_frames(steady(40, 4), 4, 8, 17, 0)
    assert plan.indices == [index // 2 for index in range(17)]
    assert plan.repeated == 8
    assert plan.effective_fps == 8


@pytest.mark.parametrize("fps", [8, 30, 29.97])
@pytest.mark.parametrize("frames", [9, 49])
def test_a_clip_cut_to_the_asked_length_passes(fps: float, frames: int) -> None:
    count = round((frames - 1) / 8 * fps) + 1
    times = [round(index / fps, 3) for index in range(count)]  # Matroska counts milliseconds
    assert len(set(plan_frames(times, fps, 8, frames, 0).indices)) == frames
    with pytest.raises(VideoError, match=f"too short: {frames} frames at 8 fps need"):
        plan_frames(times[: -max(1, round(fps / 8))], fps, 8, frames, 0)


def test_frames_that_an_edit_hides_are_not_used() -> None:
    times = [index / 8 - 0.5 for index in range(20)]
    assert plan_frames(times, 8, 8, 9, 0).indices == list(range(4, 13))


def test_a_changing_rate_is_followed() -> None:
    times = [index / 30 for index in range(30)] + [1 + index / 10 for index in range(20)]
    plan = plan_frames(times, 17, 10, 25, 0)
    assert plan.indices[:5] == [0, 3, 6, 9, 12]
    assert plan.indices[10:15] == [30, 31, 32, 33, 34]


@given(
    steps=st.lists(st.floats(0.004, 0.4), min_size=1, max_size=120),
    asked=st.floats(1, 40),
    frames=st.integers(1, 12).map(lambda k: 4 * k + 1),
    skip=st.integers(0, 4),
    selection=st.sampled_from(["timestamp", "stride"]),
)
def test_plans_hold_what_they_promise(steps: list[float], asked: float, frames: int, skip: int, selection: str) -> None:
    times = [0.0, *itertools.accumulate(steps)]
    try:
        plan = plan_frames(times, len(times) / (times[-1] + steps[-1]), asked, frames, skip, selection)
    except VideoError:
        return
    assert len(plan.indices) == len(plan.timestamps) == frames
    assert all(a <= b for a, b in itertools.pairwise(plan.indices))
    assert all(skip <= index < len(times) for index in plan.indices)
    if selection == "timestamp":
        assert plan.padded == 0
        assert max(plan.indices) < len(times) - skip
    else:
        assert plan.repeated == 0


@given(
    count=st.integers(1, 200),
    fps=st.sampled_from([4.0, 8.0, 15.0, 23.976, 25.0, 60.0]),
    target=st.sampled_from([8.0, 16.0]),
    frames=st.integers(1, 25).map(lambda k: 4 * k + 1),
    skip=st.integers(0, 4),
    selection=st.sampled_from(["timestamp", "stride"]),
)
def test_a_list_tells_which_videos_are_usable(
    count: int, fps: float, target: float, frames: int, skip: int, selection: str
) -> None:
    """What a plan says before the clips are decoded is what preprocess then does."""
    try:
        plan_frames(steady(count, fps), fps, target, frames, skip, selection)
        usable = True
    except VideoError:
        usable = False
    assert is_usable(count, fps, target, frames, skip, selection) == usable


@pytest.mark.parametrize(
    ("source", "clip", "resize", "crop"),
    [
        ((480, 720), (480, 720), [480, 720], [0, 0]),
        ((720, 1280), (480, 720), [480, 853], [0, 66]),
        ((1280, 720), (480, 720), [1280, 720], [400, 0]),
        ((90, 160), (64, 96), [64, 113], [0, 8]),
        ((100, 100), (64, 96), [96, 96], [16, 0]),
        ((33, 47), (64, 96), [67, 96], [1, 0]),
    ],
)
def test_fit(source: tuple[int, int], clip: tuple[int, int], resize: list[int], crop: list[int]) -> None:
    assert fit(source, clip) == Fit(resize, crop)


@given(st.tuples(*[st.integers(16, 2000)] * 4))
def test_a_fit_covers_and_barely(sizes: tuple[int, int, int, int]) -> None:
    height, width, tall, wide = sizes
    how = fit((height, width), (tall, wide))
    assert how.resize[0] >= tall
    assert how.resize[1] >= wide
    assert how.resize[0] == tall or how.resize[1] == wide
    assert how.crop == [(how.resize[0] - tall) // 2, (how.resize[1] - wide) // 2]


def test_resize_and_crop_is_upstreams() -> None:
    frame_HWC = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    planes_CHW = frame_HWC.permute(2, 0, 1)
    assert torch.equal(resize_and_crop(frame_HWC, fit((40, 60), (40, 60)), (40, 60)), planes_CHW)
    for size in ((16, 16), (64, 96), (50, 60)):
        found = resize_and_crop(frame_HWC, how := fit((40, 60), size), size)
        # What torchvision's resize(…, BICUBIC) does with the frames of a clip, all at once and in channels-last layout.
        wide = torch.nn.functional.interpolate(
            torch.stack([planes_CHW] * 2).float(), size=how.resize, mode="bicubic", antialias=True, align_corners=False
        )
        top, left = how.crop
        expected = wide.clamp(0, 255).round().to(torch.uint8)[1, :, top : top + size[0], left : left + size[1]]
        assert torch.equal(found, expected)
    flat = torch.full((40, 60, 3), 77, dtype=torch.uint8)
    assert (resize_and_crop(flat, fit((40, 60), (32, 32)), (32, 32)) == 77).all()


SETTINGS = ClipSettings([32, 48], 8.0, 9, 0, "timestamp")


@pytest.mark.heavy
def test_load_clip_gives_the_described_pixels(footage: Path, decoder: Decoder) -> None:
    row, pixels = describe_clip(footage / "plain.mp4", replace(SETTINGS, fps=4.0), decoder)
    assert pixels.shape == (9, 3, 32, 48)
    assert frame_numbers(pixels.permute(0, 2, 3, 1).numpy()) == list(range(0, 18, 2)) == row.indices
    assert row.source == SourceVideo(frames=24, fps=8.0, height=32, width=48, sample_aspect="1:1")
    assert row.reader == "pyav"
    assert torch.equal(load_clip(footage / "plain.mp4", row, [32, 48], decoder), pixels)
    assert torch.equal(load_clip(str(footage / "plain.mp4"), row, [32, 48]), pixels)


def test_padding_repeats_the_last_frame(tmp_path: Path, decoder: Decoder) -> None:
    path = write_video(tmp_path / "short.mp4", frames=6, size=(48, 64))
    row, pixels = describe_clip(path, replace(SETTINGS, frame_selection="stride"), decoder)
    assert row.padded == 4
    assert pixels.shape == (9, 3, 32, 48)
    assert (pixels[5:] == pixels[4]).all()
    with pytest.raises(VideoError, match="too short"):
        describe_clip(path, SETTINGS, decoder)


def test_thumbnail() -> None:
    pixels_FCHW = torch.zeros(2, 3, 480, 720, dtype=torch.uint8)
    assert thumbnail(pixels_FCHW).shape == (85, 128, 3)
    assert thumbnail(pixels_FCHW[:, :, :32, :48]).shape == (32, 48, 3)

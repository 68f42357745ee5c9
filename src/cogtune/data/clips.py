"""Load the pixels of a clip from a video file: select frames, resize and crop them.

The results of `plan_frames` and `fit` are stored in the clip's row, so that `load_clip` returns the same pixels later;
decoded frames are not stored.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cogtune.data.decoder import Decoder, Opened
from cogtune.data.rows import ClipPlan, Fit, FramePlan, SourceVideo
from cogtune.data.video import TimesError, VideoError


def plan_frames(
    times: Sequence[float], fps: float, target_fps: float, frames: int, skip: float, selection: str = "timestamp"
) -> FramePlan:
    """Select ``frames`` frames at ``target_fps`` from a video whose frames are shown at ``times`` (seconds, ascending).

    ``fps``: the video's average rate. ``skip``: source frames to skip at either end. ``selection``: "timestamp", or
    "stride" for upstream's arithmetic. Raises VideoError if the video is too short or too slow.
    """
    if selection == "stride":
        selected = _stride(len(times), fps, target_fps, frames, skip)
    else:
        selected = _by_timestamp(times, target_fps, frames, int(skip))
    padded = frames - len(selected)
    span = times[selected[-1]] - times[selected[0]]
    indices = selected + selected[-1:] * padded
    return FramePlan(
        indices=indices,
        timestamps=[round(times[index], 6) for index in indices],
        effective_fps=round((len(selected) - 1) / span, 4) if span > 0 else float(target_fps),
        repeated=sum(a == b for a, b in itertools.pairwise(selected)),
        padded=padded,
    )


def _by_timestamp(times: Sequence[float], target_fps: float, frames: int, skip: int) -> list[int]:
    """The frames shown nearest to 0, 1/fps, 2/fps, … after the first usable one.

    A video that is too short is refused, not padded, because a model would learn to freeze from repeated last frames.
    Frames before time zero are not used: players hide them because of an edit list.
    """
    first_usable = max(bisect.bisect_left(times, -1e-3), skip)
    last = len(times) - 1 - skip
    if last < first_usable:
        raise VideoError(f"too short: {len(times)} frames, of which {skip} are skipped at either end")
    usable = times[first_usable : last + 1]
    needed = (frames - 1) / target_fps
    # Tolerance of half a source frame: a video cut to exactly the required length must pass despite rounded time stamps.
    half = 0.5 * (usable[-1] - usable[0]) / max(1, len(usable) - 1)
    if usable[-1] - usable[0] + half + 1e-6 < needed:
        raise VideoError(
            f"too short: {frames} frames at {target_fps:g} fps need {needed:.2f} s, {usable[-1] - usable[0]:.2f} s are "
            f"usable; lower max_num_frames or skip_frms_num, or set frame_selection: stride for upstream's padding"
        )
    return [first_usable + _nearest(usable, usable[0] + step / target_fps) for step in range(frames)]


def _nearest(times: Sequence[float], seconds: float) -> int:
    """Index of the time nearest to ``seconds``; the earlier one of two that are equally near (within a microsecond)."""
    after = min(bisect.bisect_left(times, seconds), len(times) - 1)
    before = max(after - 1, 0)
    return before if seconds - times[before] <= times[after] - seconds + 1e-6 else after


def _stride(count: int, fps: float, target_fps: float, frames: int, skip: float) -> list[int]:
    """The selection of data_video.SFTDataset, at most ``frames`` indices.

    The step is an integer number of source frames, so 30 fps with a target of 8 becomes 10. From a video that is too
    short for the target rate, frames are selected at equal distances; from one with fewer frames than the clip, the
    largest 4k + 1 of them. Where upstream crashes, a source slower than the target is refused, and indices past the end
    are dropped.
    """
    start = int(skip)
    if count / fps * target_fps > frames:
        end = int(start + frames / target_fps * fps)
        step = (end - start) // frames
        if step == 0:
            raise VideoError(
                f"{fps:g} fps is less than data.params.fps ({target_fps:g}), which frame_selection: stride does not support "
                f"(upstream divides by zero); use frame_selection: timestamp, which repeats frames"
            )
        selected = range(start, min(end, count), step)
    elif count > frames:
        end = int(count - skip)
        selected = range(start, end, max((end - start) // frames, 1))
    else:
        usable = count - 2 * start
        selected = range(start, start + (usable - 3 if usable % 4 == 0 else usable - usable % 4 + 1))
    if not selected:
        raise VideoError(f"too short: {count} frames, of which {start} are skipped at either end")
    return list(selected[:frames])


def fit(source_size: Sequence[int], clip_size: Sequence[int]) -> Fit:
    """The resize and crop of a source (height, width) to ``clip_size`` (height, width): one side fits, the other is
    cropped."""
    (height, width), (tall, wide) = source_size, clip_size
    wider = width * tall > wide * height
    resize = [tall, width * tall // height] if wider else [height * wide // width, wide]
    return Fit(resize, [(resize[0] - tall) // 2, (resize[1] - wide) // 2])


def resize_and_crop(frame_HWC: Tensor, scale_and_crop: Fit, clip_size: Sequence[int]) -> Tensor:
    """uint8 (H, W, 3) to uint8 (3, *clip_size): bicubic with antialiasing in float32, then crop.

    Bit-identical to upstream's torchvision call. Integer arithmetic would be five times as fast, with errors of up to 3
    of 255. One planar frame at a time takes half the time of 16 frames at once, with identical results.
    """
    frame_CHW = frame_HWC.permute(2, 0, 1)
    if list(frame_CHW.shape[1:]) != scale_and_crop.resize:
        planes_1CHW = frame_CHW.contiguous().float()[None]
        resized_1CHW = torch.nn.functional.interpolate(
            planes_1CHW, size=scale_and_crop.resize, mode="bicubic", antialias=True, align_corners=False
        )
        frame_CHW = resized_1CHW[0].clamp_(0, 255).round_().to(torch.uint8)
    top, left = scale_and_crop.crop
    tall, wide = clip_size
    return frame_CHW[:, top : top + tall, left : left + wide].contiguous()


@dataclass(frozen=True)
class ClipSettings:
    """The keys of `data.params` that determine the pixels of a clip."""

    video_size: list[int]
    fps: float
    max_num_frames: int
    skip_frms_num: float
    frame_selection: str


def describe_clip(path: Path, settings: ClipSettings, decoder: Decoder) -> tuple[ClipPlan, Tensor]:
    """The plan of a clip and its pixels: uint8 (F, 3, H, W). Raises VideoError, OSError."""
    try:
        return _described(decoder.open(path), settings, decoder)
    except TimesError:
        return _described(decoder.open(path, decode_all=True), settings, decoder)


def _described(video: Opened, settings: ClipSettings, decoder: Decoder) -> tuple[ClipPlan, Tensor]:
    frames = plan_frames(
        video.times,
        video.fps,
        settings.fps,
        settings.max_num_frames,
        settings.skip_frms_num,
        settings.frame_selection,
    )
    scale_and_crop = fit(video.size, settings.video_size)
    pixels_FCHW = _pixels(frames.indices, scale_and_crop, settings.video_size, decoder)
    height, width = video.size
    source = SourceVideo(len(video.times), round(video.fps, 4), height, width, video.sample_aspect)
    return ClipPlan(**vars(frames), **vars(scale_and_crop), source=source, reader=decoder.reader), pixels_FCHW


def load_clip(path: str | Path, plan: ClipPlan, video_size: Sequence[int], decoder: Decoder | None = None) -> Tensor:
    """The pixels of a clip according to its row of preprocess: uint8 (F, 3, H, W).

    Pass a ``decoder`` to load several clips: starting one takes 0.2 s. Raises OSError, and VideoError, also for a frame
    that is not shown at the time in the row.
    """
    if decoder is None:
        with Decoder() as temporary_decoder:
            return load_clip(path, plan, video_size, temporary_decoder)
    decoder.open(Path(path))
    times = dict(zip(plan.indices, plan.timestamps, strict=True))
    return _pixels(plan.indices, plan, video_size, decoder, list(times.values()))


def to_unit_range(pixels: Tensor) -> Tensor:
    """Convert uint8 to float32 in [-1, 1], as upstream: (x - 127.5) / 127.5."""
    return (pixels.float() - 127.5) / 127.5


def _pixels(
    indices: Sequence[int],
    scale_and_crop: Fit,
    video_size: Sequence[int],
    decoder: Decoder,
    times: Sequence[float] | None = None,
) -> Tensor:
    distinct = list(dict.fromkeys(indices))
    frames_CHW = {
        index: resize_and_crop(torch.from_numpy(frame_HWC), scale_and_crop, video_size)
        for index, frame_HWC in zip(distinct, decoder.each(distinct, times), strict=True)
    }
    return torch.stack([frames_CHW[index] for index in indices])


def thumbnail(pixels_FCHW: Tensor, long_side: int = 128) -> Tensor:
    """The first frame, reduced to ``long_side`` pixels: uint8 (h, w, 3)."""
    height, width = pixels_FCHW.shape[2:]
    shrink = min(1.0, long_side / max(height, width))
    size = [max(1, math.floor(height * shrink)), max(1, math.floor(width * shrink))]
    small = torch.nn.functional.interpolate(pixels_FCHW[:1], size=size, mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).contiguous()

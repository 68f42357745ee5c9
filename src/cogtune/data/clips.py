"""Load the pixels of a clip from a video file: select frames (`frames.py`), resize and crop them.

The results of `plan_frames` and `fit` are stored in the clip's row, so that `load_clip` returns the same pixels later;
decoded frames are not stored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cogtune.data.decoder import Decoder, Opened
from cogtune.data.frames import fit, plan_frames
from cogtune.data.rows import ClipPlan, Fit, SourceVideo
from cogtune.data.video import TimesError


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

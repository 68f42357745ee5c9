"""Small videos for the tests, written by ffmpeg."""

import shutil
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np


def write_video(
    path: Path, frames: int = 24, fps: float = 8, size: tuple[int, int] = (32, 48), seed: int = 0, **more: Any
) -> Path:
    """A moving pattern; frame t is brighter than frame t - 1 in a square, so that frames can be told apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    phase = np.random.default_rng(seed).uniform(0, 6, size=3)
    video = np.stack([[80 + 60 * np.sin(x / (3 + seed) + y / 9 + t / 3 + p) for p in phase] for t in range(frames)])
    video[:, :, :8, :8] = brightness(np.arange(frames))[:, None, None, None]
    parameters = ["-crf", "6", *more.pop("output_params", [])]
    iio.imwrite(
        path, video.transpose(0, 2, 3, 1).astype(np.uint8), fps=fps, codec="libx264", macro_block_size=1,
        output_params=parameters, **more,
    )  # fmt: skip
    return path


def brightness(index: Any):
    """What the square of frame ``index`` shows, give or take a few levels; distinct for 50 frames."""
    return 5 * (index % 50)


def frame_numbers(pixels_FHWC: np.ndarray) -> list[int]:
    """Which frames of a `write_video` these are, read off their squares."""
    return [round(float(frame[2:6, 2:6].mean()) / 5) for frame in pixels_FHWC]


def damaged(source: Path, target: Path, kind: str) -> Path:
    """A copy of an mp4 with one kind of damage."""
    content = bytearray(source.read_bytes())
    if kind == "half":
        content = content[: len(content) // 2]
    elif kind == "tail":
        content = content[:-1]
    elif kind == "empty":
        content = bytearray()
    elif kind == "text":
        content = bytearray(b"this is not a video\n" * 40)
    elif kind == "noise":
        start = content.index(b"mdat") + 4
        end = content.index(b"moov") if content.index(b"moov") > start else len(content)
        content[start : end - 4] = np.random.default_rng(0).bytes(end - 4 - start)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(bytes(content))
    return target


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(source, target))

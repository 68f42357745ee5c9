"""Writes mp4 and png files for viewing. Metrics are never computed from them."""

from pathlib import Path
from typing import Any

from cogtune.data.container import is_whole
from cogtune.runtime.atomic import replacing
from cogtune.runtime.failures import cut_short


def write_mp4(path: Path, video_FHWC: Any, fps: float) -> None:
    """Write a uint8 (F, H, W, 3) array as H.264, 4:2:0, visually lossless (crf 14), atomically.

    Height and width must be even, as all sizes of the model are. Raises UserError if ffmpeg does not write the complete
    file: on a full disk it leaves a file without an index, and imageio does not check its exit code.
    """
    import imageio.v2 as imageio

    options: dict[str, Any] = {
        "fps": fps,
        "codec": "libx264",
        "pixelformat": "yuv420p",
        "macro_block_size": 1,
        "quality": None,
        "ffmpeg_log_level": "error",
        "output_params": ["-crf", "14", "-preset", "veryfast", "-threads", "1", "-movflags", "+faststart"],
    }
    with replacing(path, ".tmp.mp4") as temporary:
        try:
            imageio.mimwrite(temporary, list(video_FHWC), "FFMPEG", **options)  # pyright: ignore[reportArgumentType]
        except OSError as error:
            if "Broken pipe" not in str(error):  # imageio raises this error without an errno
                raise
            raise cut_short(path) from error
        if not is_whole(temporary):
            raise cut_short(path)


def write_png(path: Path, image_HWC: Any) -> None:
    """Write a uint8 (H, W, 3) array as PNG, atomically."""
    import imageio.v3 as iio

    with replacing(path, ".tmp.png") as temporary:
        iio.imwrite(temporary, image_HWC)

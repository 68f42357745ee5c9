"""Loads input images of image-to-video samples."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cogtune.data.clips import resize_and_crop
from cogtune.data.frames import fit
from cogtune.errors import UserError
from cogtune.runtime import git_lfs
from cogtune.runtime.failures import machine_error_message

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def load_image(path: Path, size: Sequence[int]) -> Tensor:
    """uint8 (3, height, width): the image resized and cropped to ``size`` (height, width) like the frames of clips.

    It is rotated according to its EXIF; transparency is dropped. Raises UserError for an unreadable image, or one of more
    than 179 million pixels (Pillow's limit against decompression bombs).
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as opened:
            picture_HWC = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        pointer = path.is_file() and git_lfs.is_pointer_file(path)
        why = git_lfs.advice(path) if pointer else f"cannot be read as an image ({', '.join(FORMATS)}): {error}"
        unread = f"{path}: {why}"
        raise UserError(machine_error_message(error, path) or unread) from None
    return resize_and_crop(torch.from_numpy(picture_HWC), fit(picture_HWC.shape[:2], size), size)

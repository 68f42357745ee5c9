"""Pictures that a video starts from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cogtune.data.clips import fit, resize_and_crop
from cogtune.errors import UserError
from cogtune.runtime import git_lfs
from cogtune.runtime.failures import machine_error_message

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def load_image(path: Path, size: Sequence[int]) -> Tensor:
    """uint8 (3, height, width), made to cover ``size`` (height, width) and cropped as the frames of clips are.

    Turned upright as its EXIF says; transparency is dropped. Raises UserError for what is no picture, or a picture of
    more than 179 million pixels (Pillow's bound against decompression bombs).
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as opened:
            picture_HWC = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        pointer = path.is_file() and git_lfs.is_pointer_file(path)
        why = git_lfs.advice(path) if pointer else f"cannot be read as a picture ({', '.join(FORMATS)}): {error}"
        unread = f"{path}: {why}"
        raise UserError(machine_error_message(error, path) or unread) from None
    return resize_and_crop(torch.from_numpy(picture_HWC), fit(picture_HWC.shape[:2], size), size)

"""How near a sample is to a clip, and which clip it is nearest to.

Videos are uint8 (F, 3, H, W). Squared errors are integers and stay exact, so a figure does not depend on the order in
which a library adds them up.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from cogtune.errors import UserError

PSNR_CAP_DB = 100.0
"""Reported for equal videos, whose PSNR is infinite; JSON has no infinity."""

_CHUNK = 1 << 18  # values per video in one float64 matrix product: 2 MB each


def psnr_db(video_FCHW: Tensor, reference_FCHW: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all frames at once, at most `PSNR_CAP_DB`.

    10 log10(255^2 / MSE). Equal videos give the cap. Raises UserError when the shapes differ.
    """
    _same_shape(video_FCHW, reference_FCHW)
    found = peak_signal_noise_ratio(video_FCHW.double(), reference_FCHW.double(), data_range=255.0)
    return min(float(found), PSNR_CAP_DB)


def ssim(video_FCHW: Tensor, reference_FCHW: Tensor) -> float:
    """Structural similarity (Wang et al. 2004, 11x11 Gaussian window), mean over frames: 1 for equal videos.

    Raises UserError when the shapes differ.
    """
    _same_shape(video_FCHW, reference_FCHW)
    found = structural_similarity_index_measure(video_FCHW.float(), reference_FCHW.float(), data_range=255.0)
    assert isinstance(found, Tensor)
    return float(found)


def squared_distances(videos: Sequence[Tensor], clip_FCHW: Tensor) -> Tensor:
    """Sum of squared pixel differences of each video to one clip: int64 (len(videos),).

    |v - c|^2 = |v|^2 + |c|^2 - 2 v.c as matrix products in float64, which hold these integers exactly (a term is at
    most 255^2, so up to 1e11 values per video). Raises UserError when the shapes differ.
    """
    for video_FCHW in videos:
        _same_shape(video_FCHW, clip_FCHW)
    total_S = torch.zeros(len(videos), dtype=torch.int64)
    clip_P = clip_FCHW.reshape(-1)
    flat = [video_FCHW.reshape(-1) for video_FCHW in videos]
    for start in range(0, clip_P.numel() if flat else 0, _CHUNK):
        block_SP = torch.stack([video_P[start : start + _CHUNK] for video_P in flat]).double()
        block_P = clip_P[start : start + _CHUNK].double()
        total_S += (block_SP.square().sum(1) + block_P.square().sum() - 2 * (block_SP @ block_P)).long()
    return total_S


def nearest(distances: dict[str, int], own: str) -> str:
    """The clip with the smallest distance; a tie goes to ``own``, then to the first name."""
    return min(distances, key=lambda clip: (distances[clip], clip != own, clip))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return sum(values) / len(values)


def _same_shape(video: Tensor, reference: Tensor) -> None:
    if video.shape != reference.shape:
        raise UserError(
            f"a video of {tuple(video.shape)} (frames, channels, height, width) cannot be compared with one of "
            f"{tuple(reference.shape)}; sample with the frames and size of the data set (data.params)"
        )

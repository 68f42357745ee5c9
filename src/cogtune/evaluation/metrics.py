"""Metrics of a sample: distances to clips, the nearest clip, and the table of all metrics.

Videos are uint8 (F, 3, H, W). Squared errors are exact integers, so the results do not depend on the order of summation.
Reports read the table without torch, so only the functions that compute import it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogtune.errors import UserError
from cogtune.work.variants import TUNED

if TYPE_CHECKING:
    from torch import Tensor

PSNR_CAP_DB = 100.0
"""Reported for equal videos, whose PSNR is infinite, because JSON has no infinity."""

_CHUNK = 1 << 18  # values per video in one float64 matrix product: 2 MB each


def psnr_db(video_FCHW: Tensor, reference_FCHW: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE) with the MSE over all frames, at most `PSNR_CAP_DB`.

    Raises UserError if the shapes differ.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    _same_shape(video_FCHW, reference_FCHW)
    psnr = peak_signal_noise_ratio(video_FCHW.double(), reference_FCHW.double(), data_range=255.0)
    return min(float(psnr), PSNR_CAP_DB)


def ssim(video_FCHW: Tensor, reference_FCHW: Tensor) -> float:
    """Structural similarity (Wang et al. 2004, 11x11 Gaussian window), mean over frames: 1 for equal videos.

    Raises UserError if the shapes differ.
    """
    from torch import Tensor
    from torchmetrics.functional.image import structural_similarity_index_measure

    _same_shape(video_FCHW, reference_FCHW)
    similarity = structural_similarity_index_measure(video_FCHW.float(), reference_FCHW.float(), data_range=255.0)
    assert isinstance(similarity, Tensor)  # a tuple with other options
    return float(similarity)


def squared_distances(videos: Sequence[Tensor], clip_FCHW: Tensor) -> Tensor:
    """Sum of squared pixel differences of each video to one clip: int64 (len(videos),).

    |v - c|^2 = |v|^2 + |c|^2 - 2 v.c as matrix products in float64, which hold these integers exactly (a term is at
    most 255^2, so up to 1e11 values per video). Raises UserError if the shapes differ.
    """
    import torch

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
            f"cannot compare videos of shapes {tuple(video.shape)} and {tuple(reference.shape)} (frames, channels, "
            f"height, width); sample with the frames and size of the data set (data.params)"
        )


@dataclass(frozen=True)
class Metric:
    """A figure of a sample, compared with its own clip. The figure of a variant is the mean over its samples.

    ``name``: in metrics.json and per_sample.json, with ``digits`` decimals. ``title`` and ``unit``: in tables, with
    ``table_digits`` decimals. ``compute``: computes the figure from a sample and its clip, both uint8 (F, 3, H, W); None
    for the share of samples that are nearest to their own clip, which needs all clips (`nearest`).
    """

    name: str
    title: str
    unit: str
    digits: int
    table_digits: int
    higher_is_better: bool
    compute: Callable[[Tensor, Tensor], float] | None

    def key(self, variant: str = TUNED) -> str:
        """The key of a variant's figure in metrics.json."""
        return f"samples.{self.name}" if variant == TUNED else f"samples.{self.name}_{variant}"


RETRIEVAL = Metric("retrieval_accuracy", "nearest to own clip", "", 4, 2, higher_is_better=True, compute=None)
PSNR = Metric("psnr_db", "PSNR", "dB", 3, 1, higher_is_better=True, compute=psnr_db)
SSIM = Metric("ssim", "SSIM", "", 4, 2, higher_is_better=True, compute=ssim)
METRICS = (RETRIEVAL, PSNR, SSIM)
"""In the order of the report's columns. A new metric needs a function, a row here, tests, and a higher version of the
stage `evaluate`, because its rows in the store change."""

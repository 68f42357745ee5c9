"""Data sets: clips and captions from the caches for training, or directly from folders."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from cogtune.config.schema.data import SFTDatasetParams
from cogtune.data.clips import ClipSettings, describe_clip
from cogtune.data.decoder import Decoder
from cogtune.data.listing import list_videos
from cogtune.data.rows import ImageRow, LatentRow, Pair, TextRow
from cogtune.data.scan import caption_of
from cogtune.data.store import ShardReader


class CachedDataset:
    """Pairs from the latent and text caches, memory-mapped, so that only requested rows are read.

    ``images_dir``: the cache of noised first frames, for image-to-video. Raises UserError if a pair has no row, because
    its stage did not finish or rejected the clip.
    """

    def __init__(
        self, latents_dir: Path, text_dir: Path, pairs: Sequence[Pair], images_dir: Path | None = None
    ) -> None:
        self.pairs = list(pairs)
        self._latents, self._text = ShardReader(latents_dir), ShardReader(text_dir)
        self._latents.require(pair.clip for pair in self.pairs)
        self._text.require(pair.caption_id for pair in self.pairs)
        if images_dir is not None:
            self._images = ShardReader(images_dir)
            self._images.require(pair.clip for pair in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def moments(self, index: int) -> Tensor:
        """(2C, T, h, w) in the encoder's precision: mean and log-variance, unscaled, unclamped."""
        return LatentRow.read(self._latents, self.pairs[index].clip).moments_CTHW

    def image(self, index: int) -> Tensor:
        """(K, 2C, h, w): moments of K noised copies of the clip's first frame, in the encoder's precision."""
        return ImageRow.read(self._images, self.pairs[index].clip).moments_KCHW

    def context(self, index: int) -> Tensor:
        """(L, D) in the encoder's precision: T5 states of the padded caption."""
        return TextRow.context(self._text, self.pairs[index].caption_id)


def settings_of(params: Any) -> ClipSettings:
    """The fields of `data.params`, or of another dataclass with these fields, that determine a clip's pixels."""
    return ClipSettings(**{field.name: getattr(params, field.name) for field in fields(ClipSettings)})


class SFTDataset:
    """A data folder (docs/data.md) as pixels and captions, without caches, for notebooks and checks.

    It reads like the stages. Accessing a video that `scan` or `preprocess` would reject raises VideoError or
    CaptionError. Items are those of upstream's data_video.SFTDataset.
    """

    def __init__(self, params: SFTDatasetParams, root: str | Path = ".") -> None:
        self.params = params
        self._videos = [video for video in list_videos(Path(root)) if video.refused is None]
        self._decoder = Decoder()

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``mp4``: float32 (F, 3, H, W) in [-1, 1]; ``txt``: the caption; ``num_frames``; ``fps``: that of the params."""
        video = self._videos[index]
        plan, pixels_FCHW = describe_clip(video.path, settings_of(self.params), self._decoder)
        return {
            "mp4": pixels_FCHW.float() / 127.5 - 1,
            "txt": caption_of(video, self.params.allow_missing_caption),
            "num_frames": plan.used_frames,
            "fps": self.params.fps,
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __del__(self) -> None:
        with suppress(AttributeError):
            self._decoder.close()

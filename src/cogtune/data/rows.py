"""Typed rows of the store: what each stage stores for a clip, a caption or a sample.

Only this file knows the keys of the store's JSON and the names of its tensors. A change of the format needs a higher
version of the stage in `work/stages.py`. ``add`` writes a row, ``read`` reads it; both invalid and damaged rows raise
DamagedError.

Shapes: C channels, D width of T5, F frames, H height, K draws, L tokens, T latent frames, W width. Plans and
reports read rows too, so torch is not imported before a tensor is needed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cogtune.data.store import ShardReader, ShardWriter
from cogtune.runtime.typed_json import from_json, to_json

if TYPE_CHECKING:
    from torch import Tensor

_MOMENTS, _CONTEXT, _VIDEO, _IMAGE = "moments", "context", "video", "image"


@dataclass(frozen=True)
class Pair:
    """A clip and its caption: the sha256 of each one's content, which is the name of its row."""

    clip: str
    caption_id: str


@dataclass(frozen=True)
class FramePlan:
    """The frames of a video that make up a clip, in order.

    ``timestamps``: seconds at which the source shows them. ``effective_fps``: rate of the motion in the clip, without
    padding. ``repeated``: number of frames equal to the previous one, because the source is slower than the clip.
    ``padded``: copies of the last frame at the end, because the source is too short (stride only).
    """

    indices: list[int]
    timestamps: list[float]
    effective_fps: float
    repeated: int
    padded: int


@dataclass(frozen=True)
class Fit:
    """``resize``: (height, width) that covers the clip, with the source's aspect; ``crop``: (top, left) of the centred
    crop."""

    resize: list[int]
    crop: list[int]


@dataclass(frozen=True)
class SourceVideo:
    """The source video of a clip. ``fps``: average rate; sizes in pixels; ``sample_aspect``: width to height of a
    pixel, missing in rows of version 0.1."""

    frames: int
    fps: float
    height: int
    width: int
    sample_aspect: str = "1:1"


@dataclass(frozen=True)
class ClipPlan(Fit, FramePlan):
    """Row of `preprocess` for a usable clip: all that `clips.load_clip` needs to load the same pixels.

    ``reader``: "pyav" or "decord", which decoded it; missing in rows of version 0.1.
    """

    source: SourceVideo
    reader: str = ""

    @property
    def used_frames(self) -> int:
        """Frames without the padding at the end."""
        return len(self.indices) - self.padded

    def first_frame(self) -> "ClipPlan":
        """The plan of a clip of the first frame only."""
        return replace(self, indices=self.indices[:1], timestamps=self.timestamps[:1])

    def add(self, writer: ShardWriter, clip: str, thumbnail_HWC: "Tensor") -> None:
        """Write the row, with a uint8 thumbnail of the first frame."""
        writer.add(clip, {"thumbnail": thumbnail_HWC}, to_json(self))


@dataclass(frozen=True)
class Rejected:
    """Row of `preprocess` for an unusable clip."""

    reason: str

    def add(self, writer: ShardWriter, clip: str) -> None:
        """Write the row."""
        writer.add(clip, {}, {"rejected": self.reason})


def prepared_rows(preprocess: ShardReader, clips: Iterable[str]) -> Iterator[tuple[str, ClipPlan | Rejected]]:
    """(clip, its row of `preprocess`), shard by shard. Raises UserError for a missing row."""
    return preprocess.rows(clips, _prepared)


def clip_plan(preprocess: ShardReader, clip: str) -> ClipPlan:
    """The plan of a clip that was not rejected. Raises DamagedError."""
    return preprocess.row(clip, partial(from_json, ClipPlan))


def clip_plans(preprocess: ShardReader, clips: Iterable[str]) -> dict[str, ClipPlan]:
    """The plans of clips that were not rejected. Raises DamagedError."""
    return dict(preprocess.rows(clips, partial(from_json, ClipPlan)))


def _prepared(meta: dict[str, Any]) -> ClipPlan | Rejected:
    if "rejected" not in meta:
        return from_json(ClipPlan, meta)
    if not isinstance(meta["rejected"], str):
        raise ValueError(f"rejected: expected a string, found {meta['rejected']!r}"[:80])
    return Rejected(meta["rejected"])


@dataclass(frozen=True)
class LatentRow:
    """Row of `latents`. ``moments``: (2C, T, h, w) in the encoder's precision: mean and log-variance of the VAE,
    unscaled and unclamped."""

    moments_CTHW: "Tensor"

    def add(self, writer: ShardWriter, clip: str) -> None:
        """Write the row."""
        writer.add(clip, {_MOMENTS: self.moments_CTHW})

    @classmethod
    def read(cls, latents: ShardReader, clip: str) -> "LatentRow":
        """The row of a clip, memory mapped: copy before changing it."""
        return cls(latents.tensor(clip, _MOMENTS, dimensions=4))


@dataclass(frozen=True)
class ImageRow:
    """Row of `images`. ``moments``: (K, 2C, h, w): of K noised copies of the clip's first frame."""

    moments_KCHW: "Tensor"

    def add(self, writer: ShardWriter, clip: str) -> None:
        """Write the row."""
        writer.add(clip, {_MOMENTS: self.moments_KCHW})

    @classmethod
    def read(cls, images: ShardReader, clip: str) -> "ImageRow":
        """The row of a clip, memory mapped: copy before changing it."""
        return cls(images.tensor(clip, _MOMENTS, dimensions=4))


@dataclass(frozen=True)
class TextRow:
    """Row of `text` without its tensor. ``truncated``: the caption has more tokens than the context."""

    tokens: int
    truncated: bool

    def add(self, writer: ShardWriter, caption_id: str, context_LD: "Tensor") -> None:
        """Write the row. ``context``: (L, D), T5's states of the padded caption, in the encoder's precision."""
        writer.add(caption_id, {_CONTEXT: context_LD}, to_json(self))

    @classmethod
    def read_all(cls, text: ShardReader, caption_ids: Iterable[str]) -> Iterator[tuple[str, "TextRow"]]:
        """(caption id, row), shard by shard."""
        return text.rows(caption_ids, partial(from_json, cls))

    @staticmethod
    def context(text: ShardReader, caption_id: str) -> "Tensor":
        """(L, D), memory mapped: copy before changing it."""
        return text.tensor(caption_id, _CONTEXT, dimensions=2)


@dataclass(frozen=True)
class SampleRow:
    """Row of `sample` without its tensors. ``prompt``: its id. ``caption``: the prompt's text. ``clip``: None for a
    prompt of the user. ``context``: id of the caption that the network used, None for no caption."""

    prompt: str
    variant: str
    caption: str
    clip: str | None
    context: str | None

    def add(self, writer: ShardWriter, item: str, video_FCHW: "Tensor", image_CHW: "Tensor | None" = None) -> None:
        """Write the row. ``video``: uint8 (F, 3, H, W); ``image``: uint8 (3, H, W), the input image of an
        image-to-video sample."""
        image = {} if image_CHW is None else {_IMAGE: image_CHW}
        writer.add(item, {_VIDEO: video_FCHW, **image}, to_json(self))

    @classmethod
    def read_all(cls, sample: ShardReader, items: Iterable[str]) -> Iterator[tuple[str, "SampleRow"]]:
        """(name of the sample, row), shard by shard."""
        return sample.rows(items, partial(from_json, cls))

    @staticmethod
    def video(sample: ShardReader, item: str) -> "Tensor":
        """uint8 (F, 3, H, W), memory mapped: copy before changing it."""
        return sample.tensor(item, _VIDEO, dimensions=4)

    @staticmethod
    def image(sample: ShardReader, item: str) -> "Tensor":
        """uint8 (3, H, W), memory mapped: copy before changing it."""
        return sample.tensor(item, _IMAGE, dimensions=3)


@dataclass(frozen=True)
class EvaluationRow:
    """Row of `evaluate`: figures computed from a clip's pixels.

    ``vae_psnr_db``: of the clip's reconstruction. ``distances``: sum of squared pixel differences to every sample, by
    sample name; training clips only. ``own``: figures of the samples of this clip's prompt, by sample name and metric.
    """

    vae_psnr_db: float
    distances: dict[str, int]
    own: dict[str, dict[str, float]]

    def add(self, writer: ShardWriter, clip: str) -> None:
        """Write the row."""
        import torch

        psnr = torch.tensor(self.vae_psnr_db, dtype=torch.float64)
        writer.add(clip, {"vae_psnr_db": psnr}, to_json(self))

    @classmethod
    def read_all(cls, evaluate: ShardReader, clips: Iterable[str]) -> Iterator[tuple[str, "EvaluationRow"]]:
        """(clip, row), shard by shard."""
        return evaluate.rows(clips, partial(from_json, cls))

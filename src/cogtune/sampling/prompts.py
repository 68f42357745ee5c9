"""The prompts of a sample job, their order and their batches."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cogtune.data.prompt_file import read_prompts
from cogtune.errors import UserError
from cogtune.work.inputs import SampleInput
from cogtune.work.variants import Variant

ID_DIGITS = 16
"""Hex digits of a clip's and a caption's digest in the id of a sample: 64 bits each."""


class ManifestRow(Protocol):
    """The fields of a manifest row that are used here."""

    @property
    def clip(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def caption_id(self) -> str: ...
    @property
    def split(self) -> str: ...


@dataclass(frozen=True)
class Prompt:
    """One caption to sample. ``id`` names its files and keys its noise; ``caption_id`` is the sha256 of the caption;
    ``clip`` is the sha256 of the captioned clip, or None for a prompt from a file; ``image`` is the input image that the
    prompt file names."""

    id: str
    caption: str
    caption_id: str
    clip: str | None = None
    image: Path | None = None


def of_data_set(pairs: Sequence[ManifestRow], count: int | None) -> list[Prompt]:
    """The first ``count`` (None: all) distinct training pairs in manifest order."""
    training = {(row.clip, row.caption_id): row for row in pairs if row.split == "train"}
    prompts = [
        Prompt(f"{row.clip[:ID_DIGITS]}-{row.caption_id[:ID_DIGITS]}", row.caption, row.caption_id, row.clip)
        for row in training.values()
    ]
    return prompts if count is None else prompts[:count]


def own_prompt(caption: str, number: int = 0, image: Path | None = None) -> Prompt:
    """A prompt that is not from the data set; ``number`` is its line in a prompt file."""
    return Prompt(f"prompt-{number:05d}", caption, hashlib.sha256(caption.encode()).hexdigest(), image=image)


def of_file(path: str | Path, with_images: bool = False) -> list[Prompt]:
    """The prompts of a file, one per line; ``with_images``: as ``caption@@image``. Raises UserError for an invalid file."""
    return [own_prompt(line.caption, i, line.image) for i, line in enumerate(read_prompts(path, with_images))]


def context_id(prompts: Sequence[Prompt], index: int, variant: Variant) -> str | None:
    """The id of the caption that conditions the sample of prompt ``index``; None: the zero context."""
    if variant.context == "none":
        return None
    return prompts[(index + (variant.context == "next")) % len(prompts)].caption_id


def item_id(prompt: Prompt, variant: Variant) -> str:
    """The id of a sample's row in the store."""
    return f"{prompt.id}.{variant.name}"


def prompt_batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Indices of the prompts in each batch.

    They do not depend on which samples exist: results can differ in the last bit with the composition of a batch, and a
    resumed run must give the same bytes.
    """
    for start in range(0, len(prompts), max(1, size)):
        yield list(range(start, min(start + max(1, size), len(prompts))))


def select_prompts(settings: SampleInput, pairs: Sequence[ManifestRow]) -> list[Prompt]:
    """The prompts of a sample job: from the data set, or with ``input_type: txt`` from ``input_file``. Raises UserError if
    there are none."""
    if settings.input_type == "txt":
        assert settings.input_file is not None, "checked by the config check"
        return of_file(settings.input_file, settings.file_has_images)
    prompts = of_data_set(pairs, settings.count)
    if not prompts:
        raise UserError("args.sampling_count: no caption to sample; expected at least 1, or null for all of them")
    return prompts

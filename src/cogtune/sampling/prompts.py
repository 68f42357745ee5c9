"""What is sampled: which captions, and in which order."""

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
    """What is needed of a manifest row."""

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
    """One caption to sample. ``id`` names its files and its noise; ``clip`` is the sha256 of the clip that the caption
    describes, or None for a prompt of the user's own; ``caption_id`` is the sha256 of the caption; ``image`` is the
    picture to start from that a prompt file names."""

    id: str
    caption: str
    caption_id: str
    clip: str | None = None
    image: Path | None = None


def of_data_set(pairs: Sequence[ManifestRow], count: int | None) -> list[Prompt]:
    """The first ``count`` (None: all) different training pairs in manifest order."""
    training = {(row.clip, row.caption_id): row for row in pairs if row.split == "train"}
    prompts = [
        Prompt(f"{row.clip[:ID_DIGITS]}-{row.caption_id[:ID_DIGITS]}", row.caption, row.caption_id, row.clip)
        for row in training.values()
    ]
    return prompts if count is None else prompts[:count]


def own_prompt(caption: str, number: int = 0, image: Path | None = None) -> Prompt:
    """A prompt of the user's own, the one in line ``number`` of a file."""
    return Prompt(f"prompt-{number:05d}", caption, hashlib.sha256(caption.encode()).hexdigest(), image=image)


def of_file(path: str | Path, with_images: bool = False) -> list[Prompt]:
    """The lines of a prompt file; ``with_images``: each of them ``caption@@image``. Raises UserError."""
    return [own_prompt(line.caption, i, line.image) for i, line in enumerate(read_prompts(path, with_images))]


def context_id(prompts: Sequence[Prompt], index: int, variant: Variant) -> str | None:
    """Which caption the network is shown for prompt ``index``; None: the zero context."""
    if variant.context == "none":
        return None
    return prompts[(index + (variant.context == "next")) % len(prompts)].caption_id


def item_id(prompt: Prompt, variant: Variant) -> str:
    """The name of a sample in the store."""
    return f"{prompt.id}.{variant.name}"


def batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Indices of the prompts that share a batch.

    They do not depend on what is finished already: arithmetic can differ in the last bit with the batch's make-up, and
    a resumed run shall give the same bytes.
    """
    for start in range(0, len(prompts), max(1, size)):
        yield list(range(start, min(start + max(1, size), len(prompts))))


def chosen(given: SampleInput, pairs: Sequence[ManifestRow]) -> list[Prompt]:
    """The prompts that a sample job is asked for: those of the data set, or with ``input_type: txt`` those of
    ``input_file``. Raises UserError when there are none."""
    if given.input_type == "txt":
        assert given.input_file is not None, "the config check sees to it"
        return of_file(given.input_file, given.file_has_images)
    prompts = of_data_set(pairs, given.count)
    if not prompts:
        raise UserError("args.sampling_count: no caption to sample; expected at least 1, or null for all of them")
    return prompts

"""Stage `sample`: videos from captions, by the trained model and by the controls that it is measured against."""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from cogtune.data.clips import load_clip
from cogtune.data.container import is_whole
from cogtune.data.decoder import Decoder
from cogtune.data.images import load_image
from cogtune.data.pipeline import in_batches
from cogtune.data.rows import SampleRow, TextRow, clip_plan
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.data.video import VideoError
from cogtune.errors import UserError
from cogtune.runtime.devices import set_threads
from cogtune.runtime.failures import told_of_environment
from cogtune.runtime.progress import Progress
from cogtune.runtime.saved import SUMS
from cogtune.runtime.sums import names_in_sums, write_sums
from cogtune.sampling import prompts as plan
from cogtune.sampling.generate import Generator, encode_image, samplers
from cogtune.sampling.prompts import Prompt
from cogtune.sampling.video import write_mp4, write_png
from cogtune.stages.job import Job
from cogtune.stages.sampled_models import SampledModels
from cogtune.work.content_hashes import Source, proven
from cogtune.work.inputs import SampleInput
from cogtune.work.variants import Variant, variants

VIDEOS = "videos"
"""Folder of the view copies, <prompt id>.<variant>.mp4."""
IMAGES = "images"
"""Folder of what image-to-video samples started from, <prompt id>.png."""
_VIEWS_AT_ONCE = 64
"""Views that are written between two writes of their checksums; a kill makes no more of them again."""


def run(job: Job[SampleInput]) -> dict[str, Any]:
    """Make what the store lacks of each prompt's variants: shards for the evaluation, mp4 files for people.

    A finished batch is stored, so a kill loses at most one flush. Raises UserError for settings that do not work.
    """
    folder = job.job_dir()
    set_threads(job.ranks * job.input.threads)
    prompts, sampled = _asked(job)
    wanted = wanted_of(job)
    lacking = wanted - job.rows().ids()
    if lacking:
        _Work(job, prompts, sampled, lacking).make()
    _write_views(folder, wanted, job.input.fps)
    if SampledModels(job).takes_images:
        _write_images(folder, wanted)
    return {
        "made": len(lacking),
        "reused": len(wanted) - len(lacking),
        "variants": [variant.name for variant in sampled],
    }


def wanted_of(job: Job[SampleInput]) -> set[str]:
    """The names of all rows that the sample job ``job`` makes."""
    prompts, sampled = _asked(job)
    return {plan.item_id(prompt, variant) for variant in sampled for prompt in prompts}


def _asked(job: Job[SampleInput]) -> tuple[list[Prompt], list[Variant]]:
    given = job.input
    with job.proven("args.input_file"):
        prompts = plan.chosen(given, job.manifest() if "scan" in job.upstream else [])
    return prompts, variants(given.controls, given.guided, len(prompts))


class _Work:
    """Everything that is loaded once for all variants."""

    def __init__(
        self, job: Job[SampleInput], prompts: list[Prompt], variants: list[Variant], lacking: set[str]
    ) -> None:
        self.job, self.prompts, self.lacking = job, prompts, lacking
        self.variants = sorted(variants, key=lambda variant: variant.weights, reverse=True)  # tuned first
        self.given, self.models = job.input, SampledModels(job)
        self.samplers = samplers(self.given.sampler, self.given.steps)
        self.contexts = _contexts(job, prompts)
        self.images = _images(job, prompts) if self.models.takes_images else {}
        self.latents: dict[str, Tensor] = {}

    def make(self) -> None:
        """Sample variant by variant, each in batches that do not depend on what is finished."""
        self.latents = {
            name: encode_image(self.models.vae, pixels_CHW, self.given.seed, name)
            for name, pixels_CHW in self.images.items()
        }
        batches = list(plan.batches(self.prompts, self.given.batch))
        steps = self.samplers[True].params.num_steps
        todo = [(v, batch) for v in self.variants for batch in batches if self._lacks(v, batch)]
        total = steps * sum(len(batch) for _, batch in todo)
        with self._writer() as writer, self.job.progress(total, "sample", "steps") as bar:
            for weights, group in groupby(todo, key=lambda pair: pair[0].weights):
                generator = self.models.generator(weights)
                for variant, batch in group:
                    self._batch(generator, variant, batch, writer, bar)

    def _writer(self) -> ShardWriter:
        return ShardWriter(self.job.job_dir(), self.given.flush_megabytes, self.given.flush_seconds)

    def _lacks(self, variant: Variant, batch: list[int]) -> bool:
        return any(plan.item_id(self.prompts[i], variant) in self.lacking for i in batch)

    def _batch(
        self, generator: Generator, variant: Variant, batch: list[int], writer: ShardWriter, bar: Progress
    ) -> None:
        seen = [plan.context_id(self.prompts, i, variant) for i in batch]
        zeros = torch.zeros_like(next(iter(self.contexts.values())))
        context_BLD = torch.stack([zeros if name is None else self.contexts[name] for name in seen])
        chosen = [self.prompts[i] for i in batch]
        sampler, ids = self.samplers[variant.guided], [prompt.id for prompt in chosen]
        images_BCHW = torch.stack([self.latents[name] for name in ids]) if self.latents else None
        videos = generator.videos(ids, context_BLD, sampler, images_BCHW, on_step=lambda *_: bar.advance(len(ids)))
        for prompt, caption_id, video_FCHW in zip(chosen, seen, videos, strict=True):
            item = plan.item_id(prompt, variant)
            if item in self.lacking:
                row = SampleRow(prompt.id, variant.name, prompt.caption, prompt.clip, caption_id)
                row.add(writer, item, video_FCHW, self.images[prompt.id] if self.images else None)


def _contexts(job: Job[SampleInput], prompts: list[Prompt]) -> dict[str, Tensor]:
    """caption id -> (L, D). Captions of the data set are in the text cache; a user's own prompts are encoded now."""
    known: set[str] = set()
    found: dict[str, Tensor] = {}
    if "text" in job.upstream:
        cached = job.rows("text")
        known = {row.caption_id for row in job.manifest()} & {prompt.caption_id for prompt in prompts}
        cached.require(known)
        found = {caption: TextRow.context(cached, caption) for caption in sorted(known)}
    own = [p for p in {p.caption_id: p for p in prompts}.values() if p.caption_id not in known]
    if own:
        encoded = SampledModels(job).encode([prompt.caption for prompt in own])
        found |= {prompt.caption_id: context_LD for prompt, context_LD in zip(own, encoded, strict=True)}
    return found


def _images(job: Job[SampleInput], prompts: list[Prompt]) -> dict[str, Tensor]:
    """prompt id -> uint8 (3, H, W) of what an image-to-video model starts from: the picture that the prompt file names,
    or the clip's own first frame."""
    size = job.input.video_size
    if "images" not in job.upstream:
        with job.proven("args.input_file"):
            return {prompt.id: load_image(prompt.image, size) for prompt in prompts if prompt.image is not None}
    source, found = job.upstream_job("images"), {}
    prepared, paths = source.rows("preprocess"), {row.clip: row.path for row in job.manifest()}
    with Decoder() as decoder:
        for prompt in prompts:
            if prompt.image is not None:
                with job.proven("args.input_file"):
                    found[prompt.id] = load_image(prompt.image, size)
            elif prompt.clip is not None:
                first_frame = clip_plan(prepared, prompt.clip).first_frame()
                try:
                    with proven([Source(paths[prompt.clip], f"sha256:{prompt.clip}")]):
                        found[prompt.id] = load_clip(paths[prompt.clip], first_frame, size, decoder)[0]
                except (VideoError, OSError) as error:
                    gone = f"{paths[prompt.clip]}: its first frame cannot be read now: {error}"
                    raise UserError(told_of_environment(error, paths[prompt.clip]) or gone) from None
    return found


def _write_views(folder: Path, wanted: set[str], fps: float) -> None:
    """An mp4 of each sample that has none yet, or one that was cut off, under its id."""
    reader, lock = ShardReader(folder), Lock()
    views = {item: folder / VIDEOS / f"{item}.mp4" for item in sorted(wanted)}
    missing = _missing_views(folder, views)

    def write(item: str) -> Path:
        with lock:  # a reader is not made for threads
            video_FCHW = SampleRow.video(reader, item)
        write_mp4(views[item], video_FCHW.permute(0, 2, 3, 1).numpy(), fps)
        return views[item]

    with ThreadPoolExecutor(2) as pool:  # each waits for an ffmpeg process most of the time
        for batch in in_batches(missing, _VIEWS_AT_ONCE):
            _list_views(folder, list(pool.map(write, batch)))


def _write_images(folder: Path, wanted: set[str]) -> None:
    """A png of the image of each prompt that has none yet, under the prompt's id."""
    reader = ShardReader(folder)
    rows = dict(sorted(SampleRow.read_all(reader, wanted)))
    views = {item: folder / IMAGES / f"{row.prompt}.png" for item, row in rows.items()}
    missing = {views[item]: item for item in _missing_views(folder, views)}
    for path, item in missing.items():
        write_png(path, SampleRow.image(reader, item).permute(1, 2, 0).numpy())
    _list_views(folder, missing)


def _missing_views(folder: Path, views: Mapping[str, Path]) -> list[str]:
    """The items whose view is not there whole, or has no checksum because a run was killed before it wrote one. Views of
    an earlier version have none, and are left as they are."""
    if not any((folder / name).is_dir() for name in (VIDEOS, IMAGES)) and not (folder / SUMS).exists():
        write_sums(folder)
    listed = names_in_sums(folder)
    return [
        item
        for item, view in views.items()
        if not (is_whole(view) if view.suffix == ".mp4" else view.exists())
        or (listed is not None and view.relative_to(folder).as_posix() not in listed)
    ]


def _list_views(folder: Path, views: Collection[Path]) -> None:
    """Add their checksums, unless an earlier version began this folder and kept none."""
    if views and names_in_sums(folder) is not None:
        write_sums(folder, views)

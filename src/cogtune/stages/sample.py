"""Stage `sample`: generates videos from captions with the trained model, and with the controls of its evaluation."""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import cast

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
from cogtune.runtime.devices import prepare_torch
from cogtune.runtime.failures import machine_error_message
from cogtune.runtime.progress import Progress
from cogtune.runtime.saved import SUMS
from cogtune.runtime.sums import names_in_sums, write_sums
from cogtune.sampling.generate import Generator, encode_image, samplers
from cogtune.sampling.prompts import Prompt, context_id, item_id, prompt_batches, select_prompts
from cogtune.sampling.video import write_mp4, write_png
from cogtune.stages.job import Job
from cogtune.stages.make_rows import make_rows
from cogtune.stages.run_counts import RunCounts
from cogtune.stages.sampled_models import SampledModels
from cogtune.work.content_hashes import Source, proven
from cogtune.work.inputs import PromptedInput, SampleInput
from cogtune.work.variants import Variant, variants

VIDEOS = "videos"
"""Folder of mp4 copies for viewing, <prompt id>.<variant>.mp4."""
IMAGES = "images"
"""Folder of the input images of image-to-video samples, <prompt id>.png."""
_VIEWS_PER_BATCH = 64
"""Viewing copies written before their checksums are saved; after a kill at most this many are written again."""


@dataclass(frozen=True, kw_only=True)
class SampleCounts(RunCounts):
    """``variants``: names of the variants that were sampled."""

    variants: list[str]


def run(job: Job[SampleInput]) -> RunCounts:
    """Generate the samples that the store lacks: shards for the evaluation, mp4 files for viewing.

    Finished batches are stored, so a kill loses at most one flush. Raises UserError for invalid settings.
    """
    if isinstance(job.input, PromptedInput):
        from cogtune.stages.own_prompts import make_videos

        return make_videos(cast("Job[PromptedInput]", job))
    folder = job.job_dir()
    prepare_torch(job.ranks * job.input.threads)
    prompts, sampled = prompts_and_variants(job)
    ids = sample_ids(job)
    units = [[item_id(prompts[i], v) for i in batch] for v, batch in _batches(job, prompts, sampled)]
    counts = make_rows(job, units, lambda missing: _SampleRun(job, prompts, sampled, set(missing)).make())
    if job.part:
        return counts  # views and their checksums are written by one job, for all parts
    write_views(folder, ids, job.input.fps)
    if SampledModels(job).takes_images:
        write_images(folder, ids)
    return SampleCounts(
        made=counts.made,
        reused=counts.reused,
        variants=[variant.name for variant in sampled],
    )


def sample_ids(job: Job[SampleInput]) -> set[str]:
    """The ids of all rows of the sample job ``job``."""
    prompts, sampled = prompts_and_variants(job)
    return {item_id(prompt, variant) for variant in sampled for prompt in prompts}


def prompts_and_variants(job: Job[SampleInput]) -> tuple[list[Prompt], list[Variant]]:
    """What the job samples: every prompt in every variant. Raises UserError for an invalid prompt file."""
    settings = job.input
    with job.proven("args.input_file"):
        prompts = select_prompts(settings, job.manifest() if "scan" in job.upstream else [])
    return prompts, variants(settings.controls, settings.guided, len(prompts))


def _batches(job: Job[SampleInput], prompts: list[Prompt], sampled: list[Variant]) -> list[tuple[Variant, list[int]]]:
    """(variant, indices of prompts) of each batch: all of the tuned model first, so that few parts load two models.

    The composition of a batch does not depend on which samples exist.
    """
    by_weights = sorted(sampled, key=lambda variant: variant.weights, reverse=True)
    return [(variant, batch) for variant in by_weights for batch in prompt_batches(prompts, job.input.batch)]


class _SampleRun:
    """The models and inputs that are loaded once for all variants."""

    def __init__(
        self, job: Job[SampleInput], prompts: list[Prompt], variants: list[Variant], missing: set[str]
    ) -> None:
        self.job, self.prompts, self.missing = job, prompts, missing
        self.pending = [(v, batch) for v, batch in _batches(job, prompts, variants) if self._lacks(v, batch)]
        self.settings, self.models = job.input, SampledModels(job)
        self.samplers = samplers(self.settings.sampler, self.settings.steps)
        self.contexts = _contexts(job, prompts)
        used = sorted({i for _, batch in self.pending for i in batch})
        self.images = _images(job, [prompts[i] for i in used]) if self.models.takes_images else {}
        self.latents: dict[str, Tensor] = {}

    def make(self) -> None:
        """Sample variant by variant, each model once."""
        self.latents = {
            name: encode_image(self.models.vae, pixels_CHW, self.settings.seed, name)
            for name, pixels_CHW in self.images.items()
        }
        steps = self.samplers[True].params.num_steps
        total = steps * sum(len(batch) for _, batch in self.pending)
        with self._writer() as writer, self.job.progress(total, "sample", "steps") as bar:
            for weights, group in groupby(self.pending, key=lambda pair: pair[0].weights):
                generator = self.models.generator(weights)
                for variant, batch in group:
                    self._batch(generator, variant, batch, writer, bar)

    def _writer(self) -> ShardWriter:
        return ShardWriter(self.job.job_dir(), self.settings.flush_megabytes, self.settings.flush_seconds)

    def _lacks(self, variant: Variant, batch: list[int]) -> bool:
        return any(item_id(self.prompts[i], variant) in self.missing for i in batch)

    def _batch(
        self, generator: Generator, variant: Variant, batch: list[int], writer: ShardWriter, bar: Progress
    ) -> None:
        caption_ids = [context_id(self.prompts, i, variant) for i in batch]
        zeros = torch.zeros_like(next(iter(self.contexts.values())))
        context_BLD = torch.stack([zeros if name is None else self.contexts[name] for name in caption_ids])
        batch_prompts = [self.prompts[i] for i in batch]
        sampler, ids = self.samplers[variant.guided], [prompt.id for prompt in batch_prompts]
        images_BCHW = torch.stack([self.latents[name] for name in ids]) if self.latents else None
        videos = generator.videos(ids, context_BLD, sampler, images_BCHW, on_step=lambda *_: bar.advance(len(ids)))
        for prompt, caption_id, video_FCHW in zip(batch_prompts, caption_ids, videos, strict=True):
            item = item_id(prompt, variant)
            if item in self.missing:
                row = SampleRow(prompt.id, variant.name, prompt.caption, prompt.clip, caption_id)
                row.add(writer, item, video_FCHW, self.images[prompt.id] if self.images else None)


def _contexts(job: Job[SampleInput], prompts: list[Prompt]) -> dict[str, Tensor]:
    """caption id -> (L, D). Captions of the data set are cached by the text stage; other prompts are encoded here."""
    contexts: dict[str, Tensor] = {}
    if "text" in job.upstream:
        rows = job.rows("text")
        cached = {row.caption_id for row in job.manifest()} & {prompt.caption_id for prompt in prompts}
        rows.require(cached)
        contexts = {caption: TextRow.context(rows, caption) for caption in sorted(cached)}
    uncached = [p for p in {p.caption_id: p for p in prompts}.values() if p.caption_id not in contexts]
    if uncached:
        encoded = SampledModels(job).encode([prompt.caption for prompt in uncached])
        contexts |= {prompt.caption_id: context_LD for prompt, context_LD in zip(uncached, encoded, strict=True)}
    return contexts


def _images(job: Job[SampleInput], prompts: list[Prompt]) -> dict[str, Tensor]:
    """prompt id -> uint8 (3, H, W), the input image of an image-to-video model: the picture named in the prompt file, or
    the clip's first frame."""
    size = job.input.video_size
    if "images" not in job.upstream:
        with job.proven("args.input_file"):
            return {prompt.id: load_image(prompt.image, size) for prompt in prompts if prompt.image is not None}
    images: dict[str, Tensor] = {}
    prepared = job.upstream_job("images").rows("preprocess")
    paths = {row.clip: row.path for row in job.manifest()}
    with Decoder() as decoder:
        for prompt in prompts:
            if prompt.image is not None:
                with job.proven("args.input_file"):
                    images[prompt.id] = load_image(prompt.image, size)
            elif prompt.clip is not None:
                first_frame = clip_plan(prepared, prompt.clip).first_frame()
                try:
                    with proven([Source(paths[prompt.clip], f"sha256:{prompt.clip}")]):
                        images[prompt.id] = load_clip(paths[prompt.clip], first_frame, size, decoder)[0]
                except (VideoError, OSError) as error:
                    unreadable = f"{paths[prompt.clip]}: the first frame cannot be read any more: {error}"
                    raise UserError(machine_error_message(error, paths[prompt.clip]) or unreadable) from None
    return images


def write_views(folder: Path, ids: set[str], fps: float) -> None:
    """Write an mp4 file for each sample whose file is missing or truncated."""
    reader, lock = ShardReader(folder), Lock()
    views = {item: folder / VIDEOS / f"{item}.mp4" for item in sorted(ids)}
    missing = _missing_views(folder, views)

    def write(item: str) -> Path:
        with lock:  # ShardReader is not thread-safe
            video_FCHW = SampleRow.video(reader, item)
        write_mp4(views[item], video_FCHW.permute(0, 2, 3, 1).numpy(), fps)
        return views[item]

    with ThreadPoolExecutor(2) as pool:  # each thread mostly waits for an ffmpeg process
        for batch in in_batches(missing, _VIEWS_PER_BATCH):
            _add_sums(folder, list(pool.map(write, batch)))


def write_images(folder: Path, ids: set[str]) -> None:
    """Write a png file for each prompt whose file is missing, named by the prompt's id."""
    reader = ShardReader(folder)
    rows = dict(sorted(SampleRow.read_all(reader, ids)))
    views = {item: folder / IMAGES / f"{row.prompt}.png" for item, row in rows.items()}
    missing = {views[item]: item for item in _missing_views(folder, views)}
    for path, item in missing.items():
        write_png(path, SampleRow.image(reader, item).permute(1, 2, 0).numpy())
    _add_sums(folder, missing)


def _missing_views(folder: Path, views: Mapping[str, Path]) -> list[str]:
    """The items whose view is missing, truncated, or without a checksum because a run was killed before it wrote one.
    Views of earlier versions have no checksums and are not written again."""
    if not any((folder / name).is_dir() for name in (VIDEOS, IMAGES)) and not (folder / SUMS).exists():
        write_sums(folder)
    listed = names_in_sums(folder)
    return [
        item
        for item, view in views.items()
        if not (is_whole(view) if view.suffix == ".mp4" else view.exists())
        or (listed is not None and view.relative_to(folder).as_posix() not in listed)
    ]


def _add_sums(folder: Path, views: Collection[Path]) -> None:
    """Add checksums of ``views``, unless the folder is from an earlier version that did not write checksums."""
    if views and names_in_sums(folder) is not None:
        write_sums(folder, views)

"""Stage `preprocess`: selects the frames of every clip and checks that they decode. Stores thumbnails but no frames."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cogtune.data.clips import describe_clip, thumbnail
from cogtune.data.dataset import settings_of
from cogtune.data.decoder import Decoder
from cogtune.data.listing import ClipRow
from cogtune.data.pipeline import decode_ahead, retry_damaged
from cogtune.data.rows import ClipPlan, Rejected, prepared_rows
from cogtune.data.store import ShardWriter
from cogtune.data.video import VideoError
from cogtune.errors import UserError
from cogtune.runtime.devices import prepare_torch
from cogtune.runtime.failures import machine_error_message
from cogtune.stages.job import Job
from cogtune.stages.make_rows import make_rows
from cogtune.stages.run_counts import RunCounts
from cogtune.work.content_hashes import Source, proven
from cogtune.work.inputs import PreprocessInput

_MAX_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class PreprocessCounts(RunCounts):
    """``effective_fps_least``, ``effective_fps_most``: of the clips that were not rejected."""

    rejected: int
    effective_fps_least: float
    effective_fps_most: float


def run(job: Job[PreprocessInput]) -> RunCounts:
    """One row per clip of the manifest: its ClipPlan, or Rejected.

    A clip that fails to decode gets a Rejected row, so it is not decoded again. Raises UserError for a file that cannot
    be read, and if all clips are rejected.
    """
    # Clips are resized in parallel, one per thread; more threads per clip would only compete for the cores.
    prepare_torch(1)
    clips = clips_of(job.manifest())
    counts = make_rows(job, [[clip] for clip in clips], lambda missing: _make(job, [clips[clip] for clip in missing]))
    if job.part:
        return counts
    rejected, rates = dict[str, str](), list[float]()
    for clip, prepared in prepared_rows(job.rows(), clips):
        if isinstance(prepared, Rejected):
            rejected[clip] = prepared.reason
        else:
            rates.append(prepared.effective_fps)
    if len(rejected) == len(clips):
        reasons = "\n".join(f"  {clips[clip].path}: {why}" for clip, why in sorted(rejected.items())[:_MAX_LISTED])
        raise UserError(f"all clips were rejected with these data.params; first reasons:\n{reasons}")
    return PreprocessCounts(
        made=counts.made,
        reused=counts.reused,
        rejected=len(rejected),
        effective_fps_least=min(rates),
        effective_fps_most=max(rates),
    )


def clips_of(manifest: Iterable[ClipRow]) -> dict[str, ClipRow]:
    """One row per distinct clip, whatever its split or caption, in order of ids."""
    return {row.clip: row for row in sorted(manifest, key=lambda row: (row.clip, row.split, row.name))}


def source_of(row: ClipRow) -> Source:
    """The clip's file and the content hash that its row is keyed by."""
    return Source(row.path, f"sha256:{row.clip}")


def unreachable(row: ClipRow, error: Exception) -> UserError:
    """The error for a file that scan could read and that cannot be read now."""
    unreadable = f"{row.path}: cannot be read any more ({error}); restore the file, or run scan again"
    return UserError(machine_error_message(error, row.path) or unreadable)


def _make(job: Job[PreprocessInput], rows: list[ClipRow]) -> None:
    settings, clip_settings = job.input, settings_of(job.input)

    def describe(row: ClipRow, decoder: Decoder) -> tuple[ClipPlan, Tensor]:
        path = Path(row.path)
        with proven([source_of(row)]):
            plan, pixels_FCHW = retry_damaged(path, lambda: describe_clip(path, clip_settings, decoder))
        return plan, thumbnail(pixels_FCHW)

    with (
        ShardWriter(job.items_dir(), settings.flush_megabytes, settings.flush_seconds) as writer,
        job.progress(len(rows), "preprocess", "clips") as bar,
    ):
        for row, result in decode_ahead(rows, describe, settings.workers):
            if isinstance(result, VideoError):
                Rejected(str(result)).add(writer, row.clip)
            elif isinstance(result, OSError):
                raise unreachable(row, result)
            elif isinstance(result, Exception):
                raise result
            else:
                plan, thumbnail_HWC = result
                plan.add(writer, row.clip, thumbnail_HWC)
            bar.advance()

"""Stage `preprocess`: chooses the frames of every clip and proves that they decode. No pixels are kept, but a thumbnail."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from cogtune.data.clips import describe_clip, thumbnail
from cogtune.data.dataset import settings_of
from cogtune.data.decoder import Decoder
from cogtune.data.listing import ClipRow
from cogtune.data.pipeline import confirmed, decode_ahead
from cogtune.data.rows import ClipPlan, Rejected, prepared_rows
from cogtune.data.store import ShardWriter
from cogtune.data.video import VideoError
from cogtune.errors import UserError
from cogtune.runtime.devices import set_threads
from cogtune.runtime.failures import told_of_environment
from cogtune.stages.job import Job, missing
from cogtune.work.content_hashes import Source, proven
from cogtune.work.inputs import PreprocessInput

_SHOWN = 5


def run(job: Job[PreprocessInput]) -> dict[str, Any]:
    """One row for every clip of the manifest: its ClipPlan, or Rejected.

    A clip that fails to decode is a row, so that it fails once; a file that cannot be reached ends the stage (UserError).
    """
    # Clips are resized side by side, one to a thread; more threads in each would only fight for the cores.
    set_threads(1)
    clips = clips_of(job.manifest())
    lacking = missing(clips, job.rows().ids())
    if lacking:
        _make(job, [clips[clip] for clip in lacking])
    rejected, rates = dict[str, str](), list[float]()
    for clip, prepared in prepared_rows(job.rows(), clips):
        if isinstance(prepared, Rejected):
            rejected[clip] = prepared.reason
        else:
            rates.append(prepared.effective_fps)
    if len(rejected) == len(clips):
        reasons = "\n".join(f"  {clips[clip].path}: {why}" for clip, why in sorted(rejected.items())[:_SHOWN])
        raise UserError(f"no clip can be used with these data.params; the first reasons:\n{reasons}")
    return {
        "made": len(lacking),
        "reused": len(clips) - len(lacking),
        "rejected": len(rejected),
        "effective_fps_least": min(rates),
        "effective_fps_most": max(rates),
    }


def clips_of(manifest: Iterable[ClipRow]) -> dict[str, ClipRow]:
    """One row for each content, whatever split or caption it has, in order of their ids."""
    return {row.clip: row for row in sorted(manifest, key=lambda row: (row.clip, row.split, row.name))}


def source_of(row: ClipRow) -> Source:
    """The clip's file, with the content that its row is keyed by."""
    return Source(row.path, f"sha256:{row.clip}")


def unreachable(row: ClipRow, error: Exception) -> UserError:
    """The error for a file that scan saw and that cannot be read now: the machine's fault, or the file is not as it was."""
    gone = f"{row.path}: cannot be read now, though scan has read it ({error}); bring it back or scan again"
    return UserError(told_of_environment(error, row.path) or gone)


def _make(job: Job[PreprocessInput], rows: list[ClipRow]) -> None:
    given, settings = job.input, settings_of(job.input)

    def describe(row: ClipRow, decoder: Decoder) -> tuple[ClipPlan, Tensor]:
        path = Path(row.path)
        with proven([source_of(row)]):
            plan, pixels_FCHW = confirmed(path, lambda: describe_clip(path, settings, decoder))
        return plan, thumbnail(pixels_FCHW)

    with (
        ShardWriter(job.items_dir(), given.flush_megabytes, given.flush_seconds) as writer,
        job.progress(len(rows), "preprocess", "clips") as bar,
    ):
        for row, result in decode_ahead(rows, describe, given.workers):
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

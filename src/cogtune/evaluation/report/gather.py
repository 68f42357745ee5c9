"""Reads the results of the stages from the store, as the data of the report."""

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from cogtune.config.schema.data import SFTDatasetParams
from cogtune.data.container import is_whole
from cogtune.data.listing import ClipRow, Reject
from cogtune.data.rows import ClipPlan, Rejected, TextRow, prepared_rows
from cogtune.data.store import ShardReader
from cogtune.evaluation.metrics import PSNR
from cogtune.evaluation.report.report_data import (
    ClipFacts,
    DataFacts,
    Exported,
    Folders,
    LossPoint,
    ReportRow,
    ReportVideo,
    StageFacts,
)
from cogtune.evaluation.sample_figures import PER_SAMPLE, SampleFigures
from cogtune.runtime.jsonl import read_lines
from cogtune.runtime.paths import inside
from cogtune.runtime.saved import DamagedError, how_to_repair
from cogtune.runtime.sums import check_sums
from cogtune.runtime.typed_json import from_json
from cogtune.sampling.prompts import ID_DIGITS
from cogtune.work.records import read_record
from cogtune.work.results import ExportIndex, TrainSummary
from cogtune.work.stages import STAGES
from cogtune.work.training_log import Row, StepRow, curves, main_curve
from cogtune.work.volatile import DataFolders

SPLITS = ("train", "valid")
CLIP = "Training clip"
TRAINED_LABELS = {"base": "Before training", "tuned": "After training", "guided": "After, guided"}
SAMPLED_LABELS = {"tuned": "Sample", "guided": "Guided"}
"""Labels of experiments without training."""


def strips(
    figures: Sequence[SampleFigures],
    videos: Path,
    clips: Path | None,
    images: Path,
    labels: Mapping[str, str] = TRAINED_LABELS,
) -> list[ReportRow]:
    """One row per prompt: the input image, if any, the clip, then the variants of ``labels``. ``clips``: None without a
    data set. A missing or truncated video gets a ``problem``."""
    by_prompt: dict[str, dict[str, SampleFigures]] = {}
    for figure_row in figures:
        by_prompt.setdefault(figure_row.sample.prompt, {})[figure_row.sample.variant] = figure_row
    rows = []
    for prompt, variants in by_prompt.items():
        first = next(iter(variants.values()))
        image = inside(images, f"{prompt}.png", PER_SAMPLE)
        row = [ReportVideo("First frame given", image)] if image.exists() else []
        if first.sample.clip and clips is not None:
            path = clips / f"{first.sample.clip[:ID_DIGITS]}.mp4"
            row.append(ReportVideo(CLIP, path, problem=_problem(path)))
        for variant, label in labels.items():
            if figure_row := variants.get(variant):
                path = inside(videos, f"{figure_row.sample.item}.mp4", PER_SAMPLE)
                nearest = _stem(figure_row.nearest_name)
                row.append(
                    ReportVideo(label, path, figure_row.values.get(PSNR.name), figure_row.hit, nearest, _problem(path))
                )
        rows.append(ReportRow(first.sample.caption, _stem(first.clip_name) or prompt, row))
    return sorted(rows, key=lambda strip: strip.name)


def _problem(video: Path) -> str:
    """Why a viewing copy is unusable, and how to write it again; "" for a good one. Figures are not computed from it."""
    if is_whole(video):
        try:
            check_sums(video)
        except DamagedError as error:
            state = "is damaged" if str(error).startswith(str(video)) else "cannot be checked"
        else:
            return ""
    else:
        state = "is truncated" if video.exists() else "is missing"
    return f"{video.parent.name}/{video.name} {state}: {how_to_repair(video.parent.parent)}"


def loss_curves(log: Iterable[Row]) -> tuple[list[LossPoint], list[LossPoint]]:
    """The training losses and the validation losses (`main_curve`) of a training log."""
    rows = list(log)
    training = [
        LossPoint(row.step, row.loss, row.lr) for row in rows if isinstance(row, StepRow) and row.loss is not None
    ]
    curve = main_curve(curves(rows))
    return training, [LossPoint(row.step, row.validation_loss) for row in curve.rows] if curve else []


def stages(records: Path, upstream: Mapping[str, str]) -> list[StageFacts]:
    """Time, summed over all runs of its job, and peak memory of each stage. ``upstream``: stage -> job key."""
    facts = []
    for stage in (name for name in STAGES if name in upstream):
        key = upstream[stage]
        if record := read_record(records / f"{stage}-{key}.json"):
            gpu = (record.gpu_busy, record.peak_gpu_mib)
            facts.append(StageFacts(stage, key, record.seconds, record.runs, record.peak_memory_mib, *gpu))
        else:
            facts.append(StageFacts(stage, key, None, 0, None))
    return facts


def _damaged(path: Path, expected: str) -> DamagedError:
    return DamagedError(f"{path}: expected {expected}; {how_to_repair(path.parent)}")


def exports(index: ExportIndex, formats: Collection[str]) -> list[Exported]:
    """What the index of an export folder says about ``formats``, those of the experiment. The folder may have more: other
    experiments share it."""
    return [
        Exported(
            name,
            entry.path,
            entry.bytes / 1e6,
            entry.own_error,
            entry.foreign.loader,
            entry.foreign.max_abs_error_at_one_epsilon,
            entry.foreign.why or "",
        )
        for name, entry in index.formats.items()
        if name in formats
    ]


def timings(summary: TrainSummary | None, stages: Iterable[StageFacts]) -> dict[str, float]:
    """The content of timings.json without the report's own time. ``summary``: None without training."""
    train = (
        {}
        if summary is None
        else {
            "train.steps_per_second": round(summary.steps_per_second, 6),
            "train.data_wait_fraction": round(summary.data_wait_fraction, 6),
        }
    )
    return train | {f"seconds.{row.stage}": row.seconds for row in stages if row.seconds is not None}


def data_facts(
    manifest: Sequence[ClipRow],
    rejects_file: Path,
    frames: ShardReader,
    encoded: ShardReader,
    params: SFTDatasetParams,
    folders: Sequence[Folders] = (),
) -> DataFacts:
    """Statistics of the data set. ``frames`` and ``encoded``: the rows of preprocess and text; ``folders``: where the
    clips come from. Raises DamagedError."""
    check_sums(rejects_file)
    plans, rejects = list[ClipPlan](), _read_rejects(rejects_file)
    refused = [(reject.name, reject.reason) for reject in rejects if not reject.files]
    used: dict[str, ClipPlan] = {}
    rows = {row.clip: row for row in manifest}
    for clip, prepared in prepared_rows(frames, rows):
        if isinstance(prepared, Rejected):
            refused.append((rows[clip].name, prepared.reason))
        else:
            used[clip] = prepared
            plans.append(prepared)
    rates = [plan.effective_fps for plan in plans]
    captions = {row.caption_id: row.caption for row in manifest}
    height, width = params.video_size
    splits = {split: {row.clip for row in manifest if row.split == split} & used.keys() for split in SPLITS}
    return DataFacts(
        clips={split: len(clips) for split, clips in splits.items()},
        trained_too=len(splits["train"] & splits["valid"]),
        frames=params.max_num_frames,
        height=height,
        width=width,
        target_fps=params.fps,
        effective_fps=(min(rates), max(rates)) if rates else None,
        rejects=sorted(refused),
        others=[(reject.name, reject.reason) for reject in rejects if reject.files],
        links=[(row.path, row.target) for row in manifest if row.target],
        stretched=sum(plan.source.sample_aspect != "1:1" for plan in plans),
        enlarged=sum(plan.resize[0] > plan.source.height for plan in plans),
        min_kept=min((height * width / math.prod(plan.resize) for plan in plans), default=1.0),
        each=[_clip_facts(row, used[row.clip], params) for row in manifest if row.clip in used],
        folders=list(folders),
        truncated=sorted(captions[caption] for caption, row in TextRow.read_all(encoded, captions) if row.truncated),
    )


def _clip_facts(row: ClipRow, plan: ClipPlan, params: SFTDatasetParams) -> ClipFacts:
    size, kept = (plan.source.width, plan.source.height), math.prod(params.video_size) / math.prod(plan.resize)
    scale = max(plan.resize[0] / plan.source.height, plan.resize[1] / plan.source.width)
    return ClipFacts(row.name, row.split, size, scale, kept, plan.padded, plan.repeated)


def clips_csv(each: Iterable[ClipFacts]) -> str:
    """One line per clip with all that `ClipFacts` says."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["clip", "split", "source_width", "source_height", "scale", "kept", "padded", "repeated"])
    for clip in each:
        scale, kept = f"{clip.scale:.4g}", f"{clip.kept:.4g}"
        writer.writerow([clip.name, clip.split, *clip.size, scale, kept, clip.padded, clip.repeated])
    return buffer.getvalue()


def folders_of(data: Mapping[str, DataFolders]) -> list[Folders]:
    """Where the clips of both splits come from; see `Folders`."""
    train, valid = (data.get(f"{split}_data") for split in SPLITS)
    inherited = bool(train and valid and train.origin.split(":")[0] != valid.origin.split(":")[0])
    by_split = {"train": (train, False), "valid": (valid, inherited)}
    return [
        Folders(split, f"args.{split}_data", one.folders, one.origin, other)
        for split, (one, other) in by_split.items()
        if one
    ]


def _stem(name: str | None) -> str | None:
    return PurePosixPath(name).stem if name else None


def _read_rejects(path: Path) -> list[Reject]:
    """The files rejected by scan, with reasons; empty if the file does not exist."""
    try:
        lines = read_lines(path, partial(from_json, Reject))
    except FileNotFoundError:
        return []
    if not lines.whole:
        raise _damaged(path, "a JSON object with name and reason in each line")
    return lines.rows

"""Stage `scan`: finds videos and captions, rejects unusable ones, and writes the manifest."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import gcd
from pathlib import Path
from statistics import fmean
from typing import Any

from cogtune.config.valid_data import folders
from cogtune.data.caption_list import NAMES
from cogtune.data.listing import ClipRow, write_manifest
from cogtune.data.scan import Memo, Reject, ScanResult, scan
from cogtune.errors import UserError
from cogtune.runtime.atomic import write_changed
from cogtune.runtime.digest import data_digests
from cogtune.runtime.progress import Progress
from cogtune.runtime.saved import write_sealed
from cogtune.runtime.sums import write_sums
from cogtune.stages.job import Job
from cogtune.stages.run_counts import RunCounts
from cogtune.work.inputs import ScanInput

_MAX_LISTED = 5
"""Files listed in an error message and under "links" in report.json."""
_MAX_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class ScanCounts(RunCounts):
    """``made``: videos that were opened, ``reused``: those known by path, size and mtime; neither includes files that cannot
    be opened. ``train``, ``valid``: clips of each split; ``other_files``: files that are no videos."""

    train: int
    valid: int
    rejected: int
    other_files: int


def run(job: Job[ScanInput]) -> ScanCounts:
    """Write manifest.jsonl, rejects.jsonl, report.json and, last, digests.json into the job's folder.

    Raises UserError if there is no training clip, or if more than ``args.max_reject_share`` of the files are rejected.
    """
    settings, folder = job.input, job.job_dir()
    roots = {"train": settings.train_data or [], "valid": folders(settings.valid_data)}
    scanned = _scan(job, roots)
    write_changed(folder / "rejects.jsonl", "".join(map(_line, [*scanned.rejects, *scanned.others])))
    _check(scanned, roots["train"], settings.max_reject_share, folder)
    write_manifest(folder / "manifest.jsonl", scanned.rows)
    write_sealed(folder / "report.json", report(scanned))
    write_sums(folder, [folder / "manifest.jsonl", folder / "rejects.jsonl"])
    write_sealed(folder / "digests.json", data_digests((row.clip, row.caption, row.split) for row in scanned.rows))
    splits = Counter(row.split for row in scanned.rows)
    return ScanCounts(
        made=scanned.probed,
        reused=scanned.known,
        train=splits["train"],
        valid=splits["valid"],
        rejected=len(scanned.rejects),
        other_files=sum(line.files for line in scanned.others),
    )


def _line(reject: Reject) -> str:
    fields = {name: value for name, value in asdict(reject).items() if value or name != "files"}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _scan(job: Job[ScanInput], roots: dict[str, list[str]]) -> ScanResult:
    bars: list[Progress] = []
    with ExitStack() as stack:
        return scan(
            roots,
            Memo(job.store / "scan" / "memo.jsonl"),
            job.input.allow_missing_caption,
            job.input.follow_links,
            workers=min(os.cpu_count() or 1, _MAX_WORKERS),
            on_start=lambda total: bars.append(stack.enter_context(job.progress(total, "scan", "files"))),
            on_file=lambda: bars[0].advance(),
        )


def _check(scanned: ScanResult, train_roots: Sequence[str], max_share: float, folder: Path) -> None:
    rejects, total = scanned.rejects, len(scanned.rows) + len(scanned.rejects)
    others = "".join(f"\n{line.path}: {line.reason}" for line in scanned.others)
    if not total:
        expected = f"expected videos/*.mp4 with labels/*.txt, or *.mp4 with {NAMES}"
        raise UserError(f"args.train_data: no videos in {', '.join(train_roots)}; {expected}{others}")
    if len(rejects) > max_share * total:
        share = f"{len(rejects)} of {total} files are rejected, more than args.max_reject_share ({max_share:g})"
        raise UserError(f"{share}:\n{_first(rejects)}\nfull list: {folder / 'rejects.jsonl'}{others}")
    if not any(row.split == "train" for row in scanned.rows):
        reasons = _first([reject for reject in rejects if reject.split == "train"])
        raise UserError(f"args.train_data: no usable clip in {', '.join(train_roots)}\n{reasons}{others}")


def _first(rejects: list[Reject]) -> str:
    lines = [f"  {reject.path}: {reject.reason}" for reject in rejects[:_MAX_LISTED]]
    more = len(rejects) - len(lines)
    return "\n".join(lines) + (f"\n  … and {more} more" if more > 0 else "")


def report(scanned: ScanResult) -> dict[str, Any]:
    """Statistics of the data: clips and seconds by split, rejects by reason, captions, sizes, aspect ratios, fps."""
    rows = scanned.rows
    captions = Counter(row.caption for row in rows)
    words = [len(row.caption.split()) for row in rows]
    return {
        "clips": _counted(row.split for row in rows),
        "seconds": {
            split: _spread([row.frames / row.fps for row in rows if row.split == split])
            for split in sorted({row.split for row in rows})
        },
        "frames": _spread([row.frames for row in rows]),
        "fps": _counted(f"{row.fps:g}" for row in rows),
        "sizes": _counted(f"{row.width}x{row.height}" for row in rows),
        "aspects": _counted(_aspect(row) for row in rows),
        "sample_aspects": _counted(scanned.sample_aspects.elements()),
        "captions": {
            "distinct": len(captions),
            "shared_by_several_clips": sum(count > 1 for count in captions.values()),
            "empty": captions[""],
            "of_several_lines": scanned.several_lines,
            "words": _spread(words),
            "characters": _spread([len(row.caption) for row in rows]),
        },
        "links": {
            "clips": sum(bool(row.target) for row in rows),
            "first": [[row.path, row.target] for row in rows if row.target][:_MAX_LISTED],
        },
        "other_files": {line.name: line.files for line in scanned.others},
        "rejects": _counted(reject.reason.split(":")[0] for reject in scanned.rejects),
    }


def _aspect(row: ClipRow) -> str:
    common = gcd(row.width, row.height)
    return f"{row.width // common}:{row.height // common}"


def _counted(values: Any) -> dict[str, int]:
    """Counts of distinct values, most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0])))


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    spread = {"least": min(values), "mean": fmean(values), "most": max(values), "total": sum(values)}
    return {name: round(value, 3) for name, value in spread.items()}

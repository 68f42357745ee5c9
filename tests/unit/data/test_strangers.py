"""Scan as a whole over made-up folders: each file is used or rejected, and nothing hangs or crashes."""

import faulthandler
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cogtune.data.listing import fingerprint, list_videos, read_manifest
from cogtune.stages import scan as stage
from cogtune.stages.job import Job
from cogtune.work.slices import Slice
from tests.unit.data.strangers import Maker, outside_of

PATIENCE_SECONDS = 300


def scanned(base: Path, roots: list[Path], follow: bool) -> tuple[list[Any], list[dict[str, Any]], stage.ScanCounts]:
    """(manifest, rejects, counts) of the stage over ``roots``."""
    values = {
        "args": {"max_reject_share": 1.0, "train_data": list(map(str, roots))},
        "data": {"params": {"follow_links": follow}},
    }
    job = Job(Slice("scan", {"stage": "scan", "values": values}), base / "store")
    counts = stage.run(job)
    lines = (job.job_dir() / "rejects.jsonl").read_text(encoding="utf-8").split("\n")
    return read_manifest(job.job_dir() / "manifest.jsonl"), [json.loads(line) for line in lines if line], counts


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("follow", "count"),
    [
        (True, 500),
        (False, 100),
        pytest.param(True, 5000, marks=pytest.mark.slow),
        pytest.param(False, 5000, marks=pytest.mark.slow),
    ],
)
def test_each_file_is_used_or_rejected(footage: Path, tmp_path: Path, follow: bool, count: int) -> None:
    clips = [footage / "plain.mp4", footage / "fast.mp4"]
    outside = outside_of(tmp_path, clips[0])
    roots = [tmp_path / f"{seed:03d}" for seed in range(count)]
    for seed, root in enumerate(roots):
        Maker(root, clips, outside, seed).make()
    before = fingerprint({"train": roots}, follow)
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
    try:
        rows, rejects, counts = scanned(tmp_path, roots, follow)
    finally:
        faulthandler.cancel_dump_traceback_later()
    listed = [video for root in roots for video in list_videos(root, follow)]
    captions = {str(video.path): video.label for video in listed}
    told = Counter([row.path for row in rows] + [reject["path"] for reject in rejects if "files" not in reject])
    expected = Counter(
        str(video.path).encode("utf-8", "backslashreplace").decode() for video in listed if not video.files
    )
    assert told == expected
    assert max(Counter((str(video.path), video.name) for video in listed).values()) == 1
    assert rows
    assert all(reject["reason"] for reject in rejects)
    assert counts.rejected == len(rejects) - sum("files" in reject for reject in rejects)
    if not follow:
        real = os.path.realpath(tmp_path)
        assert not any(row.target for row in rows)
        used = [path for row in rows for path in (row.path, str(captions[row.path]))]
        assert [path for path in used if os.path.realpath(path) != path.replace(str(tmp_path), real, 1)] == []
    assert fingerprint({"train": roots}, follow) == before

"""What a report says about the data agrees with what was trained on."""

from pathlib import Path

import pytest
import torch

from cogtune.config.schema.data import SFTDatasetParams
from cogtune.data.frames import fit
from cogtune.data.listing import ClipRow
from cogtune.data.rows import ClipPlan, FramePlan, Rejected, SourceVideo, TextRow
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.evaluation.report import page
from cogtune.evaluation.report.gather import data_facts
from cogtune.evaluation.report.report_data import DataFacts, ReportData

PARAMS = SFTDatasetParams(video_size=[64, 96], max_num_frames=9, fps=8.0)


def row(name: str, split: str) -> ClipRow:
    return ClipRow(f"clip {name}", f"/{name}.mp4", f"{name}.mp4", split, "words", "caption", 12, 8.0, 48, 32)


@pytest.fixture
def facts(tmp_path: Path) -> DataFacts:
    manifest = [row("a", "train"), row("b", "train"), row("short", "train"), row("b", "valid"), row("c", "valid")]
    with ShardWriter(tmp_path / "frames") as writer:
        for name, size, aspect in (("a", (64, 96), "1:1"), ("b", (1280, 720), "1:1"), ("c", (32, 48), "4:3")):
            frames, scale_and_crop = FramePlan([0], [0.0], 8.0, 0, 0), fit(size, PARAMS.video_size)
            source = SourceVideo(12, 8.0, *size, aspect)
            plan = ClipPlan(**vars(frames), **vars(scale_and_crop), source=source)
            plan.add(writer, f"clip {name}", torch.zeros(2, 3, 3, dtype=torch.uint8))
        Rejected("too short").add(writer, "clip short")
    with ShardWriter(tmp_path / "text") as writer:
        TextRow(tokens=3, truncated=False).add(writer, "caption", torch.zeros(4, 6))
    readers = (ShardReader(tmp_path / "frames"), ShardReader(tmp_path / "text"))
    return data_facts(manifest, tmp_path / "rejects.jsonl", *readers, PARAMS)


def test_clips_that_preprocess_rejected_are_rejects_and_not_training_clips(facts: DataFacts) -> None:
    assert facts.clips == {"train": 2, "valid": 2}
    assert facts.rejects == [("short.mp4", "too short")]


def test_validation_clips_that_are_trained_on_are_not_held_out(facts: DataFacts) -> None:
    assert (facts.held_out, facts.trained_too) == (1, 1)


def test_what_was_done_to_pictures_is_counted(facts: DataFacts) -> None:
    assert (facts.stretched, facts.enlarged) == (1, 1)
    assert facts.min_kept == pytest.approx(64 / 170)
    assert "The crop keeps at least 38 % of the picture. 1 clip was enlarged. 1 clip with non-square pixels" in (
        page.render(ReportData("p", {"samples.count": 2}, {}, [], [], [], facts, [], [], "", {}))
    )

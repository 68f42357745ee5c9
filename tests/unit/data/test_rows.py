"""Rows of the store: those of earlier versions open, the format stays, and a wrong field is told as damage is."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cogtune.data.rows import (
    ClipPlan,
    EvaluationRow,
    ImageRow,
    LatentRow,
    Rejected,
    SampleRow,
    SourceVideo,
    TextRow,
    clip_plan,
    prepared_rows,
)
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.runtime.saved import DamagedError

OLD_STORE = Path(__file__).parents[2] / "workflow/stores/store-0.1.0-d4b319d.tar.xz"
PLAN = ClipPlan(
    indices=[0, 2, 2],
    timestamps=[0.0, 0.25, 0.25],
    effective_fps=4.0,
    repeated=0,
    padded=1,
    resize=[32, 57],
    crop=[0, 4],
    source=SourceVideo(12, 8.0, 32, 57, "4:3"),
    reader="pyav",
)
SAMPLE = SampleRow("p", "tuned", "a wave", None, None)
METAS: dict[str, dict[str, Any]] = {
    "plan": {
        "indices": [0, 2, 2], "timestamps": [0.0, 0.25, 0.25], "effective_fps": 4.0, "repeated": 0, "padded": 1,
        "resize": [32, 57], "crop": [0, 4],
        "source": {"frames": 12, "fps": 8.0, "height": 32, "width": 57, "sample_aspect": "4:3"}, "reader": "pyav",
    },
    "rejected": {"rejected": "too short"},
    "latent": {},
    "image": {},
    "text": {"tokens": 3, "truncated": False},
    "sample": {"prompt": "p", "variant": "tuned", "caption": "a wave", "clip": None, "context": None},
    "evaluation": {"vae_psnr_db": 30.5, "distances": {}, "own": {"p.tuned": {"psnr_db": 20.5, "ssim": 0.5}}},
}  # fmt: skip
"""What stands in the store. A change here is another format: it needs another version of the stage."""
TENSORS = {
    "plan": {"thumbnail"}, "rejected": set(), "latent": {"moments"}, "image": {"moments"}, "text": {"context"},
    "sample": {"video", "image"}, "evaluation": {"vae_psnr_db"},
}  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> ShardReader:
    picture = torch.zeros(2, 3, 3, dtype=torch.uint8)
    with ShardWriter(tmp_path) as writer:
        PLAN.add(writer, "plan", picture)
        Rejected("too short").add(writer, "rejected")
        LatentRow(torch.zeros(8, 2, 4, 6)).add(writer, "latent")
        ImageRow(torch.zeros(2, 8, 4, 6)).add(writer, "image")
        TextRow(tokens=3, truncated=False).add(writer, "text", torch.zeros(4, 6))
        SAMPLE.add(writer, "sample", picture[None], picture)
        EvaluationRow(30.5, {}, {"p.tuned": {"psnr_db": 20.5, "ssim": 0.5}}).add(writer, "evaluation")
    return ShardReader(tmp_path)


def test_the_format_is_as_it_was(rows: ShardReader) -> None:
    assert {name: rows.meta(name) for name in METAS} == METAS
    assert {name: rows.tensors(name).keys() for name in TENSORS} == TENSORS


def test_what_was_written_is_read(rows: ShardReader) -> None:
    assert dict(prepared_rows(rows, ["plan", "rejected"])) == {"plan": PLAN, "rejected": Rejected("too short")}
    assert LatentRow.read(rows, "latent").moments_CTHW.shape == (8, 2, 4, 6)
    assert ImageRow.read(rows, "image").moments_KCHW.shape == (2, 8, 4, 6)
    assert list(TextRow.read_all(rows, ["text"])) == [("text", TextRow(3, False))]
    assert TextRow.context(rows, "text").shape == (4, 6)
    assert list(SampleRow.read_all(rows, ["sample"])) == [("sample", SAMPLE)]
    assert SampleRow.video(rows, "sample").shape == (1, 2, 3, 3)
    assert SampleRow.image(rows, "sample").shape == (2, 3, 3)
    (evaluation,) = dict(EvaluationRow.read_all(rows, ["evaluation"])).values()
    assert evaluation.own["p.tuned"]["ssim"] == 0.5


READERS: dict[str, Callable[[ShardReader], object]] = {
    "plan": lambda reader: list(prepared_rows(reader, ["plan"])),
    "rejected": lambda reader: list(prepared_rows(reader, ["rejected"])),
    "text": lambda reader: list(TextRow.read_all(reader, ["text"])),
    "sample": lambda reader: list(SampleRow.read_all(reader, ["sample"])),
    "evaluation": lambda reader: list(EvaluationRow.read_all(reader, ["evaluation"])),
}
OPTIONAL = {"reader"}
"""Fields that rows of an earlier version do not have."""
CHANGES = [
    (row, field, change)
    for row in READERS
    for field in METAS[row]
    for change in ("absent", "another type")
    if not (change == "absent" and field in {*OPTIONAL, "rejected"})
]


@pytest.mark.parametrize(("row", "field", "change"), CHANGES)
def test_each_field_that_is_wrong_is_named(tmp_path: Path, row: str, field: str, change: str) -> None:
    meta = {name: value for name, value in METAS[row].items() if name != field}
    with ShardWriter(tmp_path / "preprocess/0123456789ab") as writer:
        writer.add(row, {}, meta if change == "absent" else meta | {field: [["odd"]]})
    with pytest.raises(
        DamagedError, match=rf"the row {row} is damaged \(.*{field}.*store verify 0123456789ab --repair"
    ):
        READERS[row](ShardReader(tmp_path / "preprocess/0123456789ab"))


@pytest.mark.parametrize("field", ["frames", "fps", "height", "width"])
def test_fields_of_the_source_are_checked_too(tmp_path: Path, field: str) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.add("plan", {}, METAS["plan"] | {"source": METAS["plan"]["source"] | {field: None}})
    with pytest.raises(DamagedError, match=rf"source: {field}: expected .*, found null"):
        clip_plan(ShardReader(tmp_path), "plan")


@pytest.mark.parametrize("tensors", [{}, {"moments": torch.zeros(3)}, {"other": torch.zeros(8, 2, 4, 6)}])
def test_a_tensor_that_is_not_there_or_of_another_shape(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with ShardWriter(tmp_path) as writer:
        writer.add("clip", tensors)
    with pytest.raises(DamagedError, match=r"the row clip is damaged \(expected a tensor 'moments' of 4 dimensions"):
        LatentRow.read(ShardReader(tmp_path), "clip")


@pytest.mark.usefixtures("capfd")
def test_every_row_of_a_store_of_version_0_1_opens(tmp_path: Path) -> None:
    with tarfile.open(OLD_STORE) as archive:
        archive.extractall(tmp_path, filter="data")
    opened = {}
    for stage in ("preprocess", "latents", "text", "sample", "evaluate"):
        (folder,) = (tmp_path / "store" / stage).iterdir()
        opened[stage] = ShardReader(folder)
        assert opened[stage].ids()
    for clip, plan in prepared_rows(opened["preprocess"], opened["latents"].ids()):
        assert isinstance(plan, ClipPlan)
        assert len(plan.indices) == len(plan.timestamps) == 5
        assert LatentRow.read(opened["latents"], clip).moments_CTHW.shape == (8, 2, 4, 6)
    for caption_id, _ in TextRow.read_all(opened["text"], opened["text"].ids()):
        assert TextRow.context(opened["text"], caption_id).shape == (8, 32)
    for item, row in SampleRow.read_all(opened["sample"], opened["sample"].ids()):
        assert item == f"{row.prompt}.{row.variant}"
        assert SampleRow.video(opened["sample"], item).shape == (5, 3, 32, 48)
    assert dict(EvaluationRow.read_all(opened["evaluate"], opened["evaluate"].ids())).keys() == opened["latents"].ids()

"""preprocess, latents, text: what they make, what they leave alone, and what a kill costs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cogtune.config.build import build
from cogtune.data.clips import load_clip
from cogtune.data.dataset import CachedDataset
from cogtune.data.rows import Pair, clip_plan
from cogtune.data.store import ShardReader, ShardWriter
from cogtune.errors import UserError
from cogtune.stages import latents, text
from tests.unit.stages.caching import Caching

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Caching:
    """Three clips, of which one is too short; all caches made. For reading."""
    project = Caching(tmp_path_factory.mktemp("caching") / "project")
    project.add("wave", "a wave rolls over the sand", 1)
    project.add("stripes", "stripes", 2, fps=16, frames=20, size=(48, 64))
    project.add("short", "other words", 3, frames=4)
    project.add("held", "a wave rolls over the sand", 4, split="valid")
    project.counts = project.run_all()
    return project


@pytest.fixture
def project(made: Caching, tmp_path: Path) -> Caching:
    """The same with caches of its own. (The data stay where they are: their paths are in the scan's key.)"""
    return made.with_store(tmp_path / "store")


def test_counts(made: Caching) -> None:
    rates = {"effective_fps_least": 8.0, "effective_fps_most": 8.0}
    assert made.counts == {
        "scan": {"made": 4, "reused": 0, "train": 3, "valid": 1, "rejected": 0, "other_files": 0},
        "preprocess": {"made": 4, "reused": 0, "rejected": 1, **rates},
        "latents": {"made": 3, "reused": 0, "skipped": 1},
        "text": {"made": 3, "reused": 0, "truncated": 1},
    }


def test_again_makes_nothing(made: Caching) -> None:
    assert {stage: counts["made"] for stage, counts in made.run_all().items()} == dict.fromkeys(made.counts, 0)


def test_rows_of_preprocess(made: Caching) -> None:
    job = made.job("preprocess")
    reader, rows = ShardReader(job.items_dir()), {row.name: row for row in job.manifest()}
    stripes = reader.meta(rows["videos/stripes.mp4"].clip)
    assert stripes["indices"] == [0, 2, 4, 6, 8]
    assert stripes["timestamps"] == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    assert stripes["source"] == {"frames": 20, "fps": 16.0, "height": 48, "width": 64, "sample_aspect": "1:1"}
    assert (stripes["resize"], stripes["crop"]) == ([36, 48], [2, 0])
    assert reader.tensors(rows["videos/stripes.mp4"].clip)["thumbnail"].shape == (32, 48, 3)
    assert "too short" in reader.meta(rows["videos/short.mp4"].clip)["rejected"]


def test_moments_are_the_encoders_own(made: Caching) -> None:
    job = made.job("latents")
    prepared, cached = ShardReader(job.items_dir("preprocess")), ShardReader(job.items_dir())
    vae = build(job.input.vae)
    rows = [row for row in job.manifest() if row.clip in cached]
    assert {row.name for row in rows} == {"videos/wave.mp4", "videos/stripes.mp4", "videos/held.mp4"}
    for row in rows:
        pixels_FCHW = load_clip(row.path, clip_plan(prepared, row.clip), [32, 48])
        video_BCTHW = (pixels_FCHW.transpose(0, 1)[None].float() - 127.5) / 127.5
        moments = cached.tensors(row.clip)["moments"]
        assert moments.shape == (8, 2, 4, 6)
        torch.testing.assert_close(moments, vae.encode(video_BCTHW)[0], rtol=0, atol=1e-5)


def test_contexts_are_t5s_own(made: Caching) -> None:
    job = made.job("text")
    cached = ShardReader(job.items_dir())
    embedder = build(job.input.conditioner).embedder()
    for row in job.manifest():
        context = cached.tensors(row.caption_id)["context"]
        assert context.shape == (8, 32)
        torch.testing.assert_close(context, embedder.encode([row.caption])[0], rtol=0, atol=1e-5)
        assert cached.meta(row.caption_id)["tokens"] == embedder.tokens(row.caption)


def test_the_caches_serve_training(made: Caching) -> None:
    job = made.job("train")
    encoded = ShardReader(job.items_dir("latents")).ids()
    pairs = [Pair(row.clip, row.caption_id) for row in job.manifest() if row.split == "train" and row.clip in encoded]
    data = CachedDataset(job.items_dir("latents"), job.items_dir("text"), pairs)
    assert len(data) == 2
    assert data.moments(0).dtype == data.context(0).dtype == torch.float32


def test_one_clip_more(project: Caching) -> None:
    path = project.add("new", "brand new", 7)
    try:
        counts = project.run_all()
    finally:
        path.unlink()
        path.parents[1].joinpath("labels/new.txt").unlink()
    made = {stage: (counts[stage]["made"], counts[stage]["reused"]) for stage in ("preprocess", "latents", "text")}
    assert made == {"preprocess": (1, 4), "latents": (1, 3), "text": (1, 3)}


def test_precision_is_what_was_asked_for(project: Caching) -> None:
    project.overrides = ["args.encoder_precision=bf16"]
    assert project.run("latents")["made"] == 3
    assert project.run("text")["made"] == 3
    for stage, name in (("latents", "moments"), ("text", "context")):
        reader = ShardReader(project.job(stage).items_dir())
        assert {reader.tensors(item)[name].dtype for item in reader.ids()} == {torch.bfloat16}


@pytest.mark.parametrize("stage", ["latents", "text"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_kill_changes_no_bit(project: Caching, monkeypatch: pytest.MonkeyPatch, stage: str, batch: int) -> None:
    """Killed after two rows, one of them flushed; then finished: the same bits as of a run that was left alone."""

    class Dying(ShardWriter):
        def add(self, *row: Any, **more: Any) -> None:
            super().add(*row, **more)
            self.rows = getattr(self, "rows", 0) + 1
            if self.rows == 1:
                self.flush()
            if self.rows == 2:
                raise SystemExit(137)

        def __exit__(self, *exception: object) -> None:
            pass

    project.overrides = [f"args.encode_batch={batch}", f"args.text_batch={batch}", "args.flush_seconds=1000"]
    folder = project.job(stage).items_dir()
    shutil.rmtree(folder)
    project.run(stage)
    whole = folder.rename(folder.with_name("whole"))
    with monkeypatch.context() as patch:
        patch.setattr({"latents": latents, "text": text}[stage], "ShardWriter", Dying)
        with pytest.raises(SystemExit):
            project.run(stage)
    assert len(ShardReader(folder)) == 1
    counts = project.run(stage)
    assert (counts["made"], counts["reused"]) == (2, 1)
    found, expected = ShardReader(folder), ShardReader(whole)
    assert found.ids() == expected.ids()
    for item in found.ids():
        for name, tensor in found.tensors(item).items():
            assert torch.equal(tensor, expected.tensors(item)[name])


def test_several_devices_encode_the_same(project: Caching, made: Caching, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for stage, module in (("latents", latents), ("text", text)):
        shutil.rmtree(project.job(stage).items_dir())
        monkeypatch.setattr(module, "devices", lambda number: [cpu, cpu])
        assert project.run(stage)["made"] == 3
        found, expected = ShardReader(project.job(stage).items_dir()), ShardReader(made.job(stage).items_dir())
        for item in expected.ids():
            for name, tensor in expected.tensors(item).items():
                assert torch.equal(tensor, found.tensors(item)[name])


def test_a_file_that_is_gone_ends_the_stage_and_is_no_reject(project: Caching) -> None:
    shutil.rmtree(project.job("preprocess").items_dir())
    shutil.rmtree(project.job("latents").items_dir())
    job, later = project.job("preprocess"), project.job("latents")
    path = next(Path(row.path) for row in job.manifest() if row.name == "videos/wave.mp4")
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(UserError, match=r"wave.mp4: cannot be read"):
            project.run_job(job)
    finally:
        path.with_suffix(".away").rename(path)
    project.run_job(job)
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(UserError, match=r"wave.mp4: cannot be read"):
            project.run_job(later)
    finally:
        path.with_suffix(".away").rename(path)


def test_settings_that_no_clip_fits(project: Caching) -> None:
    project.overrides = ["data.params.skip_frms_num=50"]
    with pytest.raises(UserError, match="all clips were rejected") as caught:
        project.run("preprocess")
    assert "too short" in str(caught.value)


def test_moments_that_overflow_are_not_stored(project: Caching, monkeypatch: pytest.MonkeyPatch) -> None:
    project.overrides = ["args.encoder_precision=bf16"]
    encode = latents._encoder

    def broken(*arguments: Any):
        real = encode(*arguments)
        return lambda batch: [(row, moments * float("inf")) for row, moments in real(batch)]

    monkeypatch.setattr(latents, "_encoder", broken)
    with pytest.raises(UserError, match="NaN or infinity in bf16"):
        project.run("latents")
    assert len(ShardReader(project.job("latents").items_dir())) == 0

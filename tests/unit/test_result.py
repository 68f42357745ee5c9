"""`cogtune.load_result`: the videos of a finished experiment, the same that its sample stage makes."""

from pathlib import Path
from typing import Any

import pytest
import torch

import cogtune
from cogtune.data.rows import SampleRow
from cogtune.evaluation.report.publish import publish
from cogtune.result import Video
from tests.unit.stages.finished import Finished, published

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return published(tmp_path_factory.mktemp("finished"), "tiny")


def views(finished: Finished) -> Path:
    return finished.job("sample").job_dir() / "videos"


def test_the_same_prompt_and_seed_give_the_video_of_the_sample_stage(finished: Finished) -> None:
    result = cogtune.load_result(finished.root / "results/tiny")
    rows = finished.job("sample").rows()
    for weights in ("tuned", "base"):
        video = result.generate("a wave rolls", weights=weights)
        assert torch.equal(video.frames_FCHW, SampleRow.video(rows, f"prompt-00000.{weights}"))
    assert video.fps == finished.job("sample").input.fps


def test_what_changes_the_video(finished: Finished, tmp_path: Path) -> None:
    result = cogtune.load_result(str(finished.root / "results/tiny"))
    videos = [
        result.generate("a wave rolls").frames_FCHW,
        result.generate("a wave rolls", seed=8).frames_FCHW,
        result.generate("other words").frames_FCHW,
        result.generate("a wave rolls", guided=False).frames_FCHW,
        result.generate("a wave rolls", steps=2).frames_FCHW,
    ]
    assert all(not torch.equal(videos[i], videos[j]) for i in range(5) for j in range(i))
    again = result.generate("a wave rolls", seed=8)
    assert torch.equal(again.frames_FCHW, videos[1])
    again.save(tmp_path / "wave.mp4")
    assert (tmp_path / "wave.mp4").stat().st_size > 500


def test_strength_without_a_lora(finished: Finished) -> None:
    """After full training there are two models: before (0) and after (1)."""
    result = cogtune.load_result(finished.root / "results/tiny")
    before, after = (result.generate("a wave rolls", strength=strength).frames_FCHW for strength in (0, 1))
    assert torch.equal(before, result.generate("a wave rolls", weights="base").frames_FCHW)
    assert torch.equal(after, result.generate("a wave rolls").frames_FCHW)
    with pytest.raises(cogtune.UserError, match=r"strength: 0\.5; full training changed all weights"):
        result.generate("a wave rolls", strength=0.5)


def test_what_cannot_be_generated(finished: Finished) -> None:
    result = cogtune.load_result(finished.root / "results/tiny")
    with pytest.raises(cogtune.UserError, match="expected one of tuned, base"):
        result.generate("a wave rolls", weights="ema")
    with pytest.raises(cogtune.UserError, match="text-to-video model, which takes no picture"):
        result.generate("a wave rolls", image="a.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected an integer from 1 to"),
        ({"steps": 2.5}, "steps: expected an integer"),
        ({"seed": -1}, "seed: expected an integer from 1 to"),
        ({"seed": "7"}, "seed: expected an integer"),
        ({"strength": 11}, "strength: expected a number from -10 to 10; found 11"),
        ({"strength": 0.5, "weights": "base"}, "strength: multiplies the LoRA of the tuned model"),
    ],
)
def test_a_number_out_of_range_is_refused(finished: Finished, options: dict[str, Any], message: str) -> None:
    result = cogtune.load_result(finished.root / "results/tiny")
    with pytest.raises(cogtune.UserError, match=message):
        result.generate("a wave rolls", **options)


def test_a_video_is_saved_as_mp4_only(tmp_path: Path) -> None:
    with pytest.raises(cogtune.UserError, match=r"saved as \.mp4 only"):
        Video(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), 8.0).save(tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_what_is_not_a_result(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(cogtune.UserError, match="no report of an experiment; expected a folder like results/demo"):
        cogtune.load_result(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/samples").symlink_to(tmp_path / "gone/0123456789ab/videos")
    with pytest.raises(cogtune.UserError, match="which is not in a store; was the store moved"):
        cogtune.load_result(tmp_path / "tiny")
    publish(
        tmp_path / "tiny", "0123456789ab", {"report.html": ""}, {"samples": views(finished)}
    )  # as version 0.1.0 did
    with pytest.raises(cogtune.UserError, match="no run knows the samples"):
        cogtune.load_result(tmp_path / "tiny")

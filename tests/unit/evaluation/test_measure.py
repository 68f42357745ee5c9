import json

import pytest
import torch

from cogtune.data.rows import EvaluationRow
from cogtune.evaluation import measure
from cogtune.evaluation.metrics import PSNR_CAP_DB
from cogtune.evaluation.sample_figures import Sample
from cogtune.runtime.typed_json import from_json, to_json

CLIPS = {
    name: torch.randint(0, 200, (2, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    for seed, name in enumerate(("aa", "bb", "cc"))
}
SPLITS = {"aa": "train", "bb": "train", "cc": "train", "dd": "valid"}


def evaluated(videos: dict[tuple[str, str], torch.Tensor]):
    """Rows and metrics of samples given as {(clip, variant): video}."""
    samples = [Sample(f"{clip}.{variant}", clip, variant, "caption", clip) for clip, variant in videos]
    pixels = {sample.item: videos[sample.prompt, sample.variant] for sample in samples}
    measured = {
        clip: measure.measure(video, video + 1, pixels, [s.item for s in samples if s.clip == clip])
        for clip, video in CLIPS.items()
    }
    measured["dd"] = measure.measure(CLIPS["aa"], CLIPS["aa"] + 4, {}, [])
    rows = measure.per_sample(samples, measured)
    return rows, measure.flat_metrics(rows, measured, SPLITS)


@pytest.mark.heavy
def test_perfect_samples():
    rows, found = evaluated({(clip, "tuned"): video for clip, video in CLIPS.items()})
    assert all(row.hit and row.values["psnr_db"] == PSNR_CAP_DB and row.nearest == row.sample.clip for row in rows)
    assert found["samples.retrieval_accuracy"] == 1
    assert found["samples.psnr_db"] == PSNR_CAP_DB
    assert found["samples.ssim"] == 1


@pytest.mark.heavy
def test_samples_of_the_next_clip_are_misses_and_name_it():
    clips = list(CLIPS)
    rows, found = evaluated({(clip, "shuffled"): CLIPS[clips[(i + 1) % 3]] for i, clip in enumerate(clips)})
    assert [row.nearest for row in rows] == ["bb", "cc", "aa"]
    assert found["samples.retrieval_accuracy_shuffled"] == 0


@pytest.mark.heavy
def test_controls_that_were_not_sampled_are_absent():
    _, found = evaluated({("aa", "tuned"): CLIPS["aa"], ("aa", "null"): CLIPS["bb"], ("bb", "null"): CLIPS["bb"]})
    assert found["samples.retrieval_accuracy_null"] == 0.5
    assert not [name for name in found if name.endswith(("_base", "_guided", "_shuffled"))]
    assert found["samples.count"] == 2


@pytest.mark.heavy
def test_one_answer_for_all_captions_is_right_once():
    _, found = evaluated({(clip, "base"): CLIPS["bb"] for clip in CLIPS})
    assert found["samples.retrieval_accuracy_base"] == pytest.approx(1 / 3, abs=1e-4)


def test_reconstruction_of_trained_and_of_held_out_clips():
    _, found = evaluated({})
    assert found["vae.psnr_db"] == found["vae.psnr_db_min"] == pytest.approx(48.131, abs=1e-3)
    assert found["vae.psnr_db_heldout"] == pytest.approx(36.09, abs=1e-3)
    assert (found["data.clips_train"], found["data.clips_valid"]) == (3, 1)


def test_metrics_are_sorted_and_what_was_measured_survives_json():
    _, found = evaluated({("aa", "tuned"): CLIPS["aa"]})
    assert list(found) == sorted(found)
    kept = measure.measure(CLIPS["aa"], CLIPS["bb"], {"x": CLIPS["cc"]}, ["x"])
    assert from_json(EvaluationRow, json.loads(json.dumps(to_json(kept)))) == kept


def test_prompts_without_a_clip_are_listed_and_not_measured():
    rows = measure.per_sample([Sample("prompt-00000.tuned", "prompt-00000", "tuned", "a dog")], {})
    assert [row.to_json() for row in rows] == [
        {"item": "prompt-00000.tuned", "prompt": "prompt-00000", "variant": "tuned", "caption": "a dog", "clip": None}
    ]
    assert "samples.psnr_db" not in measure.flat_metrics(rows, {}, {})

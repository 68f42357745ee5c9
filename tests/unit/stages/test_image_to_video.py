"""Image-to-video: the cache of noised first frames, what it shares with text-to-video, and that sampling sees what
training saw."""

import copy
import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from cogtune.config.build import build
from cogtune.config.errors import ConfigError
from cogtune.data.clips import load_clip
from cogtune.data.dataset import CachedDataset
from cogtune.data.rows import Pair, clip_plan
from cogtune.data.store import ShardReader
from cogtune.diffusion.image import image_condition
from cogtune.sampling import generate
from cogtune.sampling.generate import encode_image
from cogtune.stages import evaluate, export, report, sample, train
from cogtune.stages.images import noised_copies
from cogtune.train.feed import Feed
from tests.unit.stages.caching import TINY, Caching
from tests.unit.stages.finished import Finished

pytestmark = pytest.mark.heavy

I2V = TINY.with_name("tiny_i2v.yaml")
I2V_15 = TINY.with_name("tiny15_i2v.yaml")
VAE = "model.first_stage_config.params"
MEAN = f"{VAE}.regularizer_config.params.sample=false"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Caching:
    """Two clips of which one is too short, and all caches. For reading."""
    project = Caching(tmp_path_factory.mktemp("i2v") / "project", I2V)
    project.add("wave", "a wave rolls over the sand", 1)
    project.add("short", "other words", 3, frames=4)
    project.counts = project.run_all() | {"images": project.run("images")}
    return project


@pytest.fixture
def project(made: Caching, tmp_path: Path) -> Caching:
    return made.with_store(tmp_path / "store")


def changed(project: Caching, **changes: Any) -> Caching:
    """The same project, read under other settings."""
    other = copy.copy(project)
    other.__dict__.update(changes)
    return other


def test_one_row_for_each_clip(made: Caching) -> None:
    assert made.counts["images"] == {"made": 1, "reused": 0, "skipped": 1}
    assert made.run("images") == {"made": 0, "reused": 1, "skipped": 1}
    reader = ShardReader(made.job("images").items_dir())
    (clip,) = reader.ids()
    moments = reader.tensors(clip)["moments"]
    assert moments.shape == (4, 8, 4, 6)
    assert len({tuple(row.flatten().tolist()) for row in moments}) == 4


def test_noised_pixels_are_encoded_and_the_noise_is_upstreams(made: Caching) -> None:
    """Row k is the encoder's view of the first frame, noised by draw k: log-normal in size, the same for every seed."""
    job = made.job("images")
    row = next(row for row in job.manifest() if row.name == "videos/wave.mp4")
    plan = clip_plan(ShardReader(job.items_dir("preprocess")), row.clip).first_frame()
    pixels_1CHW = load_clip(row.path, plan, job.input.video_size)
    copies = noised_copies(pixels_1CHW[0].float() / 127.5 - 1, row.clip, 4)
    vae = build(job.input.vae)
    cached = ShardReader(job.items_dir()).tensors(row.clip)["moments"]
    torch.testing.assert_close(cached, vae.encode(copies[:, :, None])[:, :, 0], rtol=0, atol=1e-5)
    clean = pixels_1CHW[0].float() / 127.5 - 1
    many = noised_copies(clean, "another clip", 400)
    log_sigma = (many - clean).flatten(1).std(1).log()
    assert float(log_sigma.mean()) == pytest.approx(-3.0, abs=0.1)
    assert float(log_sigma.std()) == pytest.approx(0.5, abs=0.06)


def test_text_to_video_and_image_to_video_share_all_other_caches(made: Caching) -> None:
    plain = changed(made, yaml=TINY)
    t2v, i2v = plain.resolver().all(), made.resolver().all()
    assert set(i2v) - set(t2v) == {"images"}
    for stage in ("preprocess", "latents", "text"):
        assert t2v[stage].key == i2v[stage].key
    assert t2v["train"].key != i2v["train"].key


@pytest.mark.parametrize(
    "override", ["model.noised_image_dropout=0.5", "model.image_scale_factor=1.5", "args.image_noise_draws=9"]
)
def test_keys_of_the_image_change_nothing_without_one(made: Caching, override: str) -> None:
    plain = changed(made, yaml=TINY)
    before = {name: part.key for name, part in plain.resolver().all().items() if name != "report"}
    plain.overrides = [override]
    assert {name: part.key for name, part in plain.resolver().all().items() if name != "report"} == before


@pytest.mark.parametrize(
    ("override", "anew"),
    [
        ("args.image_noise_draws=2", {"images", "train", "export", "sample", "evaluate"}),
        ("model.image_scale_factor=1.5", {"train", "export", "sample", "evaluate"}),
        ("model.noised_image_dropout=0.5", {"train", "export", "sample", "evaluate"}),
        ("args.seed=12", {"train", "export", "sample", "evaluate"}),
        (
            f"{VAE}.encode_tile_size=[16,24] {VAE}.encode_tile_overlap=8",
            {"latents", "images", "train", "export", "sample", "evaluate"},
        ),
        (f"{VAE}.decode_tile_size=[16,24] {VAE}.decode_tile_overlap=8", {"sample", "evaluate"}),
        (f"{VAE}.slicing=true", set()),
    ],
)
def test_what_an_edit_makes_again(made: Caching, override: str, anew: set[str]) -> None:
    before = made.resolver().all()
    after = changed(made, overrides=override.split()).resolver().all()
    assert {name for name in before if before[name].key != after[name].key} - {"report"} == anew


@pytest.mark.parametrize("yaml", [I2V, I2V_15], ids=lambda path: path.stem)
def test_sampling_sees_what_training_saw(project: Caching, yaml: Path) -> None:
    """Without noise, a clip's own first frame gives the same condition in training and in sampling: 1.0 times the scale
    factor, 1.5 divided by it, the first of the padded latent frames."""
    project.yaml, project.overrides = yaml, ["args.image_noise_draws=0", "model.noised_image_dropout=0", MEAN]
    project.run_all()
    project.run("images")
    job = project.job("train")
    row = next(row for row in job.manifest() if row.name == "videos/wave.mp4")
    dirs = (job.items_dir("latents"), job.items_dir("text"), [Pair(row.clip, row.caption_id)], job.items_dir("images"))
    given = job.input
    loss, regularizer, patch = build(given.loss), build(given.regularizer), given.network["params"]["patch_size"][0]
    condition = image_condition(given.image_input, given.image_scale_factor, given.image_everywhere)
    assert condition is not None
    feed = Feed(CachedDataset(*dirs), regularizer, loss.sampling, 1, 0.9, 0.0, patch, condition)
    trained = feed.micro_batch([0], 3, range(1), 1)
    sampling = project.job("sample")
    (prompt,) = sample.select_prompts(sampling.input, [row])
    vae = build(sampling.input.vae)
    latent_CHW = encode_image(vae, sample._images(sampling, [prompt])[prompt.id], 5, prompt.id)
    sampled = condition(latent_CHW[None], trained.x0_BTCHW.shape[1])
    assert trained.concat_BTCHW is not None
    torch.testing.assert_close(sampled, trained.concat_BTCHW, rtol=0, atol=1e-6)
    assert condition.scale == pytest.approx(0.9 if yaml == I2V else 1 / 0.9)
    assert float(sampled[:, 0].abs().max()) > 0.01
    assert trained.x0_BTCHW.shape[1] == (2 if yaml == I2V else 4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    made = Finished(tmp_path_factory.mktemp("finished"), yaml=I2V, clips=2).fill()
    export.run(made.job("export"))
    sample.run(made.job("sample"))
    return made


def test_ranks_are_told_where_the_images_are(finished: Finished) -> None:
    assert train.plan_of(finished.job("train")).images == str(finished.job("images").items_dir())


def test_samples_of_the_data_set_start_from_the_clips_first_frames(finished: Finished) -> None:
    job = finished.job("sample")
    reader = ShardReader(job.job_dir())
    assert len(reader) == 4
    prepared = ShardReader(finished.job("preprocess").items_dir())
    for item in reader.ids():
        thumbnail_HWC = prepared.tensors(reader.meta(item)["clip"])["thumbnail"]
        assert torch.equal(reader.tensors(item)["image"], thumbnail_HWC)
        view = iio.imread(job.job_dir() / "images" / f"{reader.meta(item)['prompt']}.png")
        assert np.array_equal(view, thumbnail_HWC.permute(1, 2, 0).numpy())


def test_the_image_reaches_the_network_on_both_sides_of_a_guided_batch(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cogtune.model.dit import DiffusionTransformer

    seen = []
    real = DiffusionTransformer.forward

    def spy(self: Any, x_BTCHW: Any, *rest: Any, **named: Any):
        seen.append(x_BTCHW)
        return real(self, x_BTCHW, *rest, **named)

    monkeypatch.setattr(DiffusionTransformer, "forward", spy)
    other = Finished(finished.root, "args.sampling_guided=true", "args.sampling_count=1", clips=2, yaml=I2V)
    sample.run(other.job("sample"))
    assert all(x.shape == (2, 2, 8, 4, 6) for x in seen)
    for x in seen:
        assert torch.equal(x[0, :, 4:], x[1, :, 4:])
        assert float(x[:, 0, 4:].abs().min()) > 0
        assert (x[:, 1:, 4:] == 0).all()


def test_another_image_gives_another_video(finished: Finished, tmp_path: Path) -> None:
    made = {}
    for name, shift in (("one", 0), ("two", 90), ("one", 0)):
        y, x = np.mgrid[:40, :50]
        iio.imwrite(tmp_path / "picture.png", np.stack([x * 3 + shift, y * 5, x + y], axis=2).astype(np.uint8))
        (tmp_path / "prompts.txt").write_text("caption 0@@picture.png\n")
        job = with_prompts(finished, tmp_path).job("sample")
        counts = sample.run(job)
        reader = ShardReader(job.job_dir())
        if name in made:
            assert (job.key, counts.made) == (made[name][0], 0)
        made[name] = (job.key, reader.tensors("prompt-00000.tuned")["video"])
        assert reader.tensors("prompt-00000.tuned")["image"].shape == (3, 32, 48)
    assert made["one"][0] != made["two"][0]
    assert not torch.equal(made["one"][1], made["two"][1])


def with_prompts(finished: Finished, folder: Path) -> Finished:
    return Finished(finished.root, "args.input_type=txt", f"args.input_file={folder}/prompts.txt", clips=2, yaml=I2V)


@pytest.mark.parametrize(
    ("line", "says"), [("a caption", "expected caption@@image"), ("a@@../../x.png", "is outside of")]
)
def test_a_wrong_line_is_found_before_anything_runs(finished: Finished, tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "prompts.txt").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=rf"prompts.txt:1: .*{says}"):
        with_prompts(finished, tmp_path)


def test_evaluate_and_report_show_the_image(finished: Finished) -> None:
    assert evaluate.run(finished.job("evaluate")).made == 3
    report.run(finished.job("report"))
    html = (finished.root / "results/tiny/report.html").read_text()
    assert html.count('<img src="data:image/png;base64,') == 2
    assert html.count("First frame given") == 2 * 2  # label and alternative text
    assert "img-src data:" in html
    metrics = json.loads((finished.root / "results/tiny/metrics.json").read_text())
    assert metrics["samples.count"] == 2


def test_a_posterior_sample_depends_on_seed_and_name_alone(finished: Finished) -> None:
    vae = build(finished.job("sample").input.vae)
    pixels_CHW = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    one = generate.encode_image(vae, pixels_CHW, 1, "a")
    assert torch.equal(one, generate.encode_image(vae, pixels_CHW, 1, "a"))
    assert not torch.equal(one, generate.encode_image(vae, pixels_CHW, 1, "b"))
    assert not torch.equal(one, generate.encode_image(vae, pixels_CHW, 2, "a"))

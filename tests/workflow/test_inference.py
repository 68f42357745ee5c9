"""`args.mode: inference`: given weights are sampled as they are, and there is no scan, training or export."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import yaml

from cogtune.commands.weights_convert import convert
from cogtune.model.start import initial_model, trained_model
from cogtune.stages.export import final
from cogtune.stages.job import Job
from cogtune.stages.sampled_models import SampledModels, _loaded
from cogtune.stages.train import start_of
from cogtune.work.inputs import PromptedInput, TrainInput
from cogtune.work.slices import read_slice
from cogtune.work.workspace import Workspace
from tests.workflow.project import Project, environment, lay_out

pytestmark = pytest.mark.workflow
ADAPTERS = """model:
  lora_train: true
  network_config:
    params:
      modules:
        lora_config: {target: sat.model.finetune.lora2.LoraMixin, params: {r: 4}}
"""
SAMPLING = """args:
  mode: inference
  seed: 11
  input_type: txt
  input_file: prompts.txt
  encoder_precision: fp32
"""
EXPERIMENTS = """ranks: 2
experiments:
  tuned:
    base: [config/tiny.yaml, config/adapters.yaml]
    set: [args.train_iters=2, "args.sampling_controls=[]", args.sampling_count=1, "args.export_formats=[merged]"]
  by_name:
    base: [config/model.yaml, config/adapters.yaml, config/sampling.yaml]
    set: [args.load.experiment=tuned, "args.sampling_controls=[base, guided]", args.sampling_guided=false]
"""
MINE = """  mine:
    base: [config/tiny.yaml, config/adapters.yaml]
    set: [args.train_iters=2, "args.sampling_controls=[]", args.sampling_count=1, "args.export_formats=[merged]"]
  later:
    base: [config/tiny.yaml, config/adapters.yaml]
    set: [args.train_iters=3]
"""
BY_FILE = """  by_file:
    base: [config/model.yaml, config/sampling.yaml]
    set: [args.load=weights]
"""


def cogtune(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cogtune", *words]
    return subprocess.run(command, cwd=project.root, env=environment(), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def sampling(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished project whose tuned experiment is done; its merged weights are in weights/."""
    copy = Project(tmp_path_factory.mktemp("inference") / "project")
    shutil.copytree(project.root, copy.root, symlinks=True)
    sections = yaml.safe_load(copy.config.read_text())
    files = {
        "config/model.yaml": yaml.safe_dump({name: sections[name] for name in ("model", "data")}, sort_keys=False),
        "config/adapters.yaml": ADAPTERS,
        "config/sampling.yaml": SAMPLING,
        "config/config.yaml": EXPERIMENTS,
        "prompts.txt": "a wave\na stripe\n",
    }
    for name, text in files.items():
        (copy.root / name).write_text(text)
    copy.snakemake("experiment_tuned")
    shutil.copytree((copy.root / "results/tuned/export").resolve() / "merged", copy.root / "weights")
    (copy.root / "config/config.yaml").write_text(EXPERIMENTS + BY_FILE)
    return copy


def test_every_command_samples_and_does_nothing_else(sampling: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sampling.receipts())
    planned = json.loads(cogtune(sampling, "plan", "by_name", "by_file", "--format", "json").stdout)
    stages = {one["experiment"]: [step["stage"] for step in one["stages"]] for one in planned["experiments"]}
    assert stages["by_name"] == stages["by_file"] == ["sample", "report"]
    shown = sampling.snakemake("-n", "experiment_by_name", "experiment_by_file")
    dry = shown.stdout + shown.stderr
    assert "rule sample:" in dry
    assert not any(f"rule {stage}:" in dry for stage in ("scan", "preprocess", "latents", "text", "train", "export"))

    sampling.snakemake("experiment_by_name", "experiment_by_file")
    new = set(sampling.receipts()) - before
    assert sorted(name.partition("-")[0] for name in new) == ["sample", "sample"]
    for name, variants in (("by_name", ["guided", "tuned"]), ("by_file", ["tuned"])):
        results = sampling.root / "results" / name
        rows = json.loads((results / "per_sample.json").read_text())
        assert sorted({row["variant"] for row in rows}) == variants, "nothing was trained, so there is no base"
        assert len(list((results / "samples").glob("*.mp4"))) == 2 * len(variants)
        page = (results / "report.html").read_text()
        assert "with the loaded weights" in page
        assert "After training" not in page
        assert json.loads((results / "metrics.json").read_text()) == {"samples.count": 2}
    assert "Nothing to be done" in sampling.snakemake("experiment_by_name", "experiment_by_file").stderr

    words = ["--base", "config/model.yaml", "config/sampling.yaml", "--", "args.load=weights"]
    by_hand = cogtune(sampling, "sample", *words)  # the same job
    assert by_hand.returncode == 0, by_hand.stderr
    assert set(sampling.receipts()) == before | new

    monkeypatch.chdir(sampling.root)
    workspace = Workspace.load("config/config.yaml")
    job = Job(workspace.slices("by_name")["sample"], workspace.store)
    earlier = job.upstream_job("load", TrainInput)
    expected = trained_model(start_of(earlier), final(earlier, average=False)).state_dict()
    sampled = _loaded(job, torch.float32).state_dict()
    assert any("matrix_" in name for name in sampled)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in sampled.items())
    job = Job(workspace.slices("by_file")["sample"], workspace.store)
    sampled = _loaded(job, torch.float32).state_dict()
    (file,) = Path("weights").rglob("*.pt")
    given = torch.load(file, weights_only=True)["module"]
    fits = {
        name: given["model.diffusion_model." + name] for name in sampled if "model.diffusion_model." + name in given
    }
    assert len(fits) > 20
    assert all(torch.equal(tensor, sampled[name]) for name, tensor in fits.items())


def test_the_result_of_sampling_is_no_weights(sampling: Project) -> None:
    words = ["--base", "config/model.yaml", "config/sampling.yaml", "--", "args.load.experiment=by_name"]
    told = cogtune(sampling, "sample", *words)
    assert told.returncode == 2
    assert "by_name only samples (args.mode: inference)" in told.stderr


@pytest.mark.parametrize("stage", ["scan", "latents", "train", "export", "evaluate"])
def test_a_stage_of_training_has_nothing_to_do(sampling: Project, stage: str) -> None:
    words = ["--base", "config/model.yaml", "config/sampling.yaml", "--", "args.load=weights"]
    told = cogtune(sampling, stage, *words)
    assert told.returncode == 1
    assert f"{stage}: nothing to do: args.mode is inference" in told.stderr


@pytest.mark.parametrize("command", [["config", "check"], ["plan"], ["sample"]], ids=" ".join)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("args.input_type=txt", "args.load: not set; mode inference needs the weights to sample from"),
        ("args.input_type=cli", "args.input_type: cli uses the captions of the data set"),
    ],
)
def test_what_is_lacking_is_said_by_every_command(
    sampling: Project, command: list[str], change: str, message: str
) -> None:
    told = cogtune(sampling, *command, "--base", "config/model.yaml", "config/sampling.yaml", "--", change)
    assert told.returncode != 0
    assert message in told.stderr


def own(project: Project, *words: str) -> list[Path]:
    """The videos of `cogtune sample`, which must end well."""
    done = cogtune(project, "sample", *words)
    assert done.returncode == 0, done.stderr
    page = project.root / done.stdout.strip()
    assert page.is_file()
    return sorted((page.parent / "videos").iterdir())


def test_own_prompts_of_an_experiment(sampling: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained or made twice; strengths 0 and 1 are the base and the tuned model to the bit."""
    (sampling.root / "config/config.yaml").write_text(EXPERIMENTS + BY_FILE + MINE)
    before = set(sampling.receipts())
    (sampling.root / "two.txt").write_bytes(b"\xef\xbb\xbfsea\r\nfog\r\n")
    words = ["mine", "--prompts", "two.txt", "--strength", "0", "1"]
    told = cogtune(sampling, "sample", *words, "--dry-run")
    assert "4 videos (2 prompts x 2 strengths x 1 seed), 0 of them in the store" in told.stderr
    assert not (sampling.root / "results/mine").exists()
    videos = own(sampling, *words)
    assert [path.name for path in videos] == [
        f"0{i}-{word}_strength-{strength}_seed-11.mp4" for i, word in ((1, "sea"), (2, "fog")) for strength in (0, 1)
    ]
    assert len({path.read_bytes() for path in videos}) >= 2
    stamps = {path.resolve(): path.stat().st_mtime_ns for path in videos}
    more = cogtune(sampling, "sample", *words[:3], "--prompt", "sky", "--strength", "0", "0.5", "1", "--seed", "11")
    assert "made 5, reused 4" in more.stderr
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert set(sampling.receipts()) == before

    monkeypatch.chdir(sampling.root)
    run = next(path for path in Path("results/.runs").glob("mine.prompts-*.json"))
    key = next(key for key, part in json.loads(run.read_text())["parts"].items() if part.get("prompts"))
    job: Job[PromptedInput] = Job(read_slice(Path(f"store/slices/{key}.json"), run.resolve()), Path("store").resolve())
    start = start_of(job.upstream_job("load", TrainInput))
    trained = trained_model(start, final(job.upstream_job("load", TrainInput), average=False))
    models = SampledModels(job)
    for weights, expected in (("tuned", trained), ("base", initial_model(start))):
        state, exact = models._network(weights).state_dict(), expected.to(torch.bfloat16).state_dict()
        assert state.keys() == exact.keys()
        assert all(torch.equal(state[name], exact[name]) for name in exact)
    assert models.has_lora
    assert models.has_base


def test_own_prompts_of_weights(sampling: Project) -> None:
    """A LoRA in any form gives the same bytes; its base is that of the YAML; full weights have one strength."""
    lora = sampling.root / "results/tuned/export/pytorch_lora_weights.safetensors"
    for i in range(2):  # two steps of training are not seen in a video
        lora = convert(lora, "comfyui_lora", sampling.root / f"strong-{i}", strength=10)
    same = convert(lora, "diffusers_lora", sampling.root / "same")
    base = ["--base", "config/model.yaml", "--prompt", "sea", "--strength", "0.5", "1", "--", "args.load=weights"]
    pages = [own(sampling, str(file), *base) for file in (lora, same)]
    assert pages[0][0].parent != pages[1][0].parent or lora.name != same.name
    made = [[path.read_bytes() for path in videos] for videos in pages]
    assert made[0] == made[1]
    assert made[0][0] != made[0][1]
    own(sampling, "weights", "--base", "config/model.yaml", "--prompt", "sea")
    told = cogtune(sampling, "sample", "weights", "--base", "config/model.yaml", "--prompt", "sea", "--strength", "0.5")
    assert (told.returncode, "the weights have no LoRA to multiply" in told.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("later", "later: the training of its present config is not finished (not started;"),
        ("tuned --negative fog", "--negative: guidance leads away from it, but these videos are made without guidance"),
        ("tuned --image a.png", "--image: this is a text-to-video model"),
        ("tuned --frames 6", "--frames 6: the VAE makes 4k + 1 frames; expected 5 or 9"),
        ("tuned --base config/model.yaml", "--base: the config of tuned is in config/config.yaml"),
        ("tiny.pt", "tiny.pt: no such experiment"),
        ("assets/3d-vae.pt --base config/model.yaml", "contains VAE; expected a LoRA, a transformer, or the name"),
        ("tuned --prompt a.longer.prompt.than.eight", "--prompt 2:"),
    ],
)
def test_own_prompts_that_cannot_be_sampled(sampling: Project, words: str, message: str) -> None:
    (sampling.root / "config/config.yaml").write_text(EXPERIMENTS + BY_FILE + MINE)
    model, *options = words.split()
    told = cogtune(sampling, "sample", model, "--prompt", "sea", *options)
    assert told.returncode in (1, 2)
    assert message in told.stderr
    assert "Traceback" not in told.stderr


SWEEP = """sweep:
  steps:
    experiment: by_name
    set: ["args.sampling_controls=[]"]
    grid:
      args.sampling_steps: [2, 3]
"""


def test_a_sweep_over_experiments_that_only_sample(sampling: Project) -> None:
    """Its members share the weights and differ in how they sample; nothing was measured, so samples are what it compares."""
    before = set(sampling.receipts())
    (sampling.root / "config/config.yaml").write_text(EXPERIMENTS + SWEEP)
    sampling.snakemake("sweep_steps")
    assert sorted(name.partition("-")[0] for name in set(sampling.receipts()) - before) == ["sample", "sample"]
    results = sampling.root / "results/steps"
    rows = list(csv.DictReader((results / "sweep.csv").open()))
    assert [row["args.sampling_steps"] for row in rows] == ["2", "3"]
    page = (results / "report.html").read_text()
    assert page.count("data:video/mp4") == 2 * 2
    assert "nan" not in page.lower().split("<style")[0]
    members = [path.parent for path in sorted(results.glob("*/report.html"))]
    assert [path.name for path in members] == ["steps-sampling_steps_2", "steps-sampling_steps_3"]
    videos = [next((path / "samples").glob("*.mp4")).read_bytes() for path in members]
    assert videos[0] != videos[1]
    assert "Nothing to be done" in sampling.snakemake("sweep_steps").stderr


IMAGE_EXPERIMENTS = """ranks: 2
experiments:
  tuned:
    base: [config/tiny_i2v.yaml]
    set: [args.train_iters=2, "args.sampling_controls=[]", args.sampling_count=1, "args.export_formats=[sat]"]
  by_name:
    base: [config/model.yaml, config/sampling.yaml]
    set: [args.load.experiment=tuned]
"""


@pytest.mark.slow
def test_image_to_video(tmp_path: Path) -> None:
    """Given images are sampled from by given weights, whether an experiment or a folder names them; no data set is read."""
    made = lay_out(tmp_path)
    shutil.copy2(Path(__file__).parent / "tiny_i2v.yaml", made.root / "config")
    (made.root / "config/config.yaml").write_text(IMAGE_EXPERIMENTS)
    sections = yaml.safe_load(
        cogtune(made, "config", "show", "--base", "config/tiny_i2v.yaml", "--format", "yaml").stdout
    )
    model = yaml.safe_dump({name: sections[name] for name in ("model", "data")}, sort_keys=False)
    (made.root / "config/model.yaml").write_text(model)
    (made.root / "config/sampling.yaml").write_text(SAMPLING + "  image2video: true\n")
    (made.root / "prompts.txt").write_text("a wave@@pictures/a.png\na stripe@@pictures/b.png\n")
    (made.root / "pictures").mkdir()
    y, x = np.mgrid[:40, :50]
    for name, picture in (("a", [x * 5, y * 6, x + y]), ("b", [y * 6, x * 5, 90 - x - y])):
        iio.imwrite(made.root / f"pictures/{name}.png", np.stack(picture, axis=2).astype(np.uint8))
    made.snakemake("experiment_tuned")
    shutil.copytree((made.root / "results/tuned/export").resolve() / "sat", made.root / "weights")
    shutil.move(made.root / "data", made.root / "data that nobody reads")
    by_file = "  by_file:\n    base: [config/model.yaml, config/sampling.yaml]\n    set: [args.load=weights]\n"
    (made.root / "config/config.yaml").write_text(IMAGE_EXPERIMENTS.split("  tuned:")[0] + by_file)
    made.snakemake("experiment_by_file")
    shutil.move(made.root / "data that nobody reads", made.root / "data")
    (made.root / "config/config.yaml").write_text(IMAGE_EXPERIMENTS + by_file)
    made.snakemake("experiment_by_name", "experiment_by_file")
    samples = {}
    for name in ("by_name", "by_file"):
        results = made.root / "results" / name
        page = (results / "report.html").read_text()
        assert page.count("data:image/png;base64,") == 2
        assert "First frame given" in page
        assert json.loads((results / "metrics.json").read_text()) == {"samples.count": 2}
        samples[name] = [path.read_bytes() for path in sorted((results / "samples").glob("*.mp4"))]
        assert len(set(samples[name])) == 2
    before = set(made.receipts())
    iio.imwrite(made.root / "pictures/a.png", np.stack([x, y, x], axis=2).astype(np.uint8))
    made.snakemake("experiment_by_file")
    assert sorted(name.partition("-")[0] for name in set(made.receipts()) - before) == ["sample"]
    assert "Nothing to be done" in made.snakemake("experiment_by_file").stderr

"""Broken videos end in the report's table of rejects; a broken config ends before any job, with exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cogtune.work.machine_limits import has_gpu
from tests.workflow.project import Project, environment

pytestmark = pytest.mark.workflow


def test_broken_videos_are_rejected_with_a_reason_and_stop_nothing(project: Project) -> None:
    page = (project.root / "results/tiny/report.html").read_text()
    (listing,) = project.root.glob("store/scan/*/rejects.jsonl")
    rejects = {Path(row["name"]).name: row["reason"] for row in map(json.loads, listing.read_text().splitlines())}
    assert set(rejects) == {"truncated.mp4", "empty.mp4", "text.mp4"}
    assert "of" in rejects["truncated.mp4"], "opens and decodes without an error: only the count tells"
    for name in rejects:
        assert name in page


def test_the_report_shows_samples_and_the_metrics_file_has_the_figures(project: Project) -> None:
    metrics = json.loads(project.metrics())
    expected = {"vae.psnr_db", "vae.psnr_db_min", "vae.psnr_db_heldout", "train.loss_first", "train.loss_last"}
    expected |= {f"samples.retrieval_accuracy{control}" for control in ("", "_base", "_shuffled", "_null")}
    expected |= {"samples.psnr_db", "samples.psnr_db_base"}
    assert expected <= metrics.keys()
    timings = json.loads((project.root / "results/tiny/timings.json").read_text())
    stages = ("scan", "preprocess", "latents", "text", "train", "export", "sample", "evaluate", "report")
    assert {f"seconds.{stage}" for stage in stages} | {
        "train.steps_per_second",
        "train.data_wait_fraction",
    } <= timings.keys()
    assert (project.root / "results/tiny/report.html").read_text().count("data:video/mp4;base64,") >= 4


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("train_iters: 6", "train_itters: 6", ["config/tiny.yaml", "args.train_itters", "train_iters"]),
        ("train_iters: 6", "train_iters: six", ["config/tiny.yaml", "args.train_iters", "an integer"]),
        ("dit_video_concat.AdaLNMixin", "dit_video_concat.AdaLNMixim", ["config/tiny.yaml", "AdaLNMixin"]),
        ("assets/3d-vae.pt", "assets/no-vae.pt", ["config/tiny.yaml", "ckpt_path", "assets/no-vae.pt"]),
        ("assets/3d-vae.pt", "assets/t5/model.safetensors", ["config/tiny.yaml", "ckpt_path", "contains T5"]),
        ("max_num_frames: 5", "max_num_frames: 6", ["config/tiny.yaml", "max_num_frames", "4k"]),
    ],
)
def test_a_bad_config_fails_before_any_job(project: Project, old: str, new: str, words: list[str]) -> None:
    stamps, text = project.stamps(), project.config.read_text()
    line = next(number for number, row in enumerate(text.splitlines(), 1) if old in row)
    project.edit(old, new)
    try:
        done = project.snakemake(check=False)
    finally:
        project.edit(new, old)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert project.stamps() == stamps
    message = next(row for row in done.stderr.splitlines() if "config/tiny.yaml" in row)
    assert f"config/tiny.yaml:{line}" in message, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def snakemake(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As typed, without the arguments that the other tests add."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(command, cwd=project.root, env=environment(), capture_output=True, text=True, timeout=300)


def test_unlock_works_as_snakemake_advises_it(project: Project) -> None:
    """After a power cut the locks of a run stay, and Snakemake asks for `snakemake --unlock`."""
    locks = project.root / ".snakemake/locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.input.lock").write_text("data/x\n")
    (locks / "0.output.lock").write_text("results/.receipts/x\n")
    done = snakemake(project, "--unlock")
    assert done.returncode == 0, done.stderr
    assert not list(locks.glob("*.lock"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run=try", "base=config/tiny.yaml", "sett=args.seed=3"), "--config: sett: unknown key; did you mean 'set'?"),
        (("storedir=/x",), "--config: storedir: unknown key; did you mean 'store_dir'?"),
        (("ranks=two",), "--config: ranks: expected an integer or null; found 'two'"),
    ],
)
def test_a_slip_in_snakemakes_config_ends_before_any_job(project: Project, words: tuple[str, ...], told: str) -> None:
    stamps = project.stamps()
    done = snakemake(project, "--config", *words)
    assert (done.returncode, project.stamps()) == (2, stamps), done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(has_gpu(), reason="a GPU trains in fp16")
def test_fp16_without_a_gpu_ends_before_any_job(project: Project) -> None:
    stamps, before = project.stamps(), project.config.read_text()
    project.edit("bf16: {enabled: true}", "bf16: {enabled: false}")
    project.edit("fp16: {enabled: false}", "fp16: {enabled: true}")
    try:
        done = snakemake(project)
    finally:
        project.config.write_text(before)
    assert (done.returncode, project.stamps()) == (2, stamps), done.stderr
    assert "tiny: deepspeed.fp16.enabled: a CPU cannot train in fp16" in done.stderr

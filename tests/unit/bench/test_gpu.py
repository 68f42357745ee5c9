"""The GPU benchmark: its table, its targets, and that every group runs, with small networks on the CPU."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.gpu.__main__ import GROUPS
from bench.gpu.bench import Bench
from bench.gpu.clock import measure
from bench.gpu.results import TARGETS, Environment, Results, Row
from bench.gpu.setting import FILES, Setting
from cogtune.config.schema.checkpointing import Policy

REPO = Path(__file__).parents[3]
H100 = Environment("NVIDIA H100 80GB HBM3", "580.1", "2.13", "13.0", "cudnn_attention")
ROW = Row(
    "steps",
    "5b",
    "LoRA 128, selective",
    "cogtune",
    2.0,
    "tokens",
    17776,
    0.4,
    50e9,
    planned_seconds=2.2,
    planned_peak=51e9,
)


def results(*rows: Row, device: str = H100.device) -> Results:
    return Results(replace(H100, device=device), list(rows))


def test_results_survive_their_file(tmp_path: Path) -> None:
    written = results(ROW, replace(ROW, seconds=None, note="out of memory"))
    written.write(tmp_path / "gpu.json")
    assert Results.read(tmp_path / "gpu.json") == written


@pytest.mark.parametrize(("seconds", "verdict"), [(2.0, "met"), (2.3, "met"), (2.31, "MISSED"), (None, "MISSED")])
def test_target_of_a_time(seconds: float | None, verdict: str) -> None:
    text = results(replace(ROW, seconds=seconds, note="" if seconds else "out of memory")).markdown()
    assert f"<= 2.3 s {verdict}" in text
    assert (seconds is not None) or "out of memory" in text


@pytest.mark.parametrize(("seconds", "missed"), [(16 / 150, 0), (16 / 149, 1)])
def test_target_of_a_rate(seconds: float, missed: int) -> None:
    row = Row("encoders", "t5", "226 tokens, batches of 16", "cogtune", seconds, "captions", 16)
    assert len(results(row).missed()) == missed
    assert not results(row, device="NVIDIA H200").missed(), "targets are those of one device"
    assert not results(replace(row, side="diffusers")).missed()


def test_every_target_names_a_case_of_the_benchmark() -> None:
    cases = {("steps", name, Setting(name, policy=policy).case) for name in FILES for policy in Policy}
    cases |= {("encoders", "vae", "encode 49x480x720"), ("encoders", "t5", "226 tokens, batches of 16")}
    cases |= {("sampling", name, "50 steps, guided") for name in FILES}
    assert {(target.group, target.model, target.case) for target in TARGETS} <= cases
    assert Setting("5b").costs.clip == (49, 480, 720)


def test_predictions_are_judged() -> None:
    good, bad = ROW, replace(ROW, case="other", planned_peak=30e9, planned_seconds=9.0)
    text = results(good, bad).markdown()
    assert "memory: 1 of 2 rows within 8%; worst -40% (steps, 5b, other)" in text
    assert "time: 1 of 2 rows within 20%; worst +350%" in text


def test_a_case_that_does_not_fit_is_a_row() -> None:
    def too_much() -> None:
        raise torch.cuda.OutOfMemoryError("out of memory")

    rows: list[Row] = []
    bench = Bench(torch.device("cpu"), tiny=True, on_row=rows.append)
    bench.time(replace(ROW, seconds=None), too_much)
    Bench(torch.device("cpu"), tiny=True, seconds=-1, on_row=rows.append).time(ROW, too_much)
    assert [row.note for row in rows] == ["out of memory", "not run: -1 s were over"]


def test_a_missed_target_gets_a_table_of_kernels(tmp_path: Path) -> None:
    def product() -> torch.Tensor:
        return torch.ones(64, 64) @ torch.ones(64, 64)

    bench = Bench(torch.device("cpu"), tiny=True, runs=1, results=results(), profiles=tmp_path)
    bench.time(replace(ROW, group="encoders", model="t5", case="226 tokens, batches of 16", count=1e-9), product)
    (profile,) = tmp_path.glob("profile-*.txt")
    assert "aten::mm" in profile.read_text()


def test_seconds_are_the_median() -> None:
    waits = iter([0.0, 0.03, 0.0, 0.0])
    measured = measure(lambda: time.sleep(next(waits)), torch.device("cpu"), runs=3)
    assert measured is not None
    assert measured.seconds < 0.02
    assert measured.peak is None


@pytest.mark.heavy
def test_all_groups_run_on_a_cpu(tmp_path: Path) -> None:
    options = ["--tiny", "--runs", "1", "--models", "5b", "--no-compile", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", *options],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = Results.read(tmp_path / "gpu.json").rows
    assert {row.group for row in rows} == set(GROUPS)
    assert all(row.seconds for row in rows), [row for row in rows if not row.seconds]
    assert len(rows) == 5 + 3 + 4 + 4 + 4 + 1
    assert (tmp_path / "gpu.md").read_text() == done.stdout


def test_without_a_gpu_it_says_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu"], cwd=REPO, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 2
    assert "--tiny" in done.stderr

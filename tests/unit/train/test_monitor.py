"""What a training tells of its steps: rows, the progress line, scalars for trackers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cogtune.runtime.machines import same
from cogtune.train.monitor import Monitor, Step
from cogtune.train.skipped import Skipped, Skips
from cogtune.train.throughput import Throughput, latent_tokens
from cogtune.train.trackers import Trackers
from cogtune.work.training_log import StepRow, TrainingLog, ValidationRow, read, scalars


class Kept:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.points: dict[int, dict[str, float]] = {}

    def add(self, scalars: Any, step: int) -> None:
        self.points[step] = dict(scalars)

    def close(self) -> None: ...


def monitored(folder: Path, start: int, last: int, interval: int = 3) -> tuple[list[dict[str, Any]], Kept]:
    """The reports and scalars of the steps after ``start``. Step 4 is skipped, and the gradient of step 5 infinite."""
    reports, kept, skips = [], Kept(), Skips(9)
    if start >= 4:
        skips.steps.append(Skipped(4, "the loss is nan", []))
    monitor = Monitor(8, interval, Throughput(tokens=1000, flops=3e12, peak=1e13), reports.append, skips)
    monitor.begin(TrainingLog(folder / "log.jsonl", start), Trackers([kept]))
    for step in range(start + 1, last + 1):
        skipped = Skipped(step, "the loss is nan", ["a"]) if step == 4 else None
        if skipped:
            skips.steps.append(skipped)
        norm, seconds = math.inf if step == 5 else 0.5, 60.0 if step == start + 1 else 0.5
        loss = math.nan if step == 4 else 1 / step
        monitor.step(Step(step, loss, 1e-3, norm, skipped=skipped, overflowed=step == 5), seconds, 0.1)
    monitor.validation(ValidationRow(last, 0.25))
    monitor.validation(ValidationRow(last, math.nan))
    return reports, kept


def test_every_logged_step_has_its_figures(tmp_path: Path) -> None:
    reports, kept = monitored(tmp_path, 0, 8)
    steps = {row.step: row for row in read(tmp_path / "log.jsonl") if isinstance(row, StepRow)}
    assert [step for step, row in steps.items() if row.loss_mean is not None] == [3, 6, 8]
    assert steps[3].loss_mean == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert (steps[3].seconds_mean, steps[3].tokens_per_second, steps[3].mfu) == (
        0.5,
        2000,
        0.6,
    )  # the first step is not timed
    assert (steps[3].skipped_steps, steps[6].skipped_steps) == (0, 1)
    assert kept.points[3]["train/loss"] == pytest.approx(1 / 3)
    assert kept.points[8]["validation/loss"] == 0.25
    assert [report["skipped"] for report in reports] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [report["loss"] for report in reports][3] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    for line in [*(tmp_path / "log.jsonl").read_text().splitlines(), *map(json.dumps, reports)]:
        json.loads(line, parse_constant=pytest.fail)
    assert all(math.isfinite(value) for point in kept.points.values() for value in point.values())


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_resumed_training_tells_the_same(tmp_path: Path, stop: int) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
    reports, _ = monitored(whole, 0, 8)
    monitored(halves, 0, stop)
    resumed, _ = monitored(halves, stop, 8)
    assert [report["loss"] for report in resumed] == [report["loss"] for report in reports[stop:]]
    means = [[row.loss_mean for row in read(f / "log.jsonl") if isinstance(row, StepRow)] for f in (whole, halves)]
    assert means[0] == means[1]


def test_without_a_known_peak_there_is_no_mfu() -> None:
    assert Throughput(1, 1e12, 1e12).mfu(2.0) == 0.5
    assert Throughput(1, None, 1e12).mfu(2.0) is None
    assert Throughput(1, 1e12, None).mfu(2.0) is None


def test_latent_tokens_are_those_of_the_network() -> None:
    assert latent_tokens((13, 60, 90), (1, 2, 2)) == 17_550  # 49 frames of 480 x 720
    assert latent_tokens((21, 96, 170), (2, 2, 2)) == 11 * 48 * 85  # 81 frames of 768 x 1360; one frame is repeated


GPUS = {
    "NVIDIA H100 80GB HBM3": "H100", "NVIDIA H100 PCIe": "H100 PCIe", "NVIDIA H200": "H200", "NVIDIA B200": "B200",
    "NVIDIA A100-SXM4-80GB": "A100", "NVIDIA A100 80GB PCIe": "A100", "NVIDIA A100-PCIE-40GB": "A100-PCIE-40GB",
    "NVIDIA GH200 480GB": "GH200", "NVIDIA L40S": "L40S", "Tesla T4": "T4", "Tesla V100-SXM2-32GB": "V100",
    "NVIDIA GeForce RTX 4090": "RTX 4090", "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada", "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA GeForce RTX 3090 Ti": "RTX 3090 Ti", "AMD Instinct MI300X": "MI300X",
}  # fmt: skip
VARIANTS = [
    "NVIDIA H100 NVL", "NVIDIA H200 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A10G", "NVIDIA A100-SXM-64GB",
    "NVIDIA H800 PCIe", "Tesla V100-PCIE-16GB", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 4070 Ti", "NVIDIA GeForce RTX 3080", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "CPU", "",
]  # fmt: skip


def test_the_peak_is_that_of_the_same_gpu_or_unknown() -> None:
    """By names as drivers give them. A variant may be slower, so that its MFU would be wrong."""
    assert {name: device.name if (device := same(name)) else None for name in GPUS} == GPUS
    assert [name for name in VARIANTS if same(name)] == []


def test_scalars_are_named_and_finite_whatever_the_row() -> None:
    row = StepRow(
        step=3, skipped="why", clips=["a"], loss=math.nan, lr=0.1, grad_norm=math.inf, seconds=1.0, data_wait=0.0
    )
    assert scalars(row) == {"train/lr": 0.1, "train/seconds": 1.0, "train/data_wait": 0.0}
    assert scalars(ValidationRow(3, 0.5)) == {"validation/loss": 0.5}
    bands = [0.25, None, 0.5, math.nan]
    assert scalars(ValidationRow(3, 0.5, set="near", weights="ema", bands=bands, draws="0a")) == {
        "validation/near/ema/loss": 0.5,
        "validation/near/ema/quarter_1": 0.25,
        "validation/near/ema/quarter_3": 0.5,
    }
    assert scalars(ValidationRow(3, 0.5, weights="raw", trained_on=True)) == {"validation/training_clips/raw/loss": 0.5}

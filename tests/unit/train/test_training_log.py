"""log.jsonl after a kill."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cogtune.evaluation.report.gather import loss_curves
from cogtune.work.training_log import (
    AVERAGE_WEIGHTS,
    RAW_WEIGHTS,
    Row,
    StepRow,
    TrainingLog,
    ValidationRow,
    best_row,
    curves,
    figures,
    main_curve,
    read,
)


def test_the_log_is_cut_back_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = TrainingLog(path, 0)
    for step in range(1, 6):
        first.add(StepRow(step=step, loss=float(step), seconds=0.5, data_wait=0.01))
    first.sync()
    with path.open("a") as stream:
        stream.write('{"step": 6, "lo')
    resumed = TrainingLog(path, 3)
    resumed.add(StepRow(step=4, loss=40.0, seconds=0.5, data_wait=0.01))
    rows = read(path)
    assert [row.loss for row in rows if isinstance(row, StepRow)] == [1.0, 2.0, 3.0, 40.0]
    found = figures(rows)
    assert found.loss_first == found.loss_last == 11.5
    assert found.steps_per_second == pytest.approx(2.0)
    assert found.data_wait_fraction == pytest.approx(0.02)


def test_every_line_is_json_whatever_the_figures_are(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log.jsonl", 0)
    timing: dict[str, Any] = {"seconds": 0.5, "data_wait": 0.0}
    log.add(StepRow(step=1, loss=2.0, grad_norm=math.inf, overflow=True, **timing))
    log.add(StepRow(step=2, skipped="the loss is nan", clips=["a"], grad_norm=math.nan, **timing))
    log.add(StepRow(step=3, loss=1.0, grad_norm=0.5, **timing))
    log.add(ValidationRow(3, 0.75))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [sorted(row.keys() & {"loss", "grad_norm"}) for row in rows] == [["loss"], [], ["grad_norm", "loss"], []]
    summary = figures(read(tmp_path / "log.jsonl"))
    assert (summary.loss_first, summary.skipped_steps, summary.overflowed_steps) == (1.5, 1, 1)
    assert summary.validation_loss_last == 0.75


@pytest.mark.parametrize(
    "damaged",
    [b'{"step": \xb3, "loss": 1.0}', b"5", b"[", b"null", b'{"stfp": 3, "loss": 1.0}', b'{"step": 3, "loss": "x"}'],
)
def test_a_damaged_line_is_left_out_alone_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path, 0)
    for step in range(1, 6):
        log.add(StepRow(step=step, loss=float(step), seconds=0.5, data_wait=0.01))
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], damaged, *lines[3:]]) + b"\n")
    assert [row.step for row in read(path)] == [1, 2, 4, 5]
    assert f"{path}: line 3: damaged" in caplog.text
    assert [point.step for point in loss_curves(read(path))[0]] == [1, 2, 4, 5]
    TrainingLog(path, 5)
    assert len(path.read_bytes().splitlines()) == 4


def test_a_start_without_a_checkpoint_keeps_no_row(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    TrainingLog(path, 0).add(ValidationRow(0, 0.75))
    TrainingLog(path, 0)
    assert read(path) == []


def validation(
    step: int, loss: float, name: str | None, weights: str | None = RAW_WEIGHTS, **more: Any
) -> ValidationRow:
    return ValidationRow(step, loss, set=name, weights=weights, **more)


def test_rows_of_validations_form_curves(tmp_path: Path) -> None:
    path, bands = tmp_path / "log.jsonl", [0.5, None, 0.25, 1.0]
    log = TrainingLog(path, 0)
    log.add(ValidationRow(5, 0.9))  # as an earlier version wrote it
    for step, loss in ((10, 0.8), (20, 0.7)):
        log.add(validation(step, loss, "near", bands=bands, draws="0a"))
        log.add(validation(step, loss + 1, "far", bands=bands, draws="0b"))
        log.add(validation(step, loss - 0.5, None, trained_on=True, draws="0c"))
        log.add(validation(step, loss + 2, "near", AVERAGE_WEIGHTS, draws="0a"))
    every = curves(read(path))
    assert [(c.set, c.weights, c.trained_on, [row.step for row in c.rows]) for c in every] == [
        (None, "raw", False, [5]),
        ("near", "raw", False, [10, 20]),
        ("far", "raw", False, [10, 20]),
        (None, "raw", True, [10, 20]),
        ("near", "ema", False, [10, 20]),
    ]
    assert every[1].rows[0].bands == bands
    assert main_curve(every) == every[4]
    assert main_curve(every[:4]) == every[1]
    assert main_curve(every[:1]) == every[0]
    assert main_curve(every[3:4]) is None, "training clips are not held out"
    rows: list[Row] = [*read(path), StepRow(step=20, loss=1.0, seconds=1, data_wait=0)]
    assert figures(rows).validation_loss_last == 2.7


def test_the_best_step_is_one_of_the_training_with_the_same_draws() -> None:
    losses = [(0, 0.1, "a"), (10, 0.2, "a"), (20, 0.6, "b"), (30, 0.5, "b"), (40, 0.5, "b")]
    (curve,) = curves([validation(step, loss, "near", draws=draws) for step, loss, draws in losses])
    best = best_row(curve.comparable)
    assert best is not None
    assert best.step == 30
    assert best_row(curve.rows[:1]) is None

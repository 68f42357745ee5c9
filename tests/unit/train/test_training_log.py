"""log.jsonl after a kill."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cogtune.evaluation.report.gather import loss_curves
from cogtune.work.training_log import StepRow, TrainingLog, ValidationRow, figures, read


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

"""log.jsonl after a kill."""

import json
import math
from pathlib import Path

import pytest

from cogtune.evaluation.report.gather import history as log_of
from cogtune.train.training_log import History, figures, read


def test_history_is_cut_back_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = History(path, 0)
    for step in range(1, 6):
        first.add(step=step, loss=float(step), seconds=0.5, data_wait=0.01)
    first.sync()
    with path.open("a") as stream:
        stream.write('{"step": 6, "lo')
    resumed = History(path, 3)
    resumed.add(step=4, loss=40.0, seconds=0.5, data_wait=0.01)
    rows = read(path)
    assert [row["loss"] for row in rows] == [1.0, 2.0, 3.0, 40.0]
    found = figures(rows)
    assert found["loss_first"] == found["loss_last"] == 11.5
    assert found["steps_per_second"] == pytest.approx(2.0)
    assert found["data_wait_fraction"] == pytest.approx(0.02)


def test_every_line_is_json_whatever_the_figures_are(tmp_path: Path) -> None:
    history = History(tmp_path / "log.jsonl", 0)
    timing = {"seconds": 0.5, "data_wait": 0.0}
    history.add(step=1, loss=2.0, grad_norm=math.inf, overflow=True, **timing)
    history.add(step=2, skipped="the loss is nan", clips=["a"], grad_norm=math.nan, **timing)
    history.add(step=3, loss=1.0, grad_norm=0.5, **timing)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [sorted(row.keys() & {"loss", "grad_norm"}) for row in rows] == [["loss"], [], ["grad_norm", "loss"]]
    found = figures(rows)
    assert (found["loss_first"], found["skipped_steps"], found["overflowed_steps"]) == (1.5, 1, 1)


@pytest.mark.parametrize(
    "damaged",
    [b'{"step": \xb3, "loss": 1.0}', b"5", b"[", b"null", b'{"stfp": 3, "loss": 1.0}', b'{"step": 3, "loss": "x"}'],
)
def test_a_damaged_line_is_left_out_alone_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: bytes
) -> None:
    path = tmp_path / "log.jsonl"
    history = History(path, 0)
    for step in range(1, 6):
        history.add(step=step, loss=float(step), seconds=0.5, data_wait=0.01)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], damaged, *lines[3:]]) + b"\n")
    assert [row["step"] for row in read(path)] == [1, 2, 4, 5]
    assert f"{path}: line 3: damaged" in capsys.readouterr().err
    assert [row["step"] for row in log_of(read(path))["training"]] == [1, 2, 4, 5]
    History(path, 5)
    assert len(path.read_bytes().splitlines()) == 4

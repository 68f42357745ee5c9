"""log.jsonl after a kill."""

import json
import math
from pathlib import Path

import pytest

from cogtune.train.history import History, figures, read


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

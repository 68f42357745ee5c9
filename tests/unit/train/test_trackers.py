"""Event files and CSV files over several starts, as their readers see them; Weights & Biases offline, if it is installed."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cogtune.errors import UserError
from cogtune.train.trackers import CsvFiles, Tracking, WandbRun, open_trackers

pytestmark = pytest.mark.heavy


def started(folder: Path, start: int, last: int, shift: float, close: bool = True) -> None:
    """One start: the steps after ``start``; values show which start made them."""
    where = Tracking(str(folder), tensorboard=str(folder / "tensorboard"), csv=str(folder / "csv"))
    trackers = open_trackers(where, start, {})
    if not start:
        trackers.add({"validation/loss": shift}, 0)
    for step in range(start + 1, last + 1):
        trackers.add({"train/loss": step + shift}, step)
        if step % 4 == 0:
            trackers.add({"validation/loss": step + shift}, step)
    if close:
        trackers.close()


def test_points_after_the_checkpoint_are_replaced(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    started(tmp_path, 0, 5, 0.75, close=False)  # killed before its first checkpoint
    started(tmp_path, 0, 9, 0.25, close=False)  # killed
    with max((tmp_path / "tensorboard").iterdir()).open("ab") as stream:
        stream.write(b"\x18\x00\x00")  # in the middle of a record
    with (tmp_path / "csv/train_loss.csv").open("a") as stream:
        stream.write("1")
    started(tmp_path, 6, 8, 0.5)
    started(tmp_path, 8, 12, 0.0)
    wanted = [(step, step + (0.25 if step <= 6 else 0.5 if step <= 8 else 0.0)) for step in range(1, 13)]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == wanted
    validations = [(0, 0.25), (4, 4.25), (8, 8.5), (12, 12.0)]
    assert [(event.step, event.value) for event in events.Scalars("validation/loss")] == validations
    rows = [line.split(",") for line in (tmp_path / "csv/validation_loss.csv").read_text().splitlines()]
    assert [(int(step), float(value)) for step, value in rows[1:]] == validations
    rows = [line.split(",") for line in (tmp_path / "csv/train_loss.csv").read_text().splitlines()]
    assert rows[0] == ["step", "loss"]
    assert [(int(step), float(value)) for step, value in rows[1:]] == wanted


def test_a_tracker_that_fails_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CsvFiles, "add", full)
    started(tmp_path, 0, 5, 0.0)
    assert [record.message for record in caplog.records] == [
        "step 0: CsvFiles gets no more values: [Errno 28] No space left on device"
    ]


def test_folders_that_cannot_be_made_stop_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("tensorboard", "csv"):
        (tmp_path / name).write_text("a file")
    started(tmp_path, 0, 5, 0.0)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        str(tmp_path / name) for name in ("tensorboard", "csv")
    ]


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_weights_and_biases_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be imported .*`pip install wandb`, or set it to false"):
        open_trackers(Tracking(str(tmp_path), wandb=WandbRun("p", "n")), 0, {})


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for start in (0, 2):
        trackers = open_trackers(Tracking(str(tmp_path), wandb=WandbRun("p", "n")), start, {"args": {"lr": 1e-3}})
        trackers.add({"train/loss": 0.5, "train/nan": math.inf}, start + 1)
        trackers.close()
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    assert len((tmp_path / "wandb/run-id").read_text()) == 12

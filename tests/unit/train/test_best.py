"""The best step: which rows count, what a resume remembers, and which snapshots stay."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cogtune.train.best import BestStep
from cogtune.train.snapshot import Snapshots
from cogtune.work.training_log import RAW_WEIGHTS, ValidationRow

ENGINE = SimpleNamespace(basic_optimizer=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))


class Folders(Snapshots):
    """Snapshots without weights."""

    def save_best(self, engine: Any, step: int, validation_loss: float) -> Path:
        (self.folder.parent / self.best_path(step)).mkdir(parents=True)
        return self.folder


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory: pytest.TempPathFactory):
    meeting = tmp_path_factory.mktemp("best") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def best(folder: Path, draws: str = "a") -> BestStep:
    return BestStep(Folders(folder / "snapshots"), "near", RAW_WEIGHTS, draws, torch.device("cpu"))


def row(step: int, loss: float, name: str | None = "near", **more: Any) -> ValidationRow:
    values: dict[str, Any] = {"draws": "a"} | more
    return ValidationRow(step, loss, set=name, weights=RAW_WEIGHTS, **values)


def test_only_the_rows_of_the_first_set_after_a_step_count(tmp_path: Path) -> None:
    one = best(tmp_path)
    one.begin(0, [])
    rows = [
        row(0, 0.1), row(5, 0.9), row(5, 0.2, "far"), row(5, 0.1, None, trained_on=True), row(10, float("nan")),
        row(15, 0.5), row(20, 0.5), row(25, 0.7),
    ]  # fmt: skip
    for each in rows:
        one.offer(ENGINE, each)
    assert (one.step, one.loss, one.snapshots.best_steps()) == (15, 0.5, [5, 15])
    kept = one.kept()
    assert kept is not None
    assert (tmp_path / kept.snapshot).is_dir()


def test_every_checkpoint_finds_its_best_step(tmp_path: Path) -> None:
    """Validations every step, a checkpoint every second: at any time a resume from either of the last two finds the snapshot
    of its best step."""
    losses = [0.9, 0.8, 0.85, 0.7, 0.6, 0.65, 0.5, 0.4, 0.45]
    one, rows = best(tmp_path), list[ValidationRow]()
    one.begin(0, [])
    for step, loss in enumerate(losses, start=1):
        rows.append(row(step, loss))
        one.offer(ENGINE, rows[-1])
        for saved in (c for c in range(2, step, 2) if c > step - 4):
            best_then = min(rows[:saved], key=lambda each: each.validation_loss).step
            assert best_then in one.snapshots.best_steps(), f"killed at step {step}, resumed at {saved}"
        if step % 2 == 0:
            one.checkpointed(last=False)
    resumed = best(tmp_path)
    resumed.begin(6, rows[:6])
    assert (resumed.step, resumed.loss) == (5, 0.6)
    assert max(resumed.snapshots.best_steps()) == 5, "those of the steps that are repeated are gone"
    resumed.checkpointed(last=True)
    assert resumed.snapshots.best_steps() == [5]


def test_other_draws_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = best(tmp_path, draws="b")
    one.begin(10, [row(5, 0.1), row(10, 0.2)])
    assert one.step == 0
    assert not caplog.text
    one.offer(ENGINE, row(15, 0.9, draws="b"))
    assert one.step == 15


def test_a_best_step_that_was_not_kept_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = best(tmp_path)
    one.begin(10, [row(5, 0.125), row(10, 0.2)])
    assert "the weights of step 5, with the lowest validation loss so far (0.125), were not kept" in caplog.text
    assert one.kept() is None

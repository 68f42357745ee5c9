"""Clips whose loss is not finite: the steps with them are skipped, named and counted, in real trainings."""

import json
import math
import signal
from pathlib import Path

from cogtune.data.store import ShardReader, ShardWriter
from tests.workflow.test_train import SETTINGS, Training, caches

__all__ = ["caches"]


def poisoned(caches: Path, name: str, clips: range) -> Path:
    """The caches again, with one value in the moments of ``clips`` that is no number."""
    root = caches / name
    root.mkdir()
    (root / "text").symlink_to(caches / "text")
    rows = ShardReader(caches / "latents")
    with ShardWriter(root / "latents") as latents:
        for i in range(5):
            moments = rows.tensors(f"clip{i}")["moments"].clone()
            if i in clips:
                moments[0, 0, 0, 0] = math.nan
            latents.add(f"clip{i}", {"moments": moments})
    return root


SHORT = SETTINGS | {
    "args.train_iters": 12, "args.save_interval": 3, "args.eval_interval": "null", "args.keep_best": "false", "args.global_batch_size": 2,
    "deepspeed.train_micro_batch_size_per_gpu": 1,
}  # fmt: skip


def test_a_clip_without_a_finite_loss_is_skipped_named_and_counted(caches: Path) -> None:
    """Two ranks and four clips, of which each step takes two: one of two steps has the clip."""
    root = poisoned(caches, "poisoned", range(1, 2))
    training = Training(root / "whole", changes=SHORT)
    training.finish()
    skipped = [row for row in training.rows() if "skipped" in row]
    assert [row["step"] for row in training.rows()] == list(range(1, 13))
    assert len(skipped) == 6
    assert all(row["clips"] == ["clip1"] and row["skipped"] == "the loss is nan" for row in skipped)
    assert json.loads((training.folder / "final/summary.json").read_text())["skipped_steps"] == 6
    record = json.loads((training.checkpoints()[-1] / "record.json").read_text())
    assert [one["step"] for one in record["skipped"]] == [row["step"] for row in skipped]
    assert f"step {skipped[0]['step']} was skipped because the loss is nan; its clips: clip1" in training.log()

    resumed = Training(root / "resumed", changes=SHORT)
    assert resumed.interrupt(signal.SIGTERM, at_step=5) == 143
    resumed.finish()
    assert resumed.rows() == training.rows()
    assert resumed.result() == training.result()

    stopped = Training(root / "stopped", changes=SHORT | {"args.max_skipped_steps": 2})
    said = stopped.finish(code=1)
    third = skipped[2]["step"]
    assert f"refused: 3 steps were skipped, more than args.max_skipped_steps: 2; the last one is step {third}" in said
    assert "clip1, 3 times" in said
    assert stopped.finish(code=1) == said  # from the checkpoint after it, at once
    stopped.changes = SHORT
    stopped.finish()
    assert stopped.rows() == training.rows()
    assert stopped.result() == training.result()


def test_a_training_in_which_every_step_fails_stops(caches: Path) -> None:
    root = poisoned(caches, "all-poisoned", range(5))
    said = Training(root / "stopped", ranks=1, changes=SHORT | {"args.max_skipped_steps": 3}).finish(code=1)
    assert "4 steps were skipped, more than args.max_skipped_steps: 3; the last one is step 4: the loss is nan" in said
    assert "reduce the learning rate" in said

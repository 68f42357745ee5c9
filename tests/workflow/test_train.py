"""Real trainings of the tiny model with DeepSpeed: kills at random moments change no byte, ranks change no draw."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cogtune.data.store import ShardWriter
from cogtune.runtime.sums import check_sums
from cogtune.work.load import load_config
from tests.workflow.project import environment

REPO = Path(__file__).parents[2]
STEPS = 120
MEASURED = {"seconds", "data_wait", "seconds_mean", "tokens_per_second", "mfu", "peak_memory_mib"}
LAUNCH = """
import json, sys
from pathlib import Path
from cogtune.errors import UserError
from cogtune.runtime.stopping import STOPPED
from cogtune.train.launch import run_ranks
plan, ranks, log = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), Path(sys.argv[3])
try:
    done = run_ranks(plan, ranks, 1, log, print)
except UserError as error:
    sys.exit(f"refused: {error}")
sys.exit(0 if done else STOPPED)
"""


@dataclass
class Training:
    """A job folder over caches of random rows, and the process that trains into it."""

    folder: Path
    ranks: int = 2
    changes: dict[str, Any] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[str]:
        self.folder.mkdir(exist_ok=True)
        plan = self.folder.parent / f"{self.folder.name}.json"
        plan.write_text(json.dumps(self.plan()))
        command = [sys.executable, "-c", LAUNCH, str(plan), str(self.ranks), str(self.folder / "ranks.log")]
        pipe = subprocess.PIPE
        on_cpu = environment() | {"CUDA_VISIBLE_DEVICES": ""}
        with (self.folder / "told.txt").open("a") as told:
            return subprocess.Popen(command, env=on_cpu, cwd=REPO, stdout=told, stderr=pipe, text=True)

    def finish(self, code: int = 0) -> str:
        """Run to the end; returns what it said on standard error."""
        process = self.start()
        said = process.communicate(timeout=300)[1]
        assert process.returncode == code, f"{said}\n{self.log()[-4000:]}"
        return said

    def interrupt(self, number: int, at_step: int) -> int:
        """Start, send a signal a little after ``at_step`` steps were logged, wait; returns the exit code."""
        process = self.start()
        wait_for(lambda: len(self.steps()) >= at_step or process.poll() is not None)
        time.sleep(random.uniform(0, 0.2))
        process.send_signal(number)
        process.communicate(timeout=180)
        return process.returncode

    def plan(self) -> dict[str, Any]:
        config = load_config(
            [Path(__file__).parent / "tiny.yaml"],
            [f"{k}={'null' if v is None else v}" for k, v in self.changes.items()],
            check_files=False,
        )
        values = config.values
        pairs = [{"clip": f"clip{i}", "caption_id": f"text{i}"} for i in range(5)]
        return {
            "key": "0123456789ab",
            "config": values,
            "start": {"network_config": values["model"]["network_config"], "seed": values["args"]["seed"]},
            "folder": str(self.folder),
            "latents": str(self.folder.parent / "latents"),
            "text": str(self.folder.parent / "text"),
            "pairs": pairs[:4],
            "validation_sets": {"valid": pairs[4:]},
            "threads": 1,
            "flops": 1e9,
            "tracking": {name: str(self.folder / name) for name in ("tensorboard", "csv")}
            | {"folder": str(self.folder)},
        }

    def log(self) -> str:
        return (self.folder / "ranks.log").read_text()

    def told(self) -> str:
        """What the first rank told the stage: a JSON line each, also of earlier starts."""
        return (self.folder / "told.txt").read_text()

    def rows(self) -> list[dict[str, Any]]:
        """log.jsonl without its measurements, which differ from run to run."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [{k: v for k, v in json.loads(line).items() if k not in {*MEASURED, "crc32"}} for line in lines]

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """What TensorBoard's own reader finds in the event files of all starts: scalar -> (step, value)."""
        events = EventAccumulator(str(self.folder / "tensorboard")).Reload()
        names = [name for name in events.Tags()["scalars"] if name.removeprefix("train/") not in MEASURED]
        return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}

    def table(self, name: str) -> list[list[str]]:
        """The rows of a CSV file of the training."""
        return [line.split(",") for line in (self.folder / f"csv/{name}.csv").read_text().splitlines()]

    def steps(self) -> list[dict[str, Any]]:
        """The rows of steps alone."""
        return [row for row in self.rows() if "validation_loss" not in row]

    def losses(self) -> list[float]:
        return [row["loss"] for row in self.rows() if "loss" in row]

    def result(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "final").glob("*.safetensors")}

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("step-*"))


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def alive(pids: list[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    ]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders latents/ and text/ with five random rows each."""
    root = tmp_path_factory.mktemp("train")
    draw = torch.Generator().manual_seed(0)
    with ShardWriter(root / "latents") as latents, ShardWriter(root / "text") as text:
        for i in range(5):
            latents.add(f"clip{i}", {"moments": torch.randn(8, 2, 4, 6, generator=draw)})
            text.add(f"text{i}", {"context": torch.randn(8, 32, generator=draw)})
    return root


SETTINGS = {
    "args.train_iters": STEPS,
    "args.save_interval": 10,
    "args.log_interval": 5,
    "args.snapshot_interval": STEPS // 2,
    "args.eval_interval": 25,
    "args.keep_best": "true",
    "args.global_batch_size": 4,
    "deepspeed.train_micro_batch_size_per_gpu": 2,
}


@pytest.fixture(scope="module")
def uninterrupted(caches: Path) -> Training:
    """Two ranks, bf16, ZeRO-2, the deepspeed section of upstream's sft.yaml."""
    training = Training(caches / "uninterrupted", changes=SETTINGS)
    training.finish()
    return training


def test_result(uninterrupted: Training) -> None:
    summary = json.loads((uninterrupted.folder / "final/summary.json").read_text())
    assert set(uninterrupted.result()) == {"model.safetensors", "ema.safetensors"}
    assert [row["step"] for row in uninterrupted.rows() if "loss" in row] == list(range(1, STEPS + 1))
    validations = [row for row in uninterrupted.rows() if "validation_loss" in row]
    assert [row["step"] for row in validations] == [step for step in (0, 25, 50, 75, 100, 120) for _ in range(3)]
    assert [(row.get("set"), row["weights"], row.get("trained_on")) for row in validations[3:6]] == [
        ("valid", "raw", None),
        (None, "raw", True),
        ("valid", "ema", None),
    ]
    for row in validations:
        assert math.fsum(row["bands"]) / 4 == pytest.approx(row["validation_loss"]), "every quarter has as many draws"
    assert validations[0]["validation_loss"] == validations[2]["validation_loss"], "no step: the average is the weights"
    assert validations[3]["validation_loss"] != validations[5]["validation_loss"]
    assert summary["validation_loss_last"] == validations[-1]["validation_loss"]
    best = min(
        (row for row in validations if row["weights"] == "ema" and row["step"]), key=lambda row: row["validation_loss"]
    )
    kept = {"set": "valid", "weights": "ema", "snapshot": f"snapshots/best-{best['step']:08d}"}
    assert summary["best"] == kept | {"step": best["step"], "validation_loss": best["validation_loss"]}
    assert [path.name for path in (uninterrupted.folder / "snapshots").glob("best-*")] == [kept["snapshot"][10:]]
    assert [path.name for path in uninterrupted.checkpoints()] == ["step-00000110", "step-00000120"]
    snapshots = sorted((uninterrupted.folder / "snapshots").glob("step-*"))
    assert [path.name for path in snapshots] == ["step-00000060", "step-00000120"]
    assert not list(uninterrupted.folder.rglob(".writing-*"))
    last, average = (
        load_file(snapshots[-1] / "ema.safetensors"),
        load_file(uninterrupted.folder / "final/ema.safetensors"),
    )
    assert check_sums(snapshots[-1])
    assert last.keys() == average.keys()
    assert all(torch.equal(last[name], average[name]) for name in last)
    assert summary["loss_last"] < summary["loss_first"]
    assert summary["parameters_trained"] < summary["parameters_total"]  # the position table is not trained
    assert summary["steps_per_second"] > 0
    assert summary["ranks"] == 2


def test_tensorboard_and_csv_files_have_the_figures_of_the_log(uninterrupted: Training) -> None:
    lines = (uninterrupted.folder / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    logged = [row for row in rows if "loss_mean" in row]
    assert [row["step"] for row in logged] == list(range(5, STEPS + 1, 5))
    losses = uninterrupted.losses()
    assert logged[-1]["loss_mean"] == pytest.approx(sum(losses[-20:]) / 20)
    assert all(row["peak_memory_mib"] > 100 and "mfu" not in row for row in logged)  # no peak is known of a CPU
    for row in logged:  # 4 clips of 2 x 2 x 3 patches
        assert row["tokens_per_second"] == pytest.approx(4 * 12 / row["seconds_mean"], rel=1e-3)
    curves = uninterrupted.curves()
    assert {
        "train/loss",
        "train/lr",
        "train/grad_norm",
        "train/loss_mean",
        "validation/valid/ema/loss",
    } <= curves.keys()
    for name, points in curves.items():
        part, _, key = name.partition("/")
        if part == "train":
            assert points == [(row["step"], pytest.approx(row[key])) for row in logged], name
    average = [row for row in rows if row.get("weights") == "ema"]
    assert curves["validation/valid/ema/loss"] == [
        (row["step"], pytest.approx(row["validation_loss"])) for row in average
    ]
    assert len(curves["validation/training_clips/raw/quarter_4"]) == len(average)
    assert uninterrupted.table("train_loss") == [["step", "loss"], *([str(r["step"]), str(r["loss"])] for r in logged)]


def test_sigkill_and_a_damaged_checkpoint_change_no_byte(uninterrupted: Training, caches: Path) -> None:
    training = Training(caches / "killed", changes=SETTINGS)
    process = training.start()
    wait_for(lambda: len(training.checkpoints()) == 2 or process.poll() is not None)
    ranks = children_of(process.pid)
    assert len(ranks) == 2
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(ranks), seconds=5)  # no writer outlives the process that started it
    newest = training.checkpoints()[-1]
    (state, _) = sorted(newest.glob("*.safetensors"))
    state.write_bytes(state.read_bytes()[:-1000])
    training.finish()
    assert f"{newest}: this checkpoint is damaged" in training.told()
    assert "resuming after step" in training.log()
    assert training.rows() == uninterrupted.rows()
    assert training.curves() == uninterrupted.curves()
    assert training.table("train_loss") == uninterrupted.table("train_loss")
    assert training.result() == uninterrupted.result()


def test_ctrl_c_and_sigterm_checkpoint_and_resume(uninterrupted: Training, caches: Path) -> None:
    """And validations at other steps, with other draws, change no byte of the training."""
    training = Training(caches / "terminated", changes=SETTINGS | {"args.eval_interval": 7, "args.eval_iters": 3})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a background job would ignore it
    assert training.interrupt(signal.SIGINT, at_step=5) in (130, -signal.SIGINT)
    by_ctrl_c = len(training.losses())
    assert training.checkpoints()[-1].name == f"step-{by_ctrl_c:08d}"
    assert training.interrupt(signal.SIGTERM, at_step=len(training.steps()) + 5) == 143
    stopped_at = len(training.losses())
    assert training.checkpoints()[-1].name == f"step-{stopped_at:08d}"
    training.finish()
    assert re.search(rf"^[\d-]+ [\d:]+ resuming after step {stopped_at} ", training.log(), re.MULTILINE)
    assert training.steps() == uninterrupted.steps()
    validated = [row["step"] for row in training.rows() if row.get("set")]
    assert validated == [step for step in (*range(0, STEPS, 7), STEPS) for _ in range(2)], (
        "each once, though it was stopped"
    )
    assert training.result() == uninterrupted.result()


def test_sigusr1_and_max_hours_checkpoint_and_minutes_are_those_of_the_first_rank(caches: Path) -> None:
    training = Training(caches / "by-the-clock", changes=SETTINGS | {"args.save_interval": 1000})
    assert training.interrupt(signal.SIGUSR1, at_step=5) == 143
    assert training.checkpoints()[-1].name == f"step-{(by_signal := len(training.losses())):08d}"
    training.changes = training.changes | {"args.max_hours": 0.0001}  # over before the first step
    training.finish(code=143)
    assert training.checkpoints()[-1].name == f"step-{by_signal + 1:08d}"
    assert '{"stopped": "args.max_hours: 0.0001 is over"}' in training.told()
    training.changes = training.changes | {"args.max_hours": None, "args.save_minutes": 0.01}
    training.finish()  # ranks that save at different steps would wait for each other forever
    assert by_signal + 1 < int(training.checkpoints()[-2].name.removeprefix("step-")) < STEPS


def test_a_killed_rank_ends_the_run_with_one_message(caches: Path) -> None:
    training = Training(caches / "rank-killed", changes=SETTINGS)
    process = training.start()
    wait_for(lambda: len(training.steps()) >= 3 or process.poll() is not None)
    os.kill(children_of(process.pid)[1], signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1, said
    assert (
        "refused: training did not finish: rank 1 was killed by SIGKILL; the likely cause is that memory ran out"
        in said
    )


def test_another_number_of_ranks_goes_on(uninterrupted: Training, caches: Path) -> None:
    """From two ranks at stage 2 to one at stage 3, in the middle of two steps of the log."""
    training = Training(caches / "other-ranks", changes=SETTINGS)
    assert training.interrupt(signal.SIGTERM, at_step=STEPS // 2) == 143
    stopped_at = len(training.losses())
    training.ranks = 1
    training.changes = SETTINGS | {"deepspeed.zero_optimization.stage": 3}
    training.finish()
    assert f"resuming after step {stopped_at} " in training.log()
    assert training.losses()[:stopped_at] == uninterrupted.losses()[:stopped_at]
    assert training.losses() == pytest.approx(uninterrupted.losses(), rel=0.02)
    assert {name: len(content) for name, content in training.result().items()} == {
        name: len(content) for name, content in uninterrupted.result().items()
    }


def test_one_rank_draws_what_two_draw(uninterrupted: Training, caches: Path) -> None:
    """Same batches, same noise: only the order of sums differs, so losses agree to bf16's rounding."""
    training = Training(caches / "one-rank", ranks=1, changes=SETTINGS)
    training.finish()
    assert training.losses()[0] == pytest.approx(uninterrupted.losses()[0], rel=1e-5)
    assert training.losses() == pytest.approx(uninterrupted.losses(), rel=0.02)


def test_partitioned_weights_train_as_whole_ones(uninterrupted: Training, caches: Path) -> None:
    """ZeRO-3 that leaves no weight whole between its uses."""
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    training = Training(
        caches / "zero-3", changes=SETTINGS | {f"deepspeed.zero_optimization.{k}": v for k, v in zero.items()}
    )
    training.finish()
    assert training.losses() == pytest.approx(uninterrupted.losses(), rel=0.02)
    assert set(training.result()) == set(uninterrupted.result())


def test_every_checkpoint_policy_trains_the_same_bytes(caches: Path) -> None:
    """ZeRO-3 takes weights away between forward and backward. Its own linear function, which adds the bias in place, would
    change the products that are kept (the first step moves the biases from zero)."""
    results = {}
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    changes = {f"deepspeed.zero_optimization.{k}": v for k, v in zero.items()}
    changes |= {"args.train_iters": 3, "args.save_interval": 100, "deepspeed.optimizer.params.lr": 0.05}
    for policy in ("full", "attention", "selective", "none"):
        validated = {"args.eval_interval": 1, "args.keep_best": "true"}  # which change no byte either
        validated = {"args.eval_interval": "null", "args.keep_best": "false"} if policy == "full" else validated
        switched = SETTINGS | changes | validated | {"args.checkpoint_activations": policy}
        training = Training(caches / f"zero-3-{policy}", changes=switched)
        training.finish()
        results[policy] = training.losses(), training.result()
    assert len(results["full"][0]) == 3
    assert all(result == results["full"] for result in results.values())

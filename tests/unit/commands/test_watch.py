"""`cogtune watch`: what it says of a training by its log and lock, and its curve."""

import json
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogtune import __main__ as cogtune
from cogtune.commands.loss_chart import chart
from cogtune.runtime.locks import hold_lock
from cogtune.runtime.owners import this_process
from cogtune.work.results_folder import open_results
from cogtune.work.training_log import StepRow, TrainingLog, ValidationRow
from cogtune.work.training_state import read_state

KEY, OTHER = "0123456789ab", "ba9876543210"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with store/ and results/, in which the experiment `mine` trained 40 of 100 steps."""
    monkeypatch.chdir(tmp_path)
    log_of(tmp_path, KEY)
    open_results(tmp_path / "results", tmp_path / "store", "mine", KEY)
    return tmp_path


def log_of(root: Path, key: str) -> None:
    folder = root / "store/train" / key
    folder.mkdir(parents=True)
    log = TrainingLog(folder / "log.jsonl", 0)
    log.add(ValidationRow(0, 2.0, "held", "raw", False, [1.0, 2.0, None, 3.0], "d"))
    for step in range(1, 41):
        skipped: dict[str, Any] = {"skipped": "the loss is nan", "clips": ["a"]} if step == 7 else {"loss": 2 / step}
        rates: dict[str, Any] = {
            "tokens_per_second": 15432.1,
            "mfu": 0.371,
            "peak_memory_mib": 2048.0,
            "total_steps": 100,
        }
        row: dict[str, Any] = {
            "step": step,
            "lr": 1e-3,
            "grad_norm": 0.5,
            "seconds": 9.0 if step == 1 else 2.0,
            "data_wait": 0.0,
        }
        log.add(StepRow(**row | skipped | (rates if step == 40 else {})))
    log.add(ValidationRow(20, 0.5, "held", "raw", False, None, "d"))
    log.add(ValidationRow(40, 0.75, "held", "raw", False, None, "d"))


def claim(root: Path, key: str, owner: dict[str, object], silence: float = 0.0) -> None:
    """A lock of the training as another process left it."""
    path = root / f"store/locks/train-{key}.lock/1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(owner))
    then = time.time() - silence
    os.utime(path, (then, then))


def watch(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cogtune.main(["watch", *words]) == 0
    return capsys.readouterr().out


ELSEWHERE = {"host": "node7", "machine": "node7 boot ns", "pid": 1234, "start": "5", "slurm_job": "55"}
STATES = {
    "not started": (None, 0.0, "not started"),
    "on another machine": (ELSEWHERE, 20.0, "running: process 1234 on node7 (Slurm job 55)"),
    "silent": (ELSEWHERE, 420.0, "no sign of life for 7 min from process 1234 on node7 (Slurm job 55)"),
    "long silent": (ELSEWHERE, 3 * 3600.0, "no sign of life for 3 h from process 1234"),
    "released": (ELSEWHERE | {"released": True}, 9.0, "stopped; the same command resumes it"),
    "here": (this_process(), 0.0, f"running: process {os.getpid()} on {socket.gethostname()}"),
    "gone": (this_process() | {"pid": 2**22 + 1}, 5.0, "stopped without a word: process 4194305"),
    "damaged": ({"pid": "x"}, 5.0, "running: a process"),
}


@pytest.mark.parametrize("case", STATES)
def test_it_says_where_it_runs_or_how_it_ended(project: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    owner, silence, expected = STATES[case]
    if owner is not None:
        claim(project, KEY, owner, silence)
    assert watch(capsys, "mine", "--once").startswith(f"mine ({KEY}): {expected}")


def test_the_figures_are_those_of_the_log(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold_lock(project / f"store/locks/train-{KEY}.lock"):
        text = watch(capsys, "mine")  # not a terminal
    assert "step 40 of 100 (40 %), 2 s/step, 0:02:00 left, 15,432 tokens/s, MFU 37%, peak memory 2.0 GiB" in text
    mean = sum(2 / step for step in range(21, 41)) / 20
    assert f"loss {mean:.4f} (mean of 20 steps), lr 0.001, gradient norm 0.5" in text
    assert "1 steps skipped; the last: step 7, the loss is nan" in text
    assert "validation (held, raw): 0.7500 at step 40; lowest 0.5000 at step 20" in text
    assert "left" not in watch(capsys, "mine")  # it has ended
    (project / f"store/train/{KEY}/final").mkdir()
    (project / f"store/train/{KEY}/final/summary.json").write_text("{}")
    assert watch(capsys, KEY).startswith(f"mine ({KEY}): finished")


def test_without_a_name_the_running_one_comes_before_a_newer_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.utime(project / f"store/train/{KEY}/log.jsonl", (1, 1))
    log_of(project, OTHER)
    assert watch(capsys).startswith(OTHER)
    claim(project, KEY, ELSEWHERE, 5.0)
    assert watch(capsys).startswith(f"mine ({KEY})")


def test_the_length_comes_from_the_slice_until_the_log_has_it(project: Path) -> None:
    (project / f"store/train/{OTHER}").mkdir()
    (project / "store/slices").mkdir()
    (project / f"store/slices/{OTHER}.json").write_text('{"values": {"args": {"train_iters": 70}}}')
    state = read_state(project / "store", project / "results", OTHER)
    assert (state.total, state.steps, state.running) == (70, [], False)


@pytest.mark.parametrize("words", [["yours"], [OTHER], ["../mine"]])
def test_an_unknown_training_is_an_error_with_the_known_ones(
    project: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cogtune.main(["watch", *words]) == 1
    assert "expected one of mine, or the key of a folder in" in capsys.readouterr().err


def test_without_any_training_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cogtune.main(["watch"]) == 1
    assert "no training was started yet" in capsys.readouterr().err


FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@settings(max_examples=40)
@given(st.lists(FINITE, max_size=60), st.integers(1, 120), st.integers(1, 15))
def test_a_curve_keeps_within_its_frame(values: list[float], width: int, height: int) -> None:
    lines = chart(list(enumerate(values, 1)), width, height)
    assert len(lines) == (height + 1 if len(values) > 1 else 0)
    assert all(len(line) <= max(width, 25) for line in lines)


def test_a_falling_loss_falls() -> None:
    lines = chart([(step, math.exp(-step / 30)) for step in range(1, 101)], 50, 6)
    filled = [[i for i, sign in enumerate(line.partition("┤")[2]) if sign != "\u2800"] for line in lines[:-1]]
    assert all(row for row in filled)
    assert [row[0] for row in filled] == sorted(row[0] for row in filled)
    assert lines[0].strip().startswith("0.967")
    assert lines[-1].split() == ["1", "100"]

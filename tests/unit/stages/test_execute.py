"""The record of a job: what its runs took and made together, and on what."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from cogtune.errors import UserError
from cogtune.runtime.gpu_usage import GpuUsage
from cogtune.runtime.stopping import Stopped
from cogtune.stages import execute, scan
from cogtune.stages.job import Job
from cogtune.stages.run_counts import RunCounts
from cogtune.work.slices import FORMAT, Slice


@pytest.fixture
def job(tmp_path: Path) -> Job[Any]:
    identity = {"format": FORMAT, "stage": "scan", "version": 1, "values": {}, "upstream": {}}
    return Job(Slice("scan", identity), tmp_path / "store")


def test_runs_add_up_and_one_that_made_nothing_changes_nothing(job: Job[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "device_names", lambda: ["H100", "H100"])
    path = job.store / "records" / f"scan-{job.key}.json"

    def run(made: int) -> dict[str, Any]:
        monkeypatch.setattr(scan, "run", lambda job: RunCounts(made=made, reused=7 - made))
        execute.execute(job, None)
        return json.loads(path.read_text())

    first = run(4)
    assert (first["runs"], first["made"], first["device"], first["devices"]) == (1, 4, "H100", 2)
    second = run(3)
    assert (second["runs"], second["made"]) == (2, 7)
    assert second["seconds"] >= first["seconds"]
    assert run(0) == second


@pytest.mark.parametrize("code", [0, None, 3, "words"])
def test_a_plugin_that_ends_the_process_is_an_error(
    job: Job[Any], monkeypatch: pytest.MonkeyPatch, code: object
) -> None:
    monkeypatch.setattr(scan, "run", lambda job: sys.exit(code))  # pyright: ignore[reportArgumentType]
    receipt = job.store.parent / "receipt.json"
    with pytest.raises(UserError, match=r"stage 'scan' did not finish: .* called sys\.exit"):
        execute.execute(job, receipt)
    assert not receipt.exists()


def test_a_training_that_was_asked_to_stop_keeps_its_exit_code(job: Job[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(job: Job[Any]) -> RunCounts:
        raise Stopped(progress=True)

    monkeypatch.setattr(scan, "run", stopped)
    with pytest.raises(Stopped) as ended:
        execute.execute(job, None)
    assert ended.value.code == 143


def test_a_record_of_an_earlier_version_stays_without_counts(job: Job[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = job.store / "records" / f"scan-{job.key}.json"
    path.parent.mkdir(parents=True)
    old = {"stage": "scan", "key": job.key, "runs": 2, "seconds": 5.0, "peak_memory_mib": 1.0}
    path.write_text(json.dumps(old))
    monkeypatch.setattr(scan, "run", lambda job: RunCounts(made=2, reused=0))
    execute.execute(job, None)
    found = json.loads(path.read_text())
    assert found["runs"] == 3
    assert "made" not in found, "a rate would be wrong: what the first runs made is not known"
    assert found["seconds"] >= 5.0


def test_receipt_and_record_say_what_a_run_used(job: Job[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of 0.5 busy, then one of 1.0: the record weighs them by time; the receipt is of its own run."""
    shares = iter([0.5, 1.0])

    @contextmanager
    def watched() -> Iterator[Any]:
        share = next(shares)
        yield lambda: GpuUsage(share, 4000.0)

    def run(job: Job[Any]) -> RunCounts:
        time.sleep(0.02)  # records round to a millisecond
        return RunCounts(made=1, reused=0)

    monkeypatch.setattr(execute, "watched_gpus", watched)
    monkeypatch.setattr(scan, "run", run)
    receipt, record = job.store.parent / "receipt.json", job.store / "records" / f"scan-{job.key}.json"
    for expected in (0.5, 1.0):
        execute.execute(job, receipt)
        told = json.loads(receipt.read_text())
        assert (told["gpu_busy"], told["peak_gpu_mib"]) == (expected, 4000.0)
        assert told["peak_memory_mib"] > 10
    assert 0.5 < json.loads(record.read_text())["gpu_busy"] < 1.0


def test_without_a_gpu_only_memory_is_said(job: Job[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "watched_gpus", lambda: nullcontext(GpuUsage))
    monkeypatch.setattr(scan, "run", lambda job: RunCounts(made=1, reused=0))
    receipt = job.store.parent / "receipt.json"
    execute.execute(job, receipt)
    assert json.loads(receipt.read_text()).keys() == {"stage", "key", "made", "reused", "seconds", "peak_memory_mib"}

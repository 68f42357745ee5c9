"""Reservations with real processes: no row is reserved twice, and a dead owner reserves nothing."""

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cogtune.runtime import owners
from cogtune.runtime.atomic import write_json
from cogtune.runtime.locks import HeldError, hold_lock
from cogtune.runtime.owners import Timing
from cogtune.runtime.reservations import Reservations

pytestmark = pytest.mark.heavy
QUICK = Timing(heartbeat=0.1, stale=0.5, say=0.1)
_HOLD = """
    import sys, time
    from pathlib import Path
    from cogtune.runtime.owners import Timing
    from cogtune.runtime.reservations import Reservations
    reservations = Reservations(Path(sys.argv[1]), Timing(heartbeat=0.1, stale=0.5, say=0.3))
    with reservations.reserve(lambda taken: [row for row in sys.argv[3].split(",") if row not in taken]) as rows:
        print(",".join(rows), flush=True)
        time.sleep(float(sys.argv[2]))
"""
_MAKE = """
    import random, sys, time
    from pathlib import Path
    from cogtune.runtime.reservations import Reservations
    lock, made, wanted = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(",")
    reservations, draw = Reservations(lock), random.Random(sys.argv[3])
    while absent := [row for row in wanted if not list(made.glob(f"{row}.*"))]:
        def choose(taken):
            return [row for row in wanted if row not in taken and not list(made.glob(f"{row}.*"))]
        with reservations.reserve(choose) as rows:
            for row in rows:
                time.sleep(draw.random() / 100)
                (made / f"{row}.{draw.getrandbits(32)}").touch()
        reservations.wait(absent)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def holder(lock: Path, seconds: float, rows: str) -> tuple[subprocess.Popen[str], Sequence[str]]:
    """A process that holds a reservation of what is free of ``rows``."""
    process = start(_HOLD, lock, seconds, rows)
    assert process.stdout is not None
    return process, process.stdout.readline().strip().split(",")


def free(reservations: Reservations, rows: str) -> list[str]:
    with reservations.reserve(lambda taken: [row for row in rows if row not in taken]) as mine:
        return list(mine)


def test_a_row_has_one_owner_until_its_reservation_ends(tmp_path: Path) -> None:
    lock = tmp_path / "latents-key.lock"
    process, rows = holder(lock, 60, "a,b")
    assert list(rows) == ["a", "b"]
    try:
        mine = Reservations(lock, QUICK)
        assert free(mine, "abc") == ["c"]
        assert mine.wait(["c", "d"]) == 0, "nobody makes these"
    finally:
        process.kill()
        process.wait()
    assert mine.wait(["a", "b"]) < 5
    assert free(mine, "abc") == ["a", "b", "c"]
    assert list(lock.with_suffix(".reserved").iterdir()) == [], "the file of the dead owner is removed"


def test_waiting_ends_with_the_reservation_and_says_for_whom(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cogtune")
    lock = tmp_path / "latents-key.lock"
    process, _ = holder(lock, 1.0, "a,b")
    assert 0.2 < Reservations(lock, QUICK).wait({"b", "c"}) < 10
    assert process.wait(10) == 0
    assert f"waiting for process {process.pid} on" in caplog.text
    assert "to make 1 rows of latents-key" in caplog.text


def test_the_impatient_leave_a_live_owner_and_name_its_slurm_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    lock = tmp_path / "latents-key.lock"
    process, _ = holder(lock, 60, "a")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    impatient = Reservations(lock, QUICK, patience=0.5)
    try:
        with pytest.raises(
            HeldError, match=rf"process {process.pid} .*\(Slurm job 77\) makes rows of latents-key"
        ) as held:
            impatient.wait("a")
        assert held.value.slurm_job == "77"
        assert impatient.wait("b") == 0
    finally:
        process.kill()
        process.wait()
    assert impatient.wait("a") == 0


def test_an_owner_in_the_same_slurm_job_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    lock = tmp_path / "latents-key.lock"
    process, _ = holder(lock, 1.5, "a")
    Reservations(lock, QUICK, patience=0.3).wait("a")
    assert process.wait(10) == 0


def test_an_owner_on_another_host_is_dead_after_silence(tmp_path: Path) -> None:
    lock = tmp_path / "key.lock"
    path = lock.with_suffix(".reserved") / "0.json"
    write_json(path, owners.this_process() | {"machine": "another host", "rows": ["a"]})
    mine, started = Reservations(lock, QUICK), time.monotonic()
    assert free(mine, "ab") == ["b"]
    ended, beating = threading.Event(), 0.0

    def beat() -> None:
        while not ended.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    threading.Timer(1.0, ended.set).start()
    beating = mine.wait("a")
    thread.join()
    assert 1.0 < beating < time.monotonic() - started + 0.1
    assert free(mine, "ab") == ["a", "b"]


NO_OWNER, NO_ROWS = '{"rows": ["a"]}', '{"rows": 5, "pid": 1, "machine": "", "start": "1"}'


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"released": true}', NO_OWNER, NO_ROWS, '"x"'])
def test_a_file_that_is_no_reservation_reserves_nothing(tmp_path: Path, content: str) -> None:
    lock = tmp_path / "key.lock"
    path = lock.with_suffix(".reserved") / "1.json"
    path.parent.mkdir()
    path.write_text(content)
    (path.parent / "2.json").mkdir()
    mine = Reservations(lock, QUICK)
    assert mine.wait("a") == mine.wait() == 0
    assert free(mine, "a") == ["a"]


def test_under_the_lock_nobody_can_reserve(tmp_path: Path) -> None:
    lock = tmp_path / "key.lock"
    with hold_lock(lock):
        process = start(_HOLD, lock, 0, "a")
        time.sleep(1.5)
        assert not list(lock.with_suffix(".reserved").glob("*.json"))
        assert process.poll() is None
    assert process.wait(10) == 0


def test_a_process_that_was_taken_for_dead_exits(tmp_path: Path) -> None:
    lock = tmp_path / "key.lock"
    process, _ = holder(lock, 60, "a")
    (path,) = lock.with_suffix(".reserved").glob("*.json")
    assert json.loads(path.read_text())["pid"] == process.pid
    path.unlink()
    assert process.wait(10) == 1
    assert process.stderr is not None


def test_many_processes_with_overlapping_rows_make_each_once(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    rows = [f"row{number:02}" for number in range(24)]
    wanted = [rows[:16], rows[8:], rows[::2], rows, rows[4:20]]
    processes = [start(_MAKE, tmp_path / "key.lock", made, ",".join(some)) for some in wanted]
    for process in processes:
        assert process.wait(60) == 0, process.stderr and process.stderr.read()
    assert sorted(path.name.partition(".")[0] for path in made.iterdir()) == rows

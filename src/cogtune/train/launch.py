"""Starts the ranks of one machine and watches them.

torchrun would do, at 3.5 s more per start on the 2-core machine where it was measured, and it kills workers 30 s after
SIGTERM, which a large checkpoint outlasts. The worker reads the same environment variables, so torchrun can start it
too, on several machines.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_json

POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0
STOPPED = 143
"""Exit code of a rank that was asked to stop, wrote a checkpoint and left: 128 + SIGTERM."""
_KILLERS: dict[int | None, str] = {
    -signal.SIGKILL: "SIGKILL (out of memory?)",
    -signal.SIGSEGV: "SIGSEGV",
    -signal.SIGBUS: "SIGBUS",
}


def run_ranks(plan: dict[str, Any], ranks: int, threads: int, log: Path, on_line: Callable[[str], None]) -> bool:
    """Run ``cogtune.train.worker`` on ``ranks`` processes until all end; True if done, False if stopped by SIGTERM.

    ``plan`` is what the worker reads; everything that ranks print goes to ``log``; ``on_line`` gets each line that the
    first rank reports. SIGTERM to this process is passed on. Raises UserError with the message of the rank that failed
    first.
    """
    with tempfile.TemporaryDirectory(prefix="cogtune-train-") as scratch, log.open("a") as output:
        folder = Path(scratch)
        (folder / "plan.json").write_text(json.dumps(plan))
        reading, writing = os.pipe()
        processes: list[subprocess.Popen[bytes]] = []
        try:
            with _passing_on_sigterm(processes) as asked:
                for rank in range(ranks):
                    fd = writing if rank == 0 else None
                    processes.append(_start(folder, rank, ranks, threads, output, fd))
                os.close(writing)
                codes = _watch(processes, reading, on_line)
        finally:
            os.close(reading)
            _kill(processes)
        return _verdict(codes, bool(asked), folder, log)


def _start(
    folder: Path, rank: int, ranks: int, threads: int, output: TextIO, report_fd: int | None
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "COGTUNE_PARENT": str(os.getpid()),
        "COGTUNE_RENDEZVOUS": f"file://{folder}/rendezvous",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    if report_fd is not None:
        environment["COGTUNE_REPORT_FD"] = str(report_fd)
    command = [sys.executable, "-m", "cogtune.train.worker", str(folder / "plan.json"), "--errors", str(folder)]
    passed = () if report_fd is None else (report_fd,)
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=passed
    )


@contextmanager
def _passing_on_sigterm(processes: list[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """While inside, SIGTERM asks the ranks to stop instead of ending this process; the list fills up when that happens.
    Outside the main thread nothing is caught."""
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _watch(processes: list[subprocess.Popen[bytes]], reading: int, on_line: Callable[[str], None]) -> list[int | None]:
    """Pass reports on until all ranks ended, or one failed and the others had time to notice. Returns exit codes, None
    for a rank that still waits for the one that failed."""
    pending = b""
    failed_at: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while True:
            codes = [process.poll() for process in processes]
            for _ in selector.select(POLL_SECONDS if selector.get_map() else 0):
                if chunk := os.read(reading, 1 << 16):
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        on_line(line.decode())
                else:
                    selector.unregister(reading)
            if not selector.get_map():
                time.sleep(POLL_SECONDS)
            if all(code is not None for code in codes):
                break
            if failed_at is None and any(code not in (None, 0, STOPPED) for code in codes):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
                break
    return codes


def _kill(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def _verdict(codes: list[int | None], asked: bool, folder: Path, log: Path) -> bool:
    """Done (True), stopped (False), or the error of the rank that began it: the others fail because their peer is gone."""
    if all(code == 0 for code in codes):
        return True
    errors = sorted((json.loads(path.read_text()) for path in folder.glob("error-*.json")), key=lambda e: e["time"])
    if errors and errors[0]["expected"]:
        raise UserError(errors[0]["message"])
    if asked or all(code in (0, STOPPED) for code in codes):
        return False
    killed = [f"rank {rank} was killed by {name}" for rank, code in enumerate(codes) if (name := _KILLERS.get(code))]
    if errors and not killed:
        first = errors[0]
        raise RuntimeError(f"rank {first['rank']} of training failed: {first['message']}\n{first['traceback']}")
    ends = "; ".join(killed or [f"exit codes {codes}"])
    raise UserError(f"training ended unfinished: {ends}. The same command resumes it. What the ranks printed: {log}")


def leave_error(folder: Path, rank: int, error: BaseException, expected: bool, traceback: str) -> None:
    """Called in a rank: leave ``error`` for the starting process, whole or not at all."""
    message = {"rank": rank, "time": time.time(), "message": f"{error}", "expected": expected, "traceback": traceback}
    write_json(folder / f"error-{rank}.json", message)

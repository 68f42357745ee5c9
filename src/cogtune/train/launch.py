"""Starts the ranks of one machine and monitors them.

We do not use torchrun because it takes 3.5 s more per start (on a 2-core machine) and kills workers 30 s after SIGTERM,
too soon for a large checkpoint. For several machines see `srun.py` and `joined.py`.
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from cogtune.runtime.atomic import write_json
from cogtune.runtime.stopping import STOP_SIGNALS
from cogtune.train.ends import MemoryKills, RankEnd, RankError, outcome, patience

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0
_SAME_SECONDS = 1.0
"""Two SIGINT within this time are one Ctrl-C."""


def run_ranks(
    plan: dict[str, Any],
    ranks: int,
    threads: int,
    log: Path,
    on_line: Callable[[str], None],
    on_poll: Callable[[], None] = lambda: None,
) -> bool:
    """Run ``cogtune.train.worker`` in ``ranks`` processes until all end; True if done, False if stopped by SIGTERM.

    ``plan`` is the input of the workers. Their output is appended to ``log``; ``on_line`` gets each line reported by the
    first rank; ``on_poll`` is called several times a second. SIGTERM to this process is forwarded, and so is Ctrl-C, after
    which KeyboardInterrupt is raised. Raises UserError with the message of the rank that failed first.
    """
    memory = MemoryKills()
    with tempfile.TemporaryDirectory(prefix="cogtune-train-") as scratch, log.open("a") as output:
        folder = Path(scratch)
        (folder / "plan.json").write_text(json.dumps(plan))
        reading, writing = os.pipe()
        processes: list[subprocess.Popen[bytes]] = []
        try:
            with forwarding_stops(processes) as received:
                for rank in range(ranks):
                    fd = writing if rank == 0 else None
                    processes.append(_start(folder, rank, ranks, threads, output, fd))
                os.close(writing)
                codes = _watch(processes, reading, on_line, announcing(received, on_poll))
        finally:
            os.close(reading)
            _kill(processes)
        ends = [RankEnd(rank, code, _error_of(folder, rank), memory.any()) for rank, code in enumerate(codes)]
        return outcome(ends, received, log)


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
    pass_fds = () if report_fd is None else (report_fd,)
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=pass_fds
    )


@contextmanager
def forwarding_stops(processes: list[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Within the context, SIGTERM, SIGUSR1 and the first SIGINT (Ctrl-C) are added to the yielded list, and the ranks get SIGTERM:
    they save a checkpoint after their step. A second Ctrl-C raises KeyboardInterrupt, unless it comes within a second:
    torchrun passes on the SIGINT that the terminal has sent already. Outside the main thread signals are not caught. A
    SIGINT that the shell ignores (a job in the background) stays ignored."""
    received: list[int] = []
    interrupted_at: list[float] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            if time.monotonic() - interrupted_at[0] > _SAME_SECONDS:
                raise KeyboardInterrupt
            return
        received.append(number)
        if number == signal.SIGINT:
            interrupted_at.append(time.monotonic())
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    caught = [number for number in (*STOP_SIGNALS, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    previous_handlers = {number: signal.signal(number, forward) for number in caught}
    try:
        yield received
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def announcing(received: Sequence[int], on_poll: Callable[[], None]) -> Callable[[], None]:
    """``on_poll``, which first says once that Ctrl-C was received. The signal handler cannot say it: if it interrupts a
    write to the same stream, Python raises "reentrant call"."""
    announced = False

    def poll() -> None:
        nonlocal announced
        if not announced and signal.SIGINT in received:
            announced = True
            _log.warning("[train] stopping after this step, with a checkpoint; Ctrl-C again to stop without one")
        on_poll()

    return poll


def _watch(
    processes: list[subprocess.Popen[bytes]],
    reading: int,
    on_line: Callable[[str], None],
    on_poll: Callable[[], None],
) -> list[int | None]:
    """Forward reports until all ranks have ended, or until `patience` after one ended. Returns the exit codes, None for a
    rank that is still running."""
    pending = b""
    first_end: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while True:
            codes = [process.poll() for process in processes]
            on_poll()
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
            if first_end is None and any(code is not None for code in codes):
                first_end = time.monotonic()
            if first_end is not None and time.monotonic() - first_end > patience(codes, GRACE_SECONDS):
                break
    return codes


def _kill(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def _error_of(folder: Path, rank: int) -> RankError | None:
    path = folder / f"error-{rank}.json"
    return RankError(**json.loads(path.read_text())) if path.exists() else None


def leave_error(folder: Path, error: RankError) -> None:
    """Called in a rank: write ``error`` for the starting process, atomically."""
    write_json(folder / f"error-{error.rank}.json", error.to_dict())

"""How the ranks of a training ended, and what that says about the training."""

import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime import slurm
from cogtune.runtime.failures import NoMemoryError
from cogtune.runtime.oom import oom_kills
from cogtune.runtime.stopping import STOPPED

_KILLS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals that end a rank on their own. SIGABRT is not one of them: NCCL aborts a rank whose peer is gone."""


@dataclass(frozen=True)
class RankError:
    """The error that a rank left. ``time``: orders the errors of one start: seconds since the epoch, or on several machines
    a count; ``expected``: the message is for the user as it is. ``memory``: "GPU" or "CPU" if it ran out of memory, with
    ``request``: what it requested and what the device has."""

    rank: int
    time: float
    message: str
    expected: bool
    traceback: str
    memory: str = ""
    request: str = ""

    @classmethod
    def of(cls, rank: int, error: BaseException, expected: bool, traceback: str) -> "RankError":
        """``error`` as it is now."""
        out = error if isinstance(error, NoMemoryError) else None
        memory, request = ("GPU" if out.gpu else "CPU", out.request) if out else ("", "")
        return cls(rank, time.time(), f"{error}", expected, traceback, memory, request)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class RankMemoryError(UserError):
    """A rank ran out of memory, as ``error`` says. The stage adds what needs less."""

    def __init__(self, error: RankError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True)
class RankEnd:
    """``code``: exit code, -N if signal N ended the rank, None if it did not end by itself. ``error``: what it left.
    ``out_of_memory``: whether the machine reported that it killed the rank for memory. ``host``: if there are
    several."""

    rank: int
    code: int | None
    error: RankError | None = None
    out_of_memory: bool = False
    host: str = ""


_STOP_SECONDS = 60.0
"""Time for all ranks to end when one was stopped: they stop after the same step, and end with a barrier."""


def patience(codes: Sequence[int | None], after_failure: float) -> float:
    """How many seconds after the first rank ended the others are ended too: they may wait for a rank that is gone."""
    failed = any(code not in (None, 0, STOPPED) for code in codes)
    return after_failure if failed else _STOP_SECONDS


class MemoryKills:
    """Tells whether the kernel killed a process of this cgroup for memory since this object was made."""

    def __init__(self) -> None:
        self._before = oom_kills()

    def any(self) -> bool:
        """False also if the kernel does not say."""
        now = oom_kills()
        return now is not None and self._before is not None and now > self._before


def outcome(ends: Sequence[RankEnd], received: Sequence[int], log: Path) -> bool:
    """`verdict` after the signals ``received``. Raises KeyboardInterrupt if Ctrl-C stopped the ranks."""
    done = verdict(ends, bool(received), log)
    if not done and signal.SIGINT in received:
        raise KeyboardInterrupt
    return done


def verdict(ends: Sequence[RankEnd], stop_requested: bool, log: Path) -> bool:
    """True if all ranks are done, False if they were stopped. Raises UserError (RankMemoryError if memory ran out), or
    RuntimeError with a traceback, for the rank that failed first: others fail because their peer is gone."""
    if all(end.code == 0 for end in ends):
        return True
    errors = sorted((end.error for end in ends if end.error), key=lambda error: error.time)
    killed = [end for end in ends if end.code is not None and -end.code in _KILLS]
    if killed and not stop_requested:
        raise UserError(
            f"training did not finish: {_killed(killed)}. Run the same command again to resume. Output of the ranks: {log}"
        )
    if errors and errors[0].memory:
        raise RankMemoryError(errors[0])
    if errors and errors[0].expected:
        raise UserError(errors[0].message)
    if stop_requested or any(end.code in (STOPPED, -signal.SIGTERM) for end in ends):
        return False
    if errors:
        first = errors[0]
        raise RuntimeError(f"rank {first.rank} of training failed: {first.message}\n{first.traceback}")
    codes = ", ".join(f"rank {end.rank}: {end.code}" for end in ends if end.code != 0)
    raise UserError(
        f"training did not finish: exit codes {codes}. Run the same command again to resume. Output of the ranks: {log}"
    )


def _killed(killed: Sequence[RankEnd]) -> str:
    words = []
    for end in killed:
        place = f" on {end.host}" if end.host else ""
        words.append(f"rank {end.rank}{place} was killed by {signal.Signals(-(end.code or 0)).name}")
    message = "; ".join(words)
    if not any(end.code == -signal.SIGKILL for end in killed):
        return message
    return f"{message}; {_memory(any(end.out_of_memory for end in killed))}"


def _memory(certain: bool) -> str:
    job = slurm.job_id()
    reduce = (
        "reduce deepspeed.train_micro_batch_size_per_gpu, set args.checkpoint_activations: full, or request more memory"
    )
    if certain or (job and slurm.out_of_memory(job)):
        return f"it was out of memory: {reduce} (mem_mb of the rule train under Slurm)"
    check = f"`sacct -j {job} -o JobID,State,MaxRSS,ReqMem` or " if job else ""
    return f"the likely cause is that memory ran out (check: {check}`dmesg | grep -i 'killed process'`): {reduce}"

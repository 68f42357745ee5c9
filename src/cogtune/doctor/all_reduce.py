"""An all-reduce over real processes, as training starts them: NCCL on GPUs, gloo on the CPU."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cogtune.doctor.check import Check

_TOPIC, _NAME = "ranks", "all-reduce"
SECONDS = 180.0
"""Limit for the whole check. Each rank imports torch, which takes 20 s on a busy machine."""


def all_reduce_check(ranks: int, gpus: int, seconds: float = SECONDS) -> Check:
    """Start ``ranks`` processes on this machine and add up one tensor of each. ``gpus``: devices of torch."""
    backend = "nccl" if gpus else "gloo"
    if ranks == 1:
        return Check(_TOPIC, _NAME, "OK", "1 rank: nothing to communicate")
    if 0 < gpus < ranks:
        fix = f"give --ranks {gpus}, or run it in a job with {ranks} GPUs"
        return Check(_TOPIC, _NAME, "FAIL", f"{ranks} ranks on {gpus} GPUs: NCCL needs a GPU for each rank", fix)
    with tempfile.TemporaryDirectory(prefix="cogtune-doctor-") as scratch:
        rate, reason = _run(ranks, Path(scratch), seconds)
    if reason:
        return Check(_TOPIC, _NAME, "FAIL", f"{ranks} ranks with {backend}: {reason}", _fix(backend))
    return Check(_TOPIC, _NAME, "OK", f"{ranks} ranks with {backend}: sums are right, {rate / 1e9:.2f} GB/s")


def _fix(backend: str) -> str:
    if backend == "nccl":
        return (
            "run again with NCCL_DEBUG=INFO; set NCCL_SOCKET_IFNAME to the interface that connects the GPUs, and try "
            "NCCL_P2P_DISABLE=1 or NCCL_IB_DISABLE=1 to find the path that fails"
        )
    return "set GLOO_SOCKET_IFNAME to a working interface (lo for one machine)"


def _run(ranks: int, folder: Path, seconds: float) -> tuple[float, str]:
    """(bytes per second, why it failed: "" if it did not)."""
    deadline = time.monotonic() + seconds
    module = [sys.executable, "-m", "cogtune.doctor.all_reduce_rank", str(os.getpid())]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = list[subprocess.Popen[bytes]]()
    try:
        for rank in range(ranks):
            with (folder / f"{rank}.out").open("wb") as output, (folder / f"{rank}.err").open("wb") as errors:
                words = [*module, str(rank), str(ranks), str(folder / "rendezvous"), str(seconds)]
                processes.append(
                    subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment)
                )
        while time.monotonic() < deadline:
            codes = [process.poll() for process in processes]
            if failed := [rank for rank, code in enumerate(codes) if code not in (None, 0)]:
                return 0.0, f"rank {failed[0]} failed: {_last_line(folder / f'{failed[0]}.err', codes[failed[0]])}"
            if all(code == 0 for code in codes):
                return float((folder / "0.out").read_text().split()[-1]), ""
            time.sleep(0.1)
        waiting = [str(rank) for rank, process in enumerate(processes) if process.poll() is None]
        return 0.0, f"no result within {seconds:.0f} s; still waiting: rank {', '.join(waiting)}"
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _last_line(path: Path, code: int | None) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or [f"exit code {code}"])[-1][:300]

"""Processes that own a lock or reserve rows: who they are, and whether they are still alive."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_HIDDEN = "hidden"
"""In place of the start time of a process that runs."""


@dataclass(frozen=True)
class Timing:
    """Seconds between heartbeats of an owner; without heartbeat, until an owner on another host counts as dead, and until
    a claim without owner does; between log lines of a waiter."""

    heartbeat: float = 10.0
    stale: float = 60.0
    unnamed: float = 2.0
    say: float = 10.0


def owner_of(text: str) -> dict[str, Any]:
    """The content of a claim; empty if invalid."""
    try:
        owner: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(owner, dict):
        return {}
    owner = cast(dict[str, Any], owner)
    named = isinstance(owner.get("pid"), int) and isinstance(owner.get("machine"), str) and "start" in owner
    return owner if named or owner.get("released") is True else {}


def is_dead(owner: dict[str, Any], silence: float, timing: Timing) -> bool:
    """Whether an owner without heartbeat for ``silence`` seconds is dead."""
    if not owner:
        return silence > timing.unnamed
    if owner["machine"] == _machine():
        start = _start_time(owner["pid"])
        if start is None:
            return True
        if start != _HIDDEN and owner["start"] is not None:
            return start != owner["start"]
    return silence > timing.stale  # also if the owner's start time is unknown, because pids are reused


def this_process() -> dict[str, Any]:
    """This process as an owner: host, machine (where its pid is valid), pid, start time."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "start": _start_time(pid)}


def slurm_job() -> dict[str, str]:
    """The Slurm job of this process, for those that wait for it; empty outside Slurm."""
    job = os.environ.get("SLURM_JOB_ID")
    return {"slurm_job": job} if job else {}


def in_this_slurm_job(owner: dict[str, Any]) -> bool:
    """Whether an owner belongs to the Slurm job of this process: waiting for it keeps no GPU from another job."""
    job = slurm_job()
    return bool(job) and owner.get("slurm_job") == job["slurm_job"]


def name_of(owner: dict[str, Any]) -> str:
    """An owner for messages."""
    job = f" (Slurm job {owner['slurm_job']})" if owner.get("slurm_job") else ""
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}{job}"


def _machine() -> str:
    """Identifies where a pid is valid: host, boot, pid namespace."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace}"


def _start_time(pid: int) -> str | None:
    """Start time of a process, in kernel units; None if it has ended, or is a zombie. On machines of several users
    /proc may hide those of others (mount option hidepid): `_HIDDEN` if it runs."""
    if not Path("/proc/self/stat").exists():
        return _answers(pid)
    try:
        # The name in parentheses may hold spaces and parentheses itself; state is field 3, start time field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _answers(pid) and _HIDDEN
    return None if fields[0] in "ZX" else fields[19]


def _answers(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"

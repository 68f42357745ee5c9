"""How often the kernel killed a process of this cgroup for memory."""

from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def oom_kills(membership: str | None = None, root: Path = _ROOT) -> int | None:
    """The kernel's count of processes of this cgroup that it killed for memory (cgroup v2 or v1); None if unknown.

    ``membership``: the text of /proc/self/cgroup.
    """
    if membership is None:
        try:
            membership = Path("/proc/self/cgroup").read_text()
        except OSError:
            return None
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            file = root / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            file = root / "memory" / path.lstrip("/") / "memory.oom_control"
        else:
            continue
        with suppress(OSError, ValueError):
            counts = dict(row.split() for row in file.read_text().splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return None

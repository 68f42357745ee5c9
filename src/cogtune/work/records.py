"""Read records and receipts: information about runs that affects no result. Damaged values are ignored."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from cogtune.errors import UserError
from cogtune.runtime.saved import read_sealed, write_sealed
from cogtune.runtime.typed_json import from_json, to_json
from cogtune.work.volatile import Volatile, earlier_volatile


@dataclass(frozen=True)
class Receipt:
    """What a receipt says, as far as it is read again. A count is None if it is missing or of the wrong type."""

    made: int | None = None
    reused: int | None = None
    rejected: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Record:
    """The totals of all runs of one job.

    ``seconds``: of all runs, and of all parts of a job; ``peak_memory_mib``: of one process, ``peak_gpu_mib``: of one GPU,
    None without one; ``made``: units, None if a version that did not count them began the record; ``device``, ``devices``:
    name and number of the devices of the last run; ``run``: the volatile values of that run; ``device_seconds``: the seconds
    of each run times its devices, None if an earlier version wrote the record; ``gpu_busy``: share of the time in which the
    GPUs computed, 0 to 1, None without one.
    """

    runs: int
    seconds: float
    stage: str = ""
    key: str = ""
    peak_memory_mib: float | None = None
    peak_gpu_mib: float | None = None
    made: int | None = None
    device: str = ""
    devices: int = 1
    run: Volatile | None = None
    gpu_busy: float | None = None
    device_seconds: float | None = None

    @property
    def all_device_seconds(self) -> float:
        """`device_seconds`; for a record of an earlier version, as if all runs had the devices of the last."""
        return self.seconds * self.devices if self.device_seconds is None else self.device_seconds

    @property
    def mean_devices(self) -> float:
        """Devices of a run, on average over the time."""
        return self.all_device_seconds / self.seconds if self.seconds else float(self.devices)

    def write(self, path: Path) -> None:
        """Write it, with a checksum."""
        run = {} if self.run is None else {"run": self.run.recorded()}
        write_sealed(path, to_json(self) | run)


def read_record(path: Path) -> Record | None:
    """The record; None if missing or invalid."""
    try:
        content = read_sealed(path, {}, "")
        run = content.pop("run", None)
        record = from_json(Record, content)
    except (OSError, UserError, ValueError):
        return None
    sizes = (record.peak_memory_mib, record.peak_gpu_mib, record.gpu_busy, record.device_seconds)
    numbers = (record.runs, record.seconds, *sizes, record.made, record.devices)
    if any(number is not None and number < 0 for number in numbers):
        return None
    return replace(record, run=earlier_volatile(run) if run is not None else None)


def read_receipt(path: Path) -> Receipt | None:
    """The receipt; None if there is none. For Snakemake only its existence counts, so an invalid one has no counts."""
    if not path.is_file():
        return None
    content = read_object(path)
    names = ("made", "reused", "rejected", "steps")
    return Receipt(**{name: content[name] for name in names if type(content.get(name)) is int})


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if missing or invalid."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], content) if isinstance(content, dict) else {}

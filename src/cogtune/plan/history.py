"""Earlier runs: slices, records and data sets in the store."""

from functools import cache
from pathlib import Path
from typing import Any

from cogtune.config.leaves import leaves_of, nest
from cogtune.data.listing import Columns, read_columns
from cogtune.runtime.digest import key_of
from cogtune.work.records import Receipt, Record, read_object, read_receipt, read_record
from cogtune.work.slices import Slice
from cogtune.work.volatile import UpstreamJob, Volatile, earlier_volatile

Identity = dict[str, Any]


class History:
    """Reads the store and the results folder; each file is read once."""

    def __init__(self, store: Path, results: Path) -> None:
        self.store, self.results = store, results
        self.assumed: dict[str, Columns] = {}
        """Data sets by scan that are not in the store: those that a plan assumes."""
        self.slice_file = cache(self._slice_file)
        self.columns = cache(self._columns)
        self.ran = cache(self._ran)

    def published(self, experiment: str) -> dict[str, str]:
        """Job keys by stage of the published results/<experiment>; empty if nothing was published."""
        keys = read_object(self.results / experiment / "run.json").get("keys")
        return {stage: key for stage, key in keys.items() if isinstance(key, str)} if isinstance(keys, dict) else {}

    def record(self, stage: str, key: str) -> Record | None:
        """The record of a job (total cost of its runs); None if it has never finished."""
        return read_record(self.store / "records" / f"{stage}-{key}.json")

    def receipt(self, stage: str, key: str) -> Receipt | None:
        """The job's receipt; None if there is none."""
        return read_receipt(self.results / ".receipts" / f"{stage}-{key}.json")

    def before(self, part: Slice, experiment: str) -> tuple[Identity, str, bool] | None:
        """(identity, key, whether of this experiment) of the job to compare ``part`` with: the experiment's last published
        job, else the job of this stage with the fewest differing values. None if there is none."""
        own = self.published(experiment).get(part.stage)
        if own and own != part.key and (identity := self.slice_file(own)):
            return identity, own, True
        others = [key for key in self.nearest(part) if key != part.key]
        return (self.slice_file(others[0]), others[0], False) if others else None

    def nearest(self, part: Slice) -> list[str]:
        """Keys of finished jobs of this stage, sorted by the number of differing values, then newest first."""
        values = dict(leaves_of(part.identity))
        far = []
        for key in self.ran(part.stage):
            if identity := self.slice_file(key):
                other = dict(leaves_of(identity))
                differing = sum(values.get(path) != other.get(path) for path in values | other)
                far.append((differing, -(self.store / "slices" / f"{key}.json").stat().st_mtime, key))
        return [key for _, _, key in sorted(far)]

    def scanned(self, scan: str) -> Columns | None:
        """The data set of a scan; None if it is missing."""
        if not scan or not (self.store / "scan" / scan / "manifest.jsonl").exists():
            return None
        return self.columns(scan)

    def jobs(self, key: str) -> dict[str, UpstreamJob]:
        """The upstream jobs of a job, by name."""
        return self.volatile(key).jobs

    def json(self, path: str) -> dict[str, Any]:
        """A JSON file of the store; empty if missing."""
        return read_object(self.store / path)

    def volatile(self, key: str) -> Volatile:
        """The volatile part of a finished job: its volatile values and upstream jobs.

        It is in the record. Earlier versions kept that of the last run in the store.
        """
        record = self.record(self.slice_file(key).get("stage", ""), key)
        if record is not None and record.run is not None:
            return record.run
        return earlier_volatile(read_object(self.store / "slices" / f"{key}.volatile.json"))

    def values(self, key: str) -> dict[str, Any]:
        """The config of a job and of its upstream jobs, as far as their stages read it."""
        leaves: dict[tuple[str | int, ...], Any] = {}
        for name in reversed(self._line(key)):
            identity = self.slice_file(name)
            part = Slice(identity["stage"], identity, self.volatile(name))
            leaves |= dict(leaves_of(part.config()))
        return nest(leaves)

    def _line(self, key: str) -> list[str]:
        """The job and its upstream jobs, nearest first."""
        line, waiting = [], [key]
        while waiting:
            name = waiting.pop(0)
            if name in line or not self.slice_file(name):
                continue
            line.append(name)
            waiting += [job.key for upstream, job in self.jobs(name).items() if upstream not in ("scan", "load")]
        return line

    def _ran(self, stage: str) -> list[str]:
        """Keys of the finished jobs of a stage."""
        folders = ((self.store / "records", f"{stage}-*.json"), (self.results / ".receipts", f"{stage}-*.json"))
        return sorted({path.stem.rpartition("-")[2] for folder, glob in folders for path in folder.glob(glob)})

    def _slice_file(self, name: str) -> dict[str, Any]:
        identity = read_object(self.store / "slices" / f"{name}.json")
        return identity if identity and key_of(identity) == name else {}  # ignore a damaged slice

    def _columns(self, scan: str) -> Columns:
        return self.assumed.get(scan) or read_columns(self.store / "scan" / scan / "manifest.jsonl")

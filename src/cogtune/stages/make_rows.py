"""Which rows a job makes: all that its folder lacks, or the share of its part.

Rows of one folder may be made by several jobs at the same time: parts of one job, and jobs of other data sets. They
reserve what they make (`runtime/reservations.py`), so no row is made twice, and wait for rows that others make.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cogtune.runtime.atomic import write_json
from cogtune.runtime.reservations import Reservations
from cogtune.runtime.slurm import patience
from cogtune.stages.job import Job, missing_ids
from cogtune.stages.run_counts import RunCounts
from cogtune.work.parts import Part, part_receipts

Unit = Sequence[str]
"""Names of rows that are made together."""


def make_rows(job: Job[Any], units: Sequence[Unit], make: Callable[[list[str]], None]) -> RunCounts:
    """Call ``make`` with the names of the rows of ``units`` that the folder lacks, in their order.

    A job without parts runs under the lock of its folder, so only reservations that began before it can be in the way.
    A part makes its share of the units, and returns when all rows of its share exist; it counts only these.
    """
    if job.part is not None:
        return _make_part(job, job.part, units, make)
    rows = [row for unit in units for row in unit]
    present = job.rows()
    if _parts_are_done(job):
        present.settle(rows)
    missing = missing_ids(rows, present.ids())
    if missing and job.note_wait(Reservations(job.lock_path, patience=patience()).wait(missing)):
        missing = missing_ids(rows, job.rows().ids())
    if missing:
        make(missing)
    for path in _splits(job).glob(f"{job.key}-*.json"):
        with suppress(OSError):  # all rows exist, so nobody needs the split any more
            path.unlink()
    return RunCounts(made=len(missing), reused=len(rows) - len(missing))


def _parts_are_done(job: Job[Any]) -> bool:
    """Whether the receipts of all parts of this job say that its rows exist."""
    receipts = part_receipts(job.results / ".receipts" / f"{job.slice.stage}-{job.key}.json")
    counts = Counter(path.stem.rpartition("-of-")[2] for path in receipts)
    return any(str(number) == count for count, number in counts.items())


def _make_part(job: Job[Any], part: Part, units: Sequence[Unit], make: Callable[[list[str]], None]) -> RunCounts:
    reservations, made = Reservations(job.lock_path, patience=patience()), 0
    present = job.rows().ids()
    share = list(part.of(units)) if all(row in present for unit in units for row in unit) else None
    while share is None or any(row not in present for unit in share for row in unit):
        began = time.monotonic()

        def choose(reserved: frozenset[str]) -> list[str]:
            nonlocal share
            job.note_wait(time.monotonic() - began)  # noqa: B023  called before the next turn
            present = job.rows().ids()
            if share is None:
                share = _share(job, part, units, present)
            free = [unit for unit in share if reserved.isdisjoint(unit)]
            return missing_ids((row for unit in free for row in unit), present)

        with reservations.reserve(choose) as rows:
            if rows:
                make(list(rows))
        made += len(rows)
        present = job.rows().ids()
        job.note_wait(reservations.wait([row for unit in share or () for row in unit if row not in present]))
        present = job.rows().ids()
    return RunCounts(made=made, reused=sum(len(unit) for unit in share) - made)


def _share(job: Job[Any], part: Part, units: Sequence[Unit], present: set[str]) -> list[Unit]:
    """The units of a part. Call it under the lock of the folder.

    The units that lack rows when the first part of the job starts are split evenly, and so are the others: with one
    split of all, few new clips in a large data set could all be in one part. That first part writes the list for all
    others.
    """
    path = _splits(job) / f"{job.key}-{part.count}.json"
    names = _read_names(path)
    if names is None:
        incomplete = [unit[0] for unit in units if any(row not in present for row in unit)]
        write_json(path, incomplete, indent=None)
        names = set(incomplete)
    return [
        *part.of([unit for unit in units if unit[0] in names]),
        *part.of([unit for unit in units if unit[0] not in names]),
    ]


def _splits(job: Job[Any]) -> Path:
    """The folder of what the parts of jobs agreed on: <job key>-<number of parts>.json."""
    return job.lock_path.with_suffix(".parts")


def _read_names(path: Path) -> set[str] | None:
    """The names in a split; None if it is missing or damaged."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return {str(name) for name in content} if isinstance(content, list) else None

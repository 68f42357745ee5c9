"""Slices: the part of a merged config that one stage gets, and the key of its results.

The main process creates them once, from the merged config and the table in `stages.py`:

``store/slices/<key>.json``   identity: values (files as content hashes), upstream identities, data digest. Written
once. ``results/.runs/….json``      everything that does not affect results, by job key (`runs.py`): paths, volatile
keys, the
                              upstream *job* keys, machine facts. It belongs to the run, not to the store.

A stage reads both, recomputes the key, and fails on a mismatch.
"""

import fnmatch
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cogtune.config.leaves import KeyPath, leaves_of, nest, parse_path
from cogtune.errors import UserError
from cogtune.runtime.digest import has_key, key_of
from cogtune.runtime.typed_json import is_mapping
from cogtune.work.runs import read_part
from cogtune.work.stages import STAGES, Stage
from cogtune.work.volatile import UpstreamJob, Volatile

FORMAT = "cogtune-slice-1"
_AGAIN = "delete it and run snakemake again, which rewrites it"


@dataclass(frozen=True)
class Slice:
    """The input of one job. ``identity``: the data digested by ``key``; ``run``: the file with ``volatile`` of this job
    and of upstream jobs; it exists once the run has started."""

    stage: str
    identity: dict[str, Any]
    volatile: Volatile = field(default_factory=Volatile)
    run: Path | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """The key of the job: names its slice file and receipt, and the folder of stages with one result per job."""
        return key_of(self.identity)

    @property
    def items_key(self) -> str:
        """The key of the folder of rows: without the data set, because a row depends on its clip or caption only."""
        return key_of({name: value for name, value in self.identity.items() if name != "data"})

    @property
    def upstream_identity(self) -> str:
        """The key that downstream stages digest: rows do not change when the data set grows."""
        return self.items_key if STAGES[self.stage].items else self.key

    def config(self) -> dict[str, Any]:
        """The nested config of the stage: identity and volatile keys, with real paths instead of hashes."""
        leaves = dict(leaves_of(self.identity["values"])) | {
            parse_path(path): value for path, value in self.volatile.values.items()
        }
        leaves |= {parse_path(path): value for path, value in self.volatile.files.items()}
        return nest(leaves)

    def path(self, store: Path) -> Path:
        """The file of the identity in the store."""
        return store / "slices" / f"{self.key}.json"

    def write(self, store: Path) -> Path:
        """Write the identity to the store, if it is missing or damaged."""
        from cogtune.runtime.atomic import write_json

        path = self.path(store)
        if not has_key(path, self.key):
            write_json(path, self.identity)
        return path


def read_slice(path: Path, run: Path | None = None) -> Slice:
    """Load a slice and check that its content matches the key in its name; ``run``: the file with its volatile part.

    Raises UserError for files that do not match or cannot be read.
    """
    try:
        identity: Any = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: invalid slice ({error}); {_AGAIN}") from None
    file_format = identity.get("format") if is_mapping(identity) else None
    if file_format != FORMAT:
        raise UserError(f"{path}: format {file_format!r}; expected {FORMAT!r}; {_AGAIN}")
    if (key := key_of(identity)) != path.stem:
        raise UserError(f"{path}: its content has key {key}, so the file was modified; {_AGAIN}")
    return Slice(identity["stage"], identity, read_part(run, path.stem) if run else Volatile(), run)


def cut(
    stage: Stage,
    values: dict[str, Any],
    hashes: dict[str, str],
    files: dict[str, str],
    upstream: dict[str, Slice],
    data: str | None = None,
) -> Slice:
    """Create the slice of ``stage`` from the canonical config ``values``.

    ``hashes`` and ``files`` map dotted paths of file keys to content hashes and to absolute paths.
    """
    identity_leaves: dict[KeyPath, Any] = {}
    volatile_leaves: dict[str, Any] = {}
    named_files: dict[str, str] = {}
    for path, value in leaves_of(values):
        dotted = ".".join(map(str, path))
        kind = _kind(stage, path)
        if kind is None:
            continue
        if kind == "volatile":
            volatile_leaves[dotted] = files.get(dotted, value)
        elif dotted in hashes:
            identity_leaves[path], named_files[dotted] = hashes[dotted], files[dotted]
        else:
            identity_leaves[path] = value
    identity: dict[str, Any] = {
        "format": FORMAT,
        "stage": stage.name,
        "version": stage.version,
        "values": nest(identity_leaves),
        "upstream": {name: part.upstream_identity for name, part in upstream.items()},
    }
    if data is not None:
        identity["data"] = data
    jobs = {name: upstream_job(part) for name, part in upstream.items()}
    return Slice(stage.name, identity, Volatile(volatile_leaves, named_files, jobs))


def upstream_job(part: Slice) -> UpstreamJob:
    """The reference to ``part`` in a downstream job; a slice with a run file is another experiment's."""
    return UpstreamJob(part.stage, part.key, part.items_key, part.run.name if part.run else None)


def upstream_receipts(results: Path, part: Slice) -> list[Path]:
    """The receipts that a job depends on; for a sweep, the markers of its members' reports."""
    return sorted(
        results / name / f".published-{job.key}"
        if job.stage in STAGES and STAGES[job.stage].publishes
        else results / ".receipts" / f"{job.stage}-{job.key}.json"
        for name, job in part.volatile.jobs.items()
    )


def reads_identity(stage: Stage, dotted: str) -> bool:
    """Whether the key at ``dotted`` is in the digest of ``stage``."""
    return _kind(stage, tuple(dotted.split("."))) == "keys"


def how_read(stage: Stage, dotted: str) -> str | None:
    """ "keys" if the key is in the digest of ``stage``, "volatile" if the stage reads it without digest, else None."""
    return _kind(stage, tuple(dotted.split(".")))


@cache
def _kind(stage: Stage, path: KeyPath) -> str | None:
    best: tuple[int, str] | None = None
    for kind in ("keys", "volatile"):
        for pattern in getattr(stage, kind):
            segments = pattern.split(".")
            fits = len(segments) <= len(path) and all(
                fnmatch.fnmatchcase(str(part), segment) for part, segment in zip(path, segments, strict=False)
            )
            if fits and (best is None or len(segments) >= best[0]):
                best = (len(segments), kind)
    return best[1] if best else None

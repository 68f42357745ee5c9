"""Read and write the rows of a stage: immutable shards (`shards.py`) with unique names.

Shards are written atomically (temporary name, fsync, rename), so they can be read during writing, and a killed writer
only loses rows that were not flushed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cogtune.data.shards import FORMAT, Shard, checksums
from cogtune.errors import UserError
from cogtune.runtime import slurm
from cogtune.runtime.atomic import replacing, sync, write_text
from cogtune.runtime.saved import DamagedError
from cogtune.runtime.sums import say_unchecked

if TYPE_CHECKING:  # torch takes seconds to import, and meta can be read without it
    from torch import Tensor

Row = TypeVar("Row")

INDEX = "index.json"
_INDEX = '{"format": "cogtune-index-2", "crc32": %d, "shards": '
_INDEX_HEAD = re.compile(re.escape(_INDEX).replace("%d", "([0-9]+)"))
_OPEN_ROWS = 20_000
"""Rows whose names, offsets and meta a reader caches: 1 to 3 kB each. A limit in shards would depend on their size:
with 64 shards, reading 20,000 rows of 100 shards took 24.6 s, because shards were opened again for every row."""
_ABANDONED_SECONDS = 3600.0
_LIST_SECONDS = 1.0
_log = logging.getLogger(__name__)


class ShardWriter:
    """Collects rows and writes a shard after ``flush_megabytes`` or ``flush_seconds``, whichever comes first.

    Use it as a context manager: the rows are written at the end of the block, also after an error.
    """

    def __init__(self, folder: Path, flush_megabytes: float = 256, flush_seconds: float = 30.0) -> None:
        self._folder = Path(folder)
        self._max_bytes, self._max_seconds = flush_megabytes * 1e6, flush_seconds
        self._tensors: dict[str, Tensor] = {}
        self._meta: dict[str, Mapping[str, Any]] = {}
        self._sums: dict[str, tuple[int, int]] = {}
        self._bytes = 0
        self._flushed_at = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self._folder)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()

    def add(self, item_id: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Add one row. ``meta`` must be serializable as JSON. Raises ValueError for a row that was added before."""
        if item_id in self._meta or "/" in item_id:
            raise ValueError(f"row {item_id!r}: added twice, or a name with a slash")
        # Copied, because safetensors refuses tensors that share memory, and a view would keep its whole batch in memory.
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        self._sums[item_id] = checksums(item_id, copies, meta or {})
        self._meta[item_id] = dict(meta or {})
        self._tensors |= {f"{item_id}/{name}": tensor for name, tensor in copies.items()}
        self._bytes += sum(tensor.nbytes for tensor in copies.values())
        if self._bytes >= self._max_bytes or time.monotonic() - self._flushed_at >= self._max_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the rows that were added since the last flush."""
        if self._meta:
            write_shard(self._folder, self._tensors, self._meta, self._sums)
        self._tensors, self._meta, self._sums, self._bytes = {}, {}, {}, 0
        self._flushed_at = time.monotonic()


def write_shard(
    folder: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Mapping[str, Any]],
    sums: Mapping[str, tuple[int, int]],
) -> None:
    """Write a new shard. ``tensors``: by ``<row>/<tensor>``; ``sums``: by row, from `shards.checksums`."""
    from safetensors.torch import save_file

    metadata = {"format": FORMAT, "meta": json.dumps(meta, allow_nan=False), "crc32": json.dumps(sums)}
    with replacing(folder / f"{uuid.uuid4().hex}.safetensors") as temporary:
        save_file(dict(tensors), temporary, metadata)


class ShardReader:
    """The rows of a folder at the time of construction. Values are memory mapped, and read on access.

    `settle` and `require` look again for rows that it lacks.

    The checksum of each row is verified at its first access. The shard of each row is cached in ``index.json``; only
    shards that are not in it are opened. ``advice``: what to do about a missing row, for the error message. Raises
    DamagedError for a damaged shard or row, UserError for a shard of another format version, or a missing row. A
    missing folder has no rows.
    """

    def __init__(self, folder: Path, advice: str = "run the stage that makes it again") -> None:
        self._folder, self._advice = Path(folder), advice
        self._open: OrderedDict[str, Shard] = OrderedDict()
        self._open_rows = 0
        self._checked: set[str] = set()
        self._shard_of: dict[str, str] = {}
        self._list()

    def _list(self) -> None:
        for shard, items in _index(self._folder).items():
            for item in items:
                self._shard_of.setdefault(item, shard)

    def __len__(self) -> int:
        return len(self._shard_of)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._shard_of

    def ids(self) -> set[str]:
        """The names of all rows."""
        return set(self._shard_of)

    def settle(self, item_ids: Iterable[str]) -> None:
        """Wait for rows that others have made: of a job of a cluster, another node may have written them, and a network
        file system may show new files only after some time. No effect outside Slurm."""
        wanted, deadline = set(item_ids), time.monotonic() + slurm.visible_seconds()
        announced = False
        while (missing := wanted - self._shard_of.keys()) and time.monotonic() < deadline:
            if not announced:
                _log.info("%s: waiting until %d rows of other jobs are visible here", self._folder, len(missing))
            announced = True
            time.sleep(_LIST_SECONDS)
            self._list()

    def require(self, item_ids: Iterable[str]) -> None:
        """Raise UserError with advice if a row is missing, also after `settle`."""
        wanted = set(item_ids)
        if not wanted <= self._shard_of.keys():
            self.settle(wanted)
        if missing := sorted(wanted - self._shard_of.keys()):
            names = f"no row {missing[0]}" + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
            raise UserError(f"{self._folder}: {names}; {self._advice}")

    def tensors(self, item_id: str) -> dict[str, Tensor]:
        """The tensors of a row, memory mapped: copy before changing one."""
        shard = self._shard(item_id)
        if item_id not in self._checked:
            shard.check(item_id)
            self._checked.add(item_id)
        return shard.tensors(item_id)

    def meta(self, item_id: str) -> dict[str, Any]:
        """The meta of a row. Does not import torch."""
        shard = self._shard(item_id)
        if item_id not in self._checked:
            shard.check(item_id, content=False)
        return shard.meta[item_id]

    def metas(self, item_ids: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(row, meta) of many rows, sorted by shard, so that each shard is opened once."""
        wanted = list(dict.fromkeys(item_ids))
        self.require(wanted)
        for item_id in sorted(wanted, key=self._shard_of.__getitem__):
            yield item_id, self.meta(item_id)

    def row(self, item_id: str, parse: Callable[[dict[str, Any]], Row]) -> Row:
        """The parsed meta of a row. If ``parse`` raises ValueError, the row is invalid: raises DamagedError. The types
        are in `rows.py`."""
        return self._parsed(item_id, self.meta(item_id), parse)

    def rows(self, item_ids: Iterable[str], parse: Callable[[dict[str, Any]], Row]) -> Iterator[tuple[str, Row]]:
        """(row, parsed meta) of many rows, sorted by shard, so that each shard is opened once."""
        for item_id, meta in self.metas(item_ids):
            yield item_id, self._parsed(item_id, meta, parse)

    def tensor(self, item_id: str, name: str, dimensions: int) -> Tensor:
        """One tensor of a row, memory mapped: copy before changing it. Raises DamagedError if it is missing or has
        other ``dimensions``."""
        tensor = self.tensors(item_id).get(name)
        if tensor is None or tensor.ndim != dimensions:
            actual = "none" if tensor is None else f"{tensor.ndim}"
            raise self._shard(item_id).damaged(
                f"expected a tensor {name!r} of {dimensions} dimensions, found {actual}", item_id
            )
        return tensor

    def _parsed(self, item_id: str, meta: dict[str, Any], parse: Callable[[dict[str, Any]], Row]) -> Row:
        try:
            return parse(meta)
        except ValueError as error:
            raise self._shard(item_id).damaged(str(error), item_id) from None

    def _shard(self, item_id: str) -> Shard:
        self.require([item_id])
        name = self._shard_of[item_id]
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        shard = self._open[name] = Shard(self._folder / name)
        self._open_rows += len(shard)
        if item_id not in shard:
            raise shard.damaged("a row is missing")
        if not shard.checked:
            say_unchecked(self._folder)
        while self._open_rows > _OPEN_ROWS and len(self._open) > 1:
            self._open_rows -= len(self._open.popitem(last=False)[1])
        return shard


def damaged_rows(path: Path) -> tuple[list[str], str]:
    """(damaged rows, reason) of a shard. An empty list with a reason: the whole shard is damaged. ([], ""): it is
    valid."""
    try:
        shard = Shard(path)
        rows = shard.rows()
    except DamagedError as error:
        return [], str(error).split(";")[0]
    damaged, reason = [], ""
    for row in rows:
        try:
            shard.check(row)
        except DamagedError as error:
            damaged.append(row)
            reason = reason or str(error).split(";")[0]
    return damaged, reason


def remove_rows(path: Path, rows: Iterable[str]) -> None:
    """Copy all rows of a shard except ``rows`` into a new shard, and remove the old one. The caller must hold the
    folder's lock. If the process is killed, both may exist; readers use one copy of each row."""
    shard, removed = Shard(path), set(rows)
    kept = [row for row in shard.rows() if row not in removed]
    if kept:
        tensors = {f"{row}/{name}": tensor for row in kept for name, tensor in shard.tensors(row).items()}
        write_shard(
            path.parent, tensors, {row: shard.meta[row] for row in kept}, {row: shard.sums(row) for row in kept}
        )
    path.unlink()
    sync(path.parent)


def row_ids(folder: Path, remember: bool = True) -> set[str]:
    """The names of all rows of a folder, like `ShardReader.ids`, but fast for a million rows. ``remember``: update the
    index file."""
    return {item for items in _index(folder, remember).values() for item in items}


def shard_paths(folder: Path) -> list[Path]:
    """All shards of a folder, in order of their names."""
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))


def has_valid_index(folder: Path) -> bool:
    """Whether ``index.json`` is valid, or not needed; if it is invalid, readers open all shards."""
    return bool(_cached_index(folder)) or not (folder / INDEX).exists() or not shard_paths(folder)


def _index(folder: Path, remember: bool = True) -> dict[str, list[str]]:
    """Items by shard, shards in order of their names."""
    names = [path.name for path in shard_paths(folder)]
    known = _cached_index(folder)
    if set(known) != set(names):
        known = {name: known[name] if name in known else Shard(folder / name).rows() for name in names}
        if remember:
            body = json.dumps(known) + "}\n"
            # The store of another user may be read-only; then every reader opens the shards.
            with suppress(OSError):
                write_text(folder / INDEX, _INDEX % zlib.crc32(body.encode()) + body)
    return {name: known[name] for name in names}


def _cached_index(folder: Path) -> dict[str, list[str]]:
    """The content of index.json; empty if it is missing, damaged or of another version."""
    try:
        text = (folder / INDEX).read_text()
    except (OSError, ValueError):
        return {}
    head = _INDEX_HEAD.match(text)
    if head is None or zlib.crc32(text[head.end() :].encode()) != int(head[1]):
        return {}
    return json.loads(text)["shards"]


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files of killed writers: those older than an hour, which is longer than any flush. The file system
    says what time it is: the clock of this node may be hours ahead of that of a live writer."""
    with suppress(OSError):  # then it looks earlier than it is, and nothing is removed too soon
        os.utime(folder)
    now = folder.stat().st_mtime
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if now - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()

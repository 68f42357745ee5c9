"""Rows of an item stage: immutable safetensors shards with unique names, and what reads their union.

A shard appears whole (temporary name, fsync, rename) or not at all, so a reader may come while a writer works, and a
killed writer loses what it had not flushed and nothing else. Tensors are named ``<item>/<tensor>``; the metadata says
``format`` and, as JSON, ``meta``: one mapping for every item of the shard. No pickle anywhere.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from cogtune.errors import UserError
from cogtune.runtime.atomic import replacing, write_json

if TYPE_CHECKING:  # torch takes seconds to import, and what was said of rows can be read without it
    from torch import Tensor

FORMAT = "cogtune-shard-1"
INDEX = "index.json"
_INDEX_FORMAT = "cogtune-index-1"
_OPEN_SHARDS = 64
_ABANDONED_SECONDS = 3600.0


class ShardWriter:
    """Collects rows and writes a shard after ``flush_megabytes`` or ``flush_seconds``, whichever comes first.

    Use it as a context manager: what is complete is written at the end, also when an error ends the block.
    """

    def __init__(self, folder: Path, flush_megabytes: float = 256, flush_seconds: float = 30.0) -> None:
        self._folder = Path(folder)
        self._most_bytes, self._most_seconds = flush_megabytes * 1e6, flush_seconds
        self._tensors: dict[str, Tensor] = {}
        self._meta: dict[str, Mapping[str, Any]] = {}
        self._bytes = 0
        self._flushed_at = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        _sweep(self._folder)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()

    def add(self, item_id: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
        """Add one row. ``meta`` must fit into JSON. Raises ValueError for a row that this writer holds already."""
        if item_id in self._meta or "/" in item_id:
            raise ValueError(f"row {item_id!r}: added twice, or a name with a slash")
        self._meta[item_id] = dict(meta or {})
        for name, tensor in tensors.items():
            # A copy of its own: safetensors refuses tensors that share memory, and a view would keep its whole batch alive.
            own = tensor.detach().to("cpu", copy=True).contiguous()
            self._tensors[f"{item_id}/{name}"] = own
            self._bytes += own.nbytes
        if self._bytes >= self._most_bytes or time.monotonic() - self._flushed_at >= self._most_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last flush, if anything."""
        if self._meta:
            from safetensors.torch import save_file

            metadata = {"format": FORMAT, "meta": json.dumps(self._meta, allow_nan=False)}
            with replacing(self._folder / f"{uuid.uuid4().hex}.safetensors") as temporary:
                save_file(self._tensors, temporary, metadata)
        self._tensors, self._meta, self._bytes = {}, {}, 0
        self._flushed_at = time.monotonic()


class ShardReader:
    """The rows of a folder, as they were when the reader was made; values are read when asked for, memory mapped.

    Which item is in which shard is cached in ``index.json``; only shards that it does not know yet are opened. Raises
    UserError for a shard of another format version, or a damaged one. An absent folder has no rows.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._open: OrderedDict[str, _Shard] = OrderedDict()
        self._shard_of: dict[str, str] = {}
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

    def tensors(self, item_id: str) -> dict[str, Tensor]:
        """The tensors of a row. They look into the file: copy before changing one."""
        return self._shard(item_id).tensors(item_id)

    def meta(self, item_id: str) -> dict[str, Any]:
        """What was said of the row. Does not import torch."""
        return self._shard(item_id).meta[item_id]

    def _shard(self, item_id: str) -> _Shard:
        try:
            name = self._shard_of[item_id]
        except KeyError:
            raise UserError(f"{self._folder}: no row {item_id[:12]}…; run the stage that makes it again") from None
        if name in self._open:
            self._open.move_to_end(name)
        else:
            self._open[name] = _Shard(self._folder / name)
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        return self._open[name]


def row_ids(folder: Path) -> set[str]:
    """The names of all rows of a folder: `ShardReader.ids` without the reader, for a million of them."""
    return {item for items in _index(folder).values() for item in items}


class _Shard:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            header = safe_open(path, framework="numpy")
            metadata = header.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); delete this file, and the stage makes its rows again"
            ) from None
        if metadata.get("format") != FORMAT:
            raise UserError(
                f"{path}: format {metadata.get('format')!r}, this version reads {FORMAT!r}; another version of cogtune "
                f"wrote it: use that one, or `cogtune store drop {path.parent.name}` to make the rows again"
            )
        self.meta: dict[str, dict[str, Any]] = json.loads(metadata["meta"])
        self._names: dict[str, list[str]] = {item: [] for item in self.meta}
        for key in header.keys():  # noqa: SIM118  # not a mapping
            item, _, name = key.partition("/")
            self._names[item].append(name)

    @cached_property
    def _file(self) -> Any:
        return safe_open(self._path, framework="pt")

    def tensors(self, item: str) -> dict[str, Tensor]:
        return {name: self._file.get_tensor(f"{item}/{name}") for name in self._names[item]}


def _index(folder: Path) -> dict[str, list[str]]:
    """Items by shard, shards in order of their names."""
    names = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    known = _cached_index(folder)
    if set(known) != set(names):
        known = {name: known.get(name) or sorted(_Shard(folder / name).meta) for name in names}
        # A store that belongs to somebody else may be read-only; then each reader looks for itself.
        with suppress(OSError):
            write_json(folder / INDEX, {"format": _INDEX_FORMAT, "shards": known}, indent=None)
    return {name: known[name] for name in names}


def _cached_index(folder: Path) -> dict[str, list[str]]:
    try:
        found = json.loads((folder / INDEX).read_text())
        return found["shards"] if found["format"] == _INDEX_FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _sweep(folder: Path) -> None:
    """Remove what killed writers left behind; an hour old, as no flush of a living one takes so long."""
    for path in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()

"""The record of a training checkpoint: which file holds which elements of which tensor.

    <training>/checkpoints/step-00000500/rank-00003.safetensors   what rank 3 owned, each tensor flattened
    <training>/checkpoints/step-00000500/record.json              the `Record`

A trained parameter is one flat tensor that is cut into ranges, at most one per file. A file has its range of the master
weight as `master/<parameter>`, and the same range of each state of the optimizer as `<state>/<parameter>`. The record does
not depend on ZeRO's stage, so any number of ranks at any stage can read any range.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogtune.checkpoints import safetensors_file
from cogtune.checkpoints.header import SIZES, Joined, Source, Stored
from cogtune.errors import UserError
from cogtune.runtime.paths import inside
from cogtune.runtime.saved import read_sealed
from cogtune.runtime.typed_json import from_json

FORMAT = "cogtune-checkpoint-3"
EARLIER = ("cogtune-checkpoint-1", "cogtune-checkpoint-2")
"""Formats of earlier versions: DeepSpeed's pickles, for one number of ranks."""
RECORD = "record.json"
MASTER = "master"
_UNUSED = "the checkpoint is not used"


@dataclass(frozen=True)
class Record:
    """``files``: name -> sha256. ``shapes``: of each trained parameter. ``ranges``: file -> parameter -> [begin, end).
    ``states``: the optimizer's tensors that have the parameter's shape; ``scalars``: parameter -> its other state;
    ``whole``: tensor that cannot be cut -> its file; ``whole_keys``: parameter -> its states there; ``groups``: values of
    the optimizer's parameter groups; ``counters``: DeepSpeed's. ``skipped``: the steps skipped so far."""

    format: str
    step: int
    ranks: int
    files: dict[str, str]
    shapes: dict[str, list[int]]
    ranges: dict[str, dict[str, list[int]]]
    states: list[str]
    scalars: dict[str, dict[str, Any]]
    whole: dict[str, str]
    whole_keys: dict[str, list[str]]
    groups: list[dict[str, Any]]
    counters: dict[str, Any]
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def check(self) -> None:
        """Raise ValueError unless the ranges cover every parameter once, and all files are listed."""
        if unlisted := (set(self.ranges) | set(self.whole.values())) - set(self.files):
            raise ValueError(f"its record has no checksum of {sorted(unlisted)[:3]}")
        for name, shape in self.shapes.items():
            ends = sorted((begin, end) for begin, end in self._ranges_of(name))
            begins = [0, *(end for _, end in ends)]
            if [begin for begin, _ in ends] != begins[:-1] or begins[-1] != math.prod(shape):
                raise ValueError(f"its record does not cover {name} once")

    def _ranges_of(self, name: str) -> Iterator[tuple[int, int]]:
        for by_name in self.ranges.values():
            if name in by_name:
                begin, end = by_name[name]
                yield begin, end


def read_record(folder: Path) -> Record:
    """The record of a checkpoint of `FORMAT`. Raises DamagedError, or ValueError for one that is not consistent."""
    record = from_json(Record, read_sealed(folder / RECORD, {"format": str}, _UNUSED))
    record.check()
    return record


def format_of(folder: Path) -> str:
    """The format in the record of a checkpoint. Raises DamagedError."""
    return read_sealed(folder / RECORD, {"format": str}, _UNUSED)["format"]


def stored_name(state: str, parameter: str) -> str:
    """The name in a file of a range of ``state`` (or `MASTER`) of ``parameter``."""
    return f"{state}/{parameter}"


class Ranges:
    """The tensors of a checkpoint, by their places in its files. Raises UserError for files that are not complete."""

    def __init__(self, folder: Path, record: Record) -> None:
        files = {name: inside(folder, name, folder / RECORD) for name in record.files}
        if missing := [path for path in files.values() if not path.is_file()]:
            raise UserError(f"{missing[0]}: missing; the checkpoint is not complete")
        self._tensors = {name: safetensors_file.read(path).tensors for name, path in files.items()}
        self._record = record

    def elements(self, state: str, parameter: str, begin: int, end: int) -> list[Stored]:
        """Where elements [begin, end) of the flattened tensor are, in their order."""
        places = list[tuple[int, Stored]]()
        for file, by_name in self._record.ranges.items():
            if parameter not in by_name:
                continue
            first, last = by_name[parameter]
            low, high = max(begin, first), min(end, last)
            stored = self._tensors[file].get(stored_name(state, parameter))
            if low < high and isinstance(stored, Stored):
                offset = stored.offset + (low - first) * SIZES[stored.dtype]
                places.append((low, replace(stored, shape=(high - low,), offset=offset)))
        return [stored for _, stored in sorted(places, key=lambda place: place[0])]

    def dtype(self, state: str, parameter: str) -> str | None:
        """safetensors' name of the type; None if the parameter has no such state."""
        name = stored_name(state, parameter)
        return next((tensors[name].dtype for tensors in self._tensors.values() if name in tensors), None)

    def whole(self, name: str) -> Source:
        """A tensor of `Record.whole`."""
        return self._tensors[self._record.whole[name]][name]

    def weights(self) -> dict[str, Source]:
        """The master weights, with the shapes of their parameters."""
        out: dict[str, Source] = {}
        for name, shape in self._record.shapes.items():
            parts = self.elements(MASTER, name, 0, math.prod(shape))
            out[name] = Joined("ranges", tuple(parts), tuple(shape))
        return out

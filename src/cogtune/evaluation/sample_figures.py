"""Reads and writes per_sample.json, the figures of each sample. Does not import torch, so reports need none."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cogtune.data.listing import ClipRow
from cogtune.evaluation.metrics import METRICS
from cogtune.runtime.saved import DamagedError, how_to_repair
from cogtune.runtime.sums import check_sums
from cogtune.runtime.typed_json import from_json

PER_SAMPLE, METRICS_FILE = "per_sample.json", "metrics.json"
"""Files of the stage `evaluate` beside its rows."""
_MEASURED = tuple(metric.name for metric in METRICS if metric.compute is not None)


@dataclass(frozen=True)
class Sample:
    """One sample of the stage `sample`; ``clip`` is None for a prompt that is not from the data set."""

    item: str
    prompt: str
    variant: str
    caption: str
    clip: str | None = None


@dataclass(frozen=True)
class SampleFigures:
    """A sample and its figures. ``nearest``: the nearest training clip; None if it was not compared with clips.
    ``values``: by the metric's name. ``clip_name``, ``nearest_name``: current file names, which the store does not have
    because files can be renamed."""

    sample: Sample
    nearest: str | None = None
    values: dict[str, float] = field(default_factory=dict)
    clip_name: str | None = None
    nearest_name: str | None = None

    @property
    def hit(self) -> bool | None:
        """Whether its own clip is the nearest; None if it was not compared with clips."""
        return None if self.nearest is None else self.nearest == self.sample.clip

    def to_json(self, names: bool = False) -> dict[str, Any]:
        """The row of per_sample.json; ``names``: include file names, as in the results folder."""
        row: dict[str, Any] = asdict(self.sample)
        if self.nearest is not None:
            row |= {**self.values, "nearest": self.nearest, "hit": self.hit}
            if names:
                row |= {"name": self.clip_name, "nearest_name": self.nearest_name}
        return row


def with_names(figures: Iterable[SampleFigures], manifest: Iterable[ClipRow]) -> list[SampleFigures]:
    """``figures`` with the clips' file names from ``manifest``."""
    names = {row.clip: row.name for row in manifest}
    return [
        SampleFigures(
            row.sample,
            row.nearest,
            row.values,
            names.get(row.sample.clip or ""),
            names.get(row.nearest),
        )
        if row.nearest is not None
        else row
        for row in figures
    ]


def read_per_sample(evaluate: Path) -> list[SampleFigures]:
    """The figures of each sample. Raises DamagedError if the file is missing, damaged or invalid."""
    path = evaluate / PER_SAMPLE
    rows = _read(path)
    if not isinstance(rows, list):
        raise _damaged(path, "a list of JSON objects")
    try:
        return [_figures(row) for row in rows]
    except ValueError as error:
        raise _damaged(path, f"the figures of one sample in each row ({error})") from None


def read_metrics(evaluate: Path) -> dict[str, float]:
    """The content of metrics.json. Raises DamagedError if the file is missing, damaged or invalid."""
    path = evaluate / METRICS_FILE
    values = _read(path)
    if not isinstance(values, dict) or not all(type(value) in (int, float, type(None)) for value in values.values()):
        raise _damaged(path, "a JSON object of numbers")
    return values


def _figures(row: Any) -> SampleFigures:
    sample = from_json(Sample, row)
    if row.get("nearest") is None:
        return SampleFigures(sample)
    values = from_json(_Values, {"values": {name: row[name] for name in _MEASURED if name in row}}).values
    if not isinstance(row["nearest"], str):
        raise ValueError(f"nearest: expected a string, found {row['nearest']!r}"[:80])
    return SampleFigures(sample, row["nearest"], values)


@dataclass(frozen=True)
class _Values:
    values: dict[str, float]


def _read(path: Path) -> Any:
    try:
        check_sums(path)
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        raise _damaged(path, "complete JSON") from None


def _damaged(path: Path, expected: str) -> DamagedError:
    return DamagedError(f"{path}: expected {expected}; {how_to_repair(path.parent)}")

"""per_sample.json: the figures of each sample. Nothing here imports torch, since reports read it."""

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
"""What `evaluate` leaves beside its rows."""
_MEASURED = tuple(metric.name for metric in METRICS if metric.how is not None)


@dataclass(frozen=True)
class Sample:
    """One sample as the sample stage named it; ``clip`` is None for a prompt of the user's own."""

    item: str
    prompt: str
    variant: str
    caption: str
    clip: str | None = None


@dataclass(frozen=True)
class SampleFigures:
    """A sample and what was measured of it. ``nearest``: the training clip that it is nearest to, None if it was compared
    with none. ``values``: by the metric's name. ``clip_name``, ``nearest_name``: the files' present names; the store has
    none, since files can be renamed."""

    sample: Sample
    nearest: str | None = None
    values: dict[str, float] = field(default_factory=dict)
    clip_name: str | None = None
    nearest_name: str | None = None

    @property
    def hit(self) -> bool | None:
        """Whether it is nearest to its own clip; None if it was compared with none."""
        return None if self.nearest is None else self.nearest == self.sample.clip

    def to_json(self, names: bool = False) -> dict[str, Any]:
        """The row of per_sample.json; ``names``: with the files' names, as results have it."""
        row: dict[str, Any] = asdict(self.sample)
        if self.nearest is not None:
            row |= {**self.values, "nearest": self.nearest, "hit": self.hit}
            if names:
                row |= {"name": self.clip_name, "nearest_name": self.nearest_name}
        return row


def with_names(figures: Iterable[SampleFigures], manifest: Iterable[ClipRow]) -> list[SampleFigures]:
    """The same with the names of the clips' files in ``manifest``."""
    names = {row.clip: row.name for row in manifest}
    return [
        SampleFigures(one.sample, one.nearest, one.values, names.get(one.sample.clip or ""), names.get(one.nearest))
        if one.nearest is not None
        else one
        for one in figures
    ]


def read_per_sample(evaluate: Path) -> list[SampleFigures]:
    """What was measured of each sample. Raises DamagedError."""
    path = evaluate / PER_SAMPLE
    rows = _read(path)
    if not isinstance(rows, list):
        raise _wrong(path, "a list of JSON objects")
    try:
        return [_figures(row) for row in rows]
    except ValueError as error:
        raise _wrong(path, f"the figures of a sample on each row ({error})") from None


def read_metrics(evaluate: Path) -> dict[str, float]:
    """The figures of an evaluation, by their keys. Raises DamagedError."""
    path = evaluate / METRICS_FILE
    values = _read(path)
    if not isinstance(values, dict) or not all(type(value) in (int, float, type(None)) for value in values.values()):
        raise _wrong(path, "a JSON object of numbers")
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
        raise _wrong(path, "complete JSON") from None


def _wrong(path: Path, expected: str) -> DamagedError:
    return DamagedError(f"{path}: expected {expected}; {how_to_repair(path.parent)}")

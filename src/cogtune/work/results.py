"""What train and export leave in the store for other stages: final/summary.json and index.json, as dataclasses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogtune.runtime.saved import DamagedError, how_to_repair, read_sealed, write_sealed
from cogtune.runtime.typed_json import Record, from_json, to_json

SUMMARY, INDEX = "summary.json", "index.json"


@dataclass(frozen=True)
class PeakMemory:
    """Of one process, in MiB."""

    host_mib: float
    gpu_mib: float | None = None


@dataclass(frozen=True)
class BestKept:
    """The step with the lowest validation loss, whose weights `args.keep_best` kept. ``set``: of validation clips;
    ``weights``: whose loss it is, raw or ema; ``snapshot``: the folder, relative to the training's."""

    step: int
    validation_loss: float
    set: str
    weights: str
    snapshot: str


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """final/summary.json: a finished training.

    ``run``: the job's key. ``base``: what it started from, in words; ``start``: the same for `model.start.Start`. Losses
    are means over a few steps; ``data_wait_fraction``: share of the time that steps waited for data. Steps that moved
    nothing are ``skipped_steps``, and ``overflowed_steps`` where fp16 looked for its scale; None for none. ``engine``: the
    volatile keys of `deepspeed` at the last start (`engine_keys`); None in summaries of earlier versions.
    """

    run: str
    steps: int
    base: str
    ranks: int
    threads_per_rank: int
    start: dict[str, Any]
    loss_first: float
    loss_last: float
    steps_per_second: float
    data_wait_fraction: float
    skipped_steps: int | None = None
    overflowed_steps: int | None = None
    validation_loss_last: float | None = None
    engine: dict[str, Any] | None = None
    best: BestKept | None = None
    parameters_trained: int
    parameters_total: int
    peak_memory: PeakMemory

    def write(self, final: Path) -> None:
        """Write it, with a checksum, into a training's final/."""
        write_sealed(final / SUMMARY, to_json(self) | {"peak_memory": to_json(self.peak_memory)})


def read_summary(train: Path) -> TrainSummary:
    """The summary in the folder of a train job. Raises DamagedError."""
    return _read(train / "final" / SUMMARY, TrainSummary, train)


@dataclass(frozen=True)
class ForeignCheck:
    """What the library that a format is for made of it: ``loader`` names it. Errors are largest absolute differences of
    one step's output: with the library's own epsilon of the last norm, and with the one that was trained with. Without a
    check both are None, and ``why`` says why."""

    loader: str
    why: str | None = None
    max_abs_error: float | None = None
    max_abs_error_at_one_epsilon: float | None = None


@dataclass(frozen=True)
class ExportedFormat:
    """One format of an export. ``path``: in the export's folder. ``own_error``: as loaded by cogtune; ``max_abs_error``: the
    larger one of it and the foreign loader's."""

    path: str
    bytes: int
    max_abs_error: float
    own_error: float
    foreign: ForeignCheck

    def to_json(self) -> dict[str, Any]:
        return to_json(self) | {"foreign": to_json(self.foreign)}


@dataclass(frozen=True)
class ExportIndex:
    """index.json of an export. ``format``: the one that is sampled. ``facts``: what stands in every file beside the
    weights."""

    format: str
    formats: dict[str, ExportedFormat]
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def write(self, folder: Path) -> None:
        """Write it, with a checksum."""
        formats = {name: entry.to_json() for name, entry in self.formats.items()}
        write_sealed(folder / INDEX, {"format": self.format, **self.facts, "formats": formats})


def read_index(folder: Path) -> ExportIndex:
    """The index in the folder of an export. Raises DamagedError."""
    path = folder / INDEX
    content = read_sealed(path, {}, how_to_repair(folder))
    facts = {name: value for name, value in content.items() if name not in ("format", "formats")}
    known = {name: value for name, value in content.items() if name not in facts}
    return _typed(path, ExportIndex, known | {"facts": facts}, folder)


def _read(path: Path, kind: type[Record], folder: Path) -> Record:
    return _typed(path, kind, read_sealed(path, {}, how_to_repair(folder)), folder)


def _typed(path: Path, kind: type[Record], content: dict[str, Any], folder: Path) -> Record:
    try:
        return from_json(kind, content)
    except ValueError as error:
        raise DamagedError(f"{path}: {error}; {how_to_repair(folder)}") from None

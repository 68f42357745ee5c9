"""Count the units of work of each stage: finished ones in the store, and remaining ones."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from cogtune.data.listing import Columns, read_manifest
from cogtune.data.prompt_file import read_prompts
from cogtune.data.rows import Rejected, prepared_rows
from cogtune.data.store import ShardReader, row_ids
from cogtune.plan.history import History
from cogtune.plan.outlook import Outlook, outlook_of
from cogtune.work.batches import total_steps
from cogtune.work.export_formats import BESIDE_DEFAULT
from cogtune.work.inputs import ExportInput, PreprocessInput, SampleInput, TrainInput
from cogtune.work.slices import Slice
from cogtune.work.stage_input import read_input
from cogtune.work.stages import STAGES
from cogtune.work.variants import variants

Parts = Mapping[str, Slice]
"""The slices of one experiment, by stage."""


@dataclass(frozen=True)
class Work:
    """``todo`` of ``total`` units must be computed; ``shared`` more are missing, but an earlier planned job of another
    experiment computes them. The rest is in the store. ``together``: units that are computed at once, so that parts of a
    job do not share them."""

    todo: int
    total: int
    unit: str
    shared: int = 0
    together: int = 1

    @property
    def there(self) -> int:
        """Units in the store."""
        return self.total - self.todo - self.shared

    def parts(self, most: int) -> int:
        """Into how many parts the job is cut; 0 if it is not, because ``most`` is 1 or no unit is missing. None of the
        parts is without a unit to compute when the job is planned."""
        return min(most, math.ceil((self.todo + self.shared) / self.together)) if most > 1 else 0

    def largest(self, parts: int) -> int:
        """Units of the largest part."""
        return min(self.todo, math.ceil(math.ceil(self.todo / self.together) / parts) * self.together)

    @property
    def begun(self) -> bool:
        """Whether some but not all units exist: from an interrupted run, or from other jobs that share the folder."""
        return 0 < self.there < self.total


class Counting(Protocol):
    """How units of a stage are counted: see `stage_cost.StageCost`."""

    @staticmethod
    def left(counts: "Counts", part: Slice, parts: Parts) -> tuple[int, int, int]: ...

    @staticmethod
    def together(part: Slice) -> int: ...


class Counts:
    """Counts units of slices; each folder of rows is read once for all experiments."""

    def __init__(self, history: History, remember: bool = True) -> None:
        """``remember``: write an index next to the rows that are read."""
        self._history = history
        self._rows = cache(lambda folder: row_ids(folder, remember))
        self._coming: dict[Path, set[str]] = {}
        self._left: dict[str, Work] = {}
        self._outlooks: dict[str, Outlook] = {}
        self._distinct = cache(self._distinct_of)

    def outlook(self, parts: Parts) -> Outlook:
        """What the scan tells about the clips of a preprocess without receipt; empty once there is one, which knows."""
        part = parts["preprocess"]
        if part.key not in self._outlooks:
            scan = parts["scan"].key
            known = self._history.receipt("preprocess", part.key) or scan in self._history.assumed
            rows = [] if known else read_manifest(self._history.store / "scan" / scan / "manifest.jsonl")
            self._outlooks[part.key] = (
                outlook_of(rows, read_input(PreprocessInput, part.config())) if rows else Outlook()
            )
        return self._outlooks[part.key]

    def columns(self, parts: Parts) -> Columns:
        """The data set of the slices."""
        return self._history.columns(parts["scan"].key)

    def done(self, part: Slice) -> Work | None:
        """The work of a finished job, as recorded in its receipt. None if the receipt is missing or damaged."""
        if (receipt := self._history.receipt(part.stage, part.key)) is None:
            return None
        row = STAGES[part.stage]
        known = [count for name in row.counted if (count := getattr(receipt, name)) is not None]
        return Work(0, sum(known), row.unit) if len(known) == len(row.counted) else None

    def left(self, part: Slice, parts: Parts, cost: "Counting") -> Work:
        """The work of a job without receipt, counted by its cost class; each job once."""
        if part.key not in self._left:
            todo, total, shared = cost.left(self, part, parts)
            self._left[part.key] = Work(max(0, todo), total, STAGES[part.stage].unit, shared, cost.together(part))
        return self._left[part.key]

    def folder(self, part: Slice) -> Path:
        """The folder of a stage's rows: named by item key, or by job key if rows belong to one job."""
        return self._history.store / part.stage / (part.items_key if STAGES[part.stage].items else part.key)

    def train_state(self, part: Slice) -> tuple[int, bool]:
        """(step of the newest checkpoint, whether the training is finished)."""
        folder = self._history.store / "train" / part.key
        steps = [int(path.parent.name[5:]) for path in folder.glob("checkpoints/step-*/record.json")]
        return max(steps, default=0), (folder / "final" / "summary.json").exists()

    def _distinct_of(self, scan: str) -> tuple[set[str], set[str]]:
        columns = self._history.columns(scan)
        return set(columns.clips), set(columns.captions)

    def clips(self, parts: Parts) -> set[str]:
        """The distinct clips of the data set."""
        return self._distinct(parts["scan"].key)[0]

    def _missing(self, part: Slice, wanted: set[str]) -> tuple[set[str], int]:
        """The rows that the job must compute, and the number of rows that an earlier job of this plan adds to the same folder."""
        folder = self.folder(part)
        missing = wanted - self._rows(folder)
        coming = self._coming.setdefault(folder, set())
        own = missing - coming
        coming |= own
        return own, len(missing) - len(own)

    def rows(self, part: Slice, parts: Parts) -> tuple[int, int, int]:
        """For a stage with one row per clip or caption (after preprocess, per accepted clip). For other stages only that they
        must run."""
        row = STAGES[part.stage]
        if not row.items or row.data not in ("clips", "captions"):
            return 1, 1, 0
        wanted = self._distinct(parts["scan"].key)[row.data == "captions"]
        missing, shared = self._missing(part, wanted)
        rejected = self._rejected(parts, missing) if "preprocess" in row.upstream else 0
        return len(missing) - rejected, len(wanted) - rejected, shared

    def _rejected(self, parts: Parts, missing: set[str]) -> int:
        """The number of clips that preprocess rejected, or will reject; they are not encoded."""
        preprocess = parts["preprocess"]
        receipt = self._history.receipt("preprocess", preprocess.key)
        if receipt is not None or not missing:
            rejected = receipt.rejected or 0 if receipt else 0
            return min(len(missing), rejected) if missing else rejected
        known = missing & self._rows(self.folder(preprocess))
        reader = ShardReader(self.folder(preprocess)) if known else None
        rejected = sum(isinstance(row, Rejected) for _, row in prepared_rows(reader, known)) if reader else 0
        return rejected + len((missing - known) & self.outlook(parts).unusable)

    def steps(self, part: Slice, parts: Parts) -> tuple[int, int, int]:
        """Steps of a training."""
        settings = read_input(TrainInput, part.config())
        total = total_steps(
            settings.steps, settings.epochs, self._pairs(parts) if settings.epochs else 0, settings.global_batch
        )
        step, finished = self.train_state(part)
        return (0 if finished else total - step), total, 0

    def _pairs(self, parts: Parts) -> int:
        # Scan accepts a clip once in a split, so rows are pairs.
        columns, unusable = self.columns(parts), self.outlook(parts).unusable
        if not unusable:
            return columns.splits.count("train")
        pairs = zip(columns.clips, columns.splits, strict=True)
        return sum(split == "train" and clip not in unusable for clip, split in pairs)

    def formats(self, part: Slice) -> tuple[int, int, int]:
        """For an export: one model, unless all formats exist."""
        index = self._history.json(f"export/{part.items_key}/index.json") if self.folder(part).is_dir() else {}
        wanted = {*read_input(ExportInput, part.config()).formats, *BESIDE_DEFAULT.get(index.get("format", ""), ())}
        return int(not index or not wanted <= index.get("formats", {}).keys()), 1, 0

    def videos(self, part: Slice, parts: Parts) -> tuple[int, int, int]:
        """Videos of a sampling: each prompt in each variant."""
        settings = read_input(SampleInput, part.config())
        count = self._prompts(settings, parts)
        total = count * len(variants(settings.controls, settings.guided, count))
        return total - len(self._rows(self.folder(part))), total, 0

    def _prompts(self, settings: SampleInput, parts: Parts) -> int:
        """The number of sampled captions: distinct training pairs, or lines of the prompt file. Raises ConfigError."""
        if settings.input_type == "txt":
            return len(read_prompts(settings.input_file or ""))
        pairs = self._pairs(parts)
        return pairs if settings.count is None else min(settings.count, pairs)

    def evaluated(self, part: Slice, parts: Parts) -> tuple[int, int, int]:
        """Clips of an evaluation: each accepted clip."""
        clips = len(self.clips(parts))
        receipt = self._history.receipt("preprocess", parts["preprocess"].key)
        total = clips - (receipt.rejected or 0 if receipt else len(self.outlook(parts).unusable))
        return total - len(self._rows(self.folder(part))), total, 0

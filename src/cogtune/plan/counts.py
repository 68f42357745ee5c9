"""How much of each stage's work is in the store already, and how much has to be made."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cogtune.data.listing import Columns
from cogtune.data.rows import Rejected, prepared_rows
from cogtune.data.store import ShardReader, row_ids
from cogtune.plan.cost.work import variants
from cogtune.plan.history import History
from cogtune.work.batches import total_steps
from cogtune.work.slices import Slice
from cogtune.work.stages import STAGES

UNITS = {
    "scan": "files",
    "preprocess": "clips",
    "latents": "clips",
    "images": "clips",
    "text": "captions",
    "train": "steps",
    "export": "model",
    "sample": "videos",
    "evaluate": "clips",
    "report": "report",
}


@dataclass(frozen=True)
class Work:
    """``todo`` of ``total`` units have to be made; ``shared`` more are missing, and a job of another experiment that is
    planned before makes them. The rest is in the store."""

    todo: int
    total: int
    unit: str
    shared: int = 0

    @property
    def there(self) -> int:
        """Units that the store holds."""
        return self.total - self.todo - self.shared

    @property
    def begun(self) -> bool:
        """Some, not all: left by a run that did not finish, or by other jobs that share the folder."""
        return 0 < self.there < self.total


class Counts:
    """Counts of one experiment's slices; what is in a folder of rows is read once for all experiments."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._rows = cache(row_ids)
        self._coming: dict[Path, set[str]] = {}
        self._left: dict[str, Work] = {}
        self._distinct = cache(self._distinct_of)

    def columns(self, parts: Mapping[str, Slice]) -> Columns:
        """The data set that the slices were cut for."""
        return self._history.columns(parts["scan"].key)

    def done(self, part: Slice) -> Work:
        """Of a job whose receipt is there: what the receipt says."""
        unit, receipt = UNITS[part.stage], self._history.receipt(part.stage, part.key)
        total = (receipt.get("made") or 0) + (receipt.get("reused") or 0)
        return Work(0, receipt.get("steps", total) if part.stage == "train" else total, unit)

    def left(self, part: Slice, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> Work:
        """Of a job without receipt: what the store holds is counted."""
        counted = {
            "scan": self._scan,
            "preprocess": self._preprocess,
            "latents": self._encoded,
            "images": self._encoded,
            "text": self._text,
            "train": self._train,
            "sample": self._sample,
            "evaluate": self._evaluate,
            "export": self._export,
        }[part.stage]
        if part.key not in self._left:
            todo, total, shared = counted(part, parts, args)
            self._left[part.key] = Work(max(0, todo), total, UNITS[part.stage], shared)
        return self._left[part.key]

    def folder(self, part: Slice) -> Path:
        """Where a stage keeps its rows: by item key, or by job key where rows belong to one job."""
        return self._history.store / part.stage / (part.items_key if STAGES[part.stage].items else part.key)

    def train_state(self, part: Slice) -> tuple[int, bool]:
        """(step of the newest checkpoint, whether the training is finished)."""
        folder = self._history.store / "train" / part.key
        steps = [int(path.parent.name[5:]) for path in folder.glob("checkpoints/step-*/record.json")]
        return max(steps, default=0), (folder / "final" / "summary.json").exists()

    def _distinct_of(self, scan: str) -> tuple[set[str], set[str]]:
        columns = self._history.columns(scan)
        return set(columns.clips), set(columns.captions)

    def clips(self, parts: Mapping[str, Slice]) -> set[str]:
        """Different clips of the data set."""
        return self._distinct(parts["scan"].key)[0]

    def _lacking(self, part: Slice, wanted: set[str]) -> tuple[set[str], int]:
        """Rows that the job makes, and how many more an earlier job of this plan makes in the same folder."""
        folder = self.folder(part)
        lacking = wanted - self._rows(folder)
        coming = self._coming.setdefault(folder, set())
        mine = lacking - coming
        coming |= mine
        return mine, len(lacking) - len(mine)

    def _preprocess(self, part: Slice, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> tuple[int, int, int]:
        clips = self.clips(parts)
        lacking, shared = self._lacking(part, clips)
        return len(lacking), len(clips), shared

    def _scan(self, part: Slice, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> tuple[int, int, int]:
        """A plan asks only once the store holds it: another results folder's scan, here without a receipt."""
        return 0, len(self.columns(parts).clips), 0

    def _encoded(self, part: Slice, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> tuple[int, int, int]:
        clips = self.clips(parts)
        lacking, shared = self._lacking(part, clips)
        rejected = self._rejected(parts["preprocess"], lacking)
        return len(lacking) - rejected, len(clips) - rejected, shared

    def _rejected(self, preprocess: Slice, lacking: set[str]) -> int:
        """How many clips preprocess refused, as far as it is known: none of them is ever encoded."""
        if not lacking:
            return self._history.receipt("preprocess", preprocess.key).get("rejected") or 0
        receipt = self._history.receipt("preprocess", preprocess.key)
        if receipt:
            return min(len(lacking), receipt.get("rejected") or 0)
        known = lacking & self._rows(self.folder(preprocess))
        reader = ShardReader(self.folder(preprocess)) if known else None
        return sum(isinstance(row, Rejected) for _, row in prepared_rows(reader, known)) if reader else 0

    def _text(self, part: Slice, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> tuple[int, int, int]:
        captions = self._distinct(parts["scan"].key)[1]
        lacking, shared = self._lacking(part, captions)
        return len(lacking), len(captions), shared

    def _train(self, part: Slice, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> tuple[int, int, int]:
        own = part.identity["values"]["args"]
        total = total_steps(own, self._pairs(parts) if own.get("epochs") else 0, own["global_batch_size"])
        step, finished = self.train_state(part)
        return (0 if finished else total - step), total, 0

    def _pairs(self, parts: Mapping[str, Slice]) -> int:
        # Scan accepts a clip once in a split, so rows are pairs.
        return self.columns(parts).splits.count("train")

    def _export(self, part: Slice, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> tuple[int, int, int]:
        index = self._history.json(f"export/{part.items_key}/index.json") if self.folder(part).is_dir() else {}
        wanted = set(args.get("export_formats") or [])
        return int(not index or not wanted <= index.get("formats", {}).keys()), 1, 0

    def _sample(self, part: Slice, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> tuple[int, int, int]:
        count = self.prompts(parts, args)
        total = count * len(variants(args, count))
        return total - len(self._rows(self.folder(part))), total, 0

    def prompts(self, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> int:
        """How many captions are sampled: different training pairs, or lines of the prompt file."""
        if args.get("input_type") == "txt":
            try:
                return len(Path(args["input_file"]).read_text(encoding="utf-8").splitlines())
            except (OSError, UnicodeDecodeError):
                return 0
        wanted, pairs = args.get("sampling_count"), self._pairs(parts)
        return pairs if wanted is None else min(wanted, pairs)

    def _evaluate(self, part: Slice, parts: Mapping[str, Slice], args: Mapping[str, Any]) -> tuple[int, int, int]:
        clips = len(self.clips(parts))
        receipt = self._history.receipt("preprocess", parts["preprocess"].key)
        total = clips - (receipt.get("rejected") or 0)
        return total - len(self._rows(self.folder(part))), total, 0

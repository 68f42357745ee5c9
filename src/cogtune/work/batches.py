"""Batch sizes: clips per optimizer step, their split over ranks, and the number of steps."""

from dataclasses import dataclass
from pathlib import Path

from cogtune.config.errors import ConfigError
from cogtune.runtime.paths import is_key, key_folder

EVALUATE_BATCH = 4
"""Clips that `evaluate` reconstructs together, and that are in memory at the same time."""


@dataclass(frozen=True)
class BatchPlan:
    """The split of one optimizer step: global batch = micro x accumulation x ranks.

    Positions 0..global_batch-1 are ordered by pass, then by rank. Random draws depend on the position only, so the batch
    does not depend on the number of ranks.
    """

    micro: int
    accumulation: int
    ranks: int

    def __str__(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        clips = "1 clip" if self.global_batch == 1 else f"{self.global_batch} clips"
        return f"{clips} a step = {self.micro} x {self.accumulation} accumulation x {ranks}"

    @property
    def global_batch(self) -> int:
        return self.micro * self.accumulation * self.ranks

    def positions(self, rank: int, accumulated: int) -> range:
        """Positions in the global batch that ``rank`` computes in pass ``accumulated``."""
        start = (accumulated * self.ranks + rank) * self.micro
        return range(start, start + self.micro)


def plan_batches(micro: int, total: int, ranks: int) -> BatchPlan:
    """Split the ``total`` clips of a step over ``ranks`` processes, in micro batches of at most ``micro``; accumulation
    follows. Raises ConfigError if the split is not even."""
    share, rest = divmod(total, ranks)
    if rest or not share:
        raise ConfigError(
            f"{total} is not a multiple of {ranks}, the number of ranks; change the number of ranks, "
            f"or use a multiple of {ranks}",
            key="args.global_batch_size",
        )
    micro = min(micro, share)
    if share % micro:
        raise ConfigError(
            f"{share} clips per rank ({total} / {ranks} ranks) are not a multiple of "
            f"deepspeed.train_micro_batch_size_per_gpu, {micro}; "
            f"set that to one of {', '.join(str(n) for n in range(1, share + 1) if share % n == 0)}",
            key="args.global_batch_size",
        )
    return BatchPlan(micro, share // micro, ranks)


KEYS = {"global_batch_size": int}
WHAT_TO_DO = "delete it, or set args.global_batch_size to the value of the training"


@dataclass(frozen=True)
class BatchMemo:
    """The global batch size with which a training without `args.global_batch_size` started, so that a later change of ranks
    neither retrains nor changes the result. ``name``: the key of that training without batch size and data.

    Written at the start of training, not by planning. Valid while the training's folder exists (memos of older versions
    name no folder, and are always valid).
    """

    store: Path
    name: str

    @property
    def path(self) -> Path:
        return key_folder(self.store / "slices", self.name, "batch_memo").with_suffix(".batch.json")

    def read(self) -> tuple[int, str] | None:
        """(clips per step, key of the training or ""), or None. Raises UserError for an invalid file."""
        from cogtune.runtime.saved import read_sealed

        if not self.path.exists():
            return None
        content = read_sealed(self.path, KEYS, WHAT_TO_DO)
        clips, train = content["global_batch_size"], content.get("train", "")
        if clips < 1:
            return None
        if train and not (is_key(train) and (self.store / "train" / train).is_dir()):
            return None
        return clips, train

    def write(self, clips: int, train: str) -> None:
        """Save the batch size of training ``train``, whose folder exists; does not replace another training's."""
        if self.read() is None:
            from cogtune.runtime.saved import write_sealed

            write_sealed(self.path, {"global_batch_size": clips, "train": train})


def total_steps(steps: int | None, epochs: int | None, count: int, global_batch: int) -> int:
    """Optimizer steps: ``epochs`` passes over ``count`` items, with a full last batch, or ``steps`` (`args.train_iters`).
    The config check ensures that one of the two is set."""
    if epochs:
        return -(-epochs * count // global_batch)
    assert steps is not None
    return steps

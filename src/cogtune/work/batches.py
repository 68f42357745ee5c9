"""How many clips an optimizer step takes, how ranks share them, and how many steps there are."""

from dataclasses import dataclass
from pathlib import Path

from cogtune.config.errors import ConfigError
from cogtune.runtime.paths import is_key, key_folder


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step is shared out: global batch = micro x accumulation x ranks.

    Positions 0..global_batch-1 are laid out pass by pass, and inside a pass rank by rank. What is drawn for a position
    depends on the position alone, so another number of ranks sees the same batch.
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
    """How ``ranks`` processes share the ``total`` clips of a step, in micro batches of ``micro`` at most: a rank's share
    shrinks the micro batch, and accumulation is what is left over. Raises ConfigError where the shares do not come out
    even."""
    share, rest = divmod(total, ranks)
    if rest or not share:
        raise ConfigError(
            f"{total} clips cannot be shared out evenly over {ranks} ranks; choose a number of ranks that divides it, "
            f"or a multiple of {ranks}",
            key="args.global_batch_size",
        )
    micro = min(micro, share)
    if share % micro:
        raise ConfigError(
            f"each of {ranks} ranks computes {share} of its {total} clips, which "
            f"deepspeed.train_micro_batch_size_per_gpu = {micro} does not divide; "
            f"choose one of {', '.join(str(n) for n in range(1, share + 1) if share % n == 0)}",
            key="args.global_batch_size",
        )
    return BatchPlan(micro, share // micro, ranks)


KEYS = {"global_batch_size": int}
WHAT_TO_DO = "delete it, or set args.global_batch_size to that of the training"


@dataclass(frozen=True)
class BatchMemo:
    """The global batch that a training without `args.global_batch_size` began with, so that more ranks later neither
    retrain nor change the result. ``name``: the key of that training without batch and data.

    A training writes it when it starts; planning, and the stages before it, decide nothing. It holds as long as the
    training's folder is there (memos of older versions do not name one, and hold always).
    """

    store: Path
    name: str

    @property
    def path(self) -> Path:
        return key_folder(self.store / "slices", self.name, "batch_memo").with_suffix(".batch.json")

    def read(self) -> tuple[int, str] | None:
        """(clips of a step, key of the training or ""), or None. Raises UserError for a file that cannot be read."""
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
        """Note the batch of training ``train``, whose folder exists; what another training noted stays."""
        if self.read() is None:
            from cogtune.runtime.saved import write_sealed

            write_sealed(self.path, {"global_batch_size": clips, "train": train})


def total_steps(steps: int | None, epochs: int | None, count: int, global_batch: int) -> int:
    """Optimizer steps: ``epochs`` passes over ``count`` items, the last batch filled up, or ``steps`` (`args.train_iters`).
    One of the two is set, which the config check sees to."""
    if epochs:
        return -(-epochs * count // global_batch)
    assert steps is not None
    return steps

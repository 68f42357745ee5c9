"""Which training item stands where: the batch plan and the order of the data, both free of the number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cogtune.diffusion.noise import generator
from cogtune.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step is shared out: global batch = micro x accumulation x ranks.

    Positions 0..global_batch-1 are laid out pass by pass, and inside a pass rank by rank. What is drawn for a position
    depends on the position alone, so another number of ranks sees the same batch.
    """

    micro: int
    accumulation: int
    ranks: int

    @property
    def global_batch(self) -> int:
        return self.micro * self.accumulation * self.ranks

    def positions(self, rank: int, accumulated: int) -> range:
        """Positions in the global batch that ``rank`` computes in pass ``accumulated``."""
        start = (accumulated * self.ranks + rank) * self.micro
        return range(start, start + self.micro)


def plan_batches(deepspeed: dict[str, Any], args: dict[str, Any], ranks: int) -> BatchPlan:
    """The plan for ``ranks`` processes.

    `args.global_batch_size`, where set, is identity: the micro batch is shrunk to what one rank's share allows, and
    accumulation is what is left over. Otherwise the global batch is the product of what the config says.
    Raises UserError where the shares do not come out even.
    """
    micro = deepspeed.get("train_micro_batch_size_per_gpu") or args.get("batch_size") or 1
    total = args.get("global_batch_size")
    if not total:
        accumulation = deepspeed.get("gradient_accumulation_steps") or args.get("gradient_accumulation_steps") or 1
        return BatchPlan(micro, accumulation, ranks)
    share, rest = divmod(total, ranks)
    if rest or not share:
        raise UserError(
            f"args.global_batch_size: {total} clips cannot be shared out evenly over {ranks} ranks; "
            f"choose a number of ranks that divides it, or a multiple of {ranks}"
        )
    micro = min(micro, share)
    if share % micro:
        raise UserError(
            f"args.global_batch_size: each of {ranks} ranks computes {share} of its {total} clips, which "
            f"deepspeed.train_micro_batch_size_per_gpu = {micro} does not divide; "
            f"choose one of {', '.join(str(n) for n in range(1, share + 1) if share % n == 0)}"
        )
    return BatchPlan(micro, share // micro, ranks)


class DataOrder:
    """A seeded permutation of the items per epoch, laid end to end and cut into global batches.

    A batch may run over the end of an epoch into the next; every item is seen once per epoch.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def item(self, ordinal: int) -> int:
        """The item that stands at ``ordinal``, counted from the start of training."""
        epoch, place = divmod(ordinal, self.count)
        if epoch != self._epoch:
            draw = generator(self.seed, "data_order", epoch)
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=draw).tolist()
        return self._order[place]

    def items(self, step: int, positions: range, global_batch: int) -> Iterator[int]:
        """The items of these positions of the global batch of ``step``."""
        return (self.item(step * global_batch + position) for position in positions)


def total_steps(args: dict[str, Any], count: int, global_batch: int) -> int:
    """Optimizer steps: `args.train_iters`, or `args.epochs` passes over ``count`` items, the last batch filled up."""
    if args.get("epochs"):
        return -(-args["epochs"] * count // global_batch)
    return args.get("train_iters") or 10_000

"""The order of the data, which does not depend on the number of ranks."""

from collections.abc import Iterator

import torch

from cogtune.diffusion.noise import generator


class DataOrder:
    """One seeded permutation of the items per epoch, concatenated and cut into global batches.

    A batch may contain items of two epochs. Every item occurs once per epoch.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def item(self, ordinal: int) -> int:
        """The item at position ``ordinal``, counted from the start of training."""
        epoch, position = divmod(ordinal, self.count)
        if epoch != self._epoch:
            draw = generator(self.seed, "data_order", epoch)
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=draw).tolist()
        return self._order[position]

    def items(self, step: int, positions: range, global_batch: int) -> Iterator[int]:
        """The items of these positions of the global batch of ``step``."""
        return (self.item(step * global_batch + position) for position in positions)

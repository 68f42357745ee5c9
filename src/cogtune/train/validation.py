"""The loss on clips that are not trained on, while a model trains."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from cogtune.diffusion.loss import VideoDiffusionLoss
from cogtune.train.feed import Feed
from cogtune.train.micro_loss import micro_loss
from cogtune.train.monitor import Monitor
from cogtune.work.training_log import ValidationRow


@dataclass(frozen=True)
class Validation:
    """Validation of one rank of ``ranks``, every ``interval`` steps, with ``draws`` draws in batches of ``batch``."""

    engine: Any
    loss: VideoDiffusionLoss
    feed: Feed
    rank: int
    ranks: int
    device: torch.device
    interval: int
    batch: int
    draws: int

    def run(self, step: int, monitor: Monitor) -> None:
        """Validate if it is due after ``step``. Collective."""
        if step % self.interval == 0:
            monitor.validation(ValidationRow(step, self.mean_loss()))

    @torch.no_grad()
    def mean_loss(self) -> float:
        """Mean loss over fixed draws: the same noise every time, one timestep per stratum, no dropout of conditions."""
        total, size = self.draws, self.batch
        chunks = [range(first, min(first + size, total)) for first in range(0, total, size)]
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.engine.eval()
        # With ZeRO-3 a forward pass is collective, so all ranks run the same number; surplus results are not counted.
        for turn in range(-(-len(chunks) // self.ranks)):
            index = turn * self.ranks + self.rank
            chunk = chunks[min(index, len(chunks) - 1)]
            batch = self.feed.validation_batch([j % len(self.feed.data) for j in chunk], chunk, total)
            loss_B = micro_loss(self.engine, self.loss, batch.to(self.device))
            if index < len(chunks):
                sums += torch.stack([loss_B.double().sum(), torch.tensor(float(len(chunk)), device=self.device)])
        self.engine.train()
        dist.all_reduce(sums)
        return float(sums[0] / sums[1])

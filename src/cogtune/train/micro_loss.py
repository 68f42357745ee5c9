"""The loss of one micro batch."""

from typing import Any

from torch import Tensor

from cogtune.diffusion.loss import VideoDiffusionLoss
from cogtune.train.feed import MicroBatch


def micro_loss(engine: Any, loss: VideoDiffusionLoss, draws: MicroBatch) -> Tensor:
    """The loss of each sample of ``draws`` (B,), which is on the engine's device."""
    offset_B = draws.offset_B if loss.params.offset_noise_level else None
    return loss(
        engine,
        draws.x0_BTCHW,
        draws.context_BLD,
        draws.index_B,
        draws.noise_BTCHW,
        concat=draws.concat_BTCHW,
        offset_B=offset_B,
    )

"""How fast a training is: tokens and model FLOPs of a step, against the peak of its devices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cogtune.runtime.machines import same


@dataclass(frozen=True)
class Throughput:
    """``tokens``: of one step, see `latent_tokens`. ``flops``: of the model in one step, without recomputed activations;
    None if the model has no cost model. ``peak``: FLOP/s of all devices together; None if unknown, as on a CPU."""

    tokens: int
    flops: float | None = None
    peak: float | None = None

    def tokens_per_second(self, seconds: float) -> float:
        """``seconds``: of one step."""
        return self.tokens / seconds

    def mfu(self, seconds: float) -> float | None:
        """Model FLOPs utilisation: the share of the devices' peak that a step of ``seconds`` reaches."""
        return self.flops / (seconds * self.peak) if self.flops and self.peak else None


def latent_tokens(latent: Sequence[int], patch: Sequence[int]) -> int:
    """Latent tokens of one clip that pass the network: patches of the latent (T, H, W), whose frames are padded to a multiple
    of the patch. Text tokens are not counted."""
    padded = -(-latent[0] // patch[0])
    return padded * (latent[1] // patch[1]) * (latent[2] // patch[2])


def peak_flops(device: torch.device, half: bool, ranks: int) -> float | None:
    """FLOP/s of ``ranks`` devices at bf16 or fp16 (``half``), or fp32; None unless this GPU is in the table of devices."""
    if device.type != "cuda":
        return None
    known = same(torch.cuda.get_device_name(device))
    rate = (known.half if half else known.single) if known else 0.0
    return rate * ranks or None

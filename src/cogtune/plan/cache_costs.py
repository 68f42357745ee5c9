"""Amount and cost of the work of the stages that fill the caches: scan, preprocess, latents, images, text."""

import math

from cogtune.config.geometry import latent_size
from cogtune.plan.counts import Counts, Parts
from cogtune.plan.outlook import Outlook
from cogtune.plan.stage_cost import StageCost, width_of
from cogtune.runtime.machines import Machine
from cogtune.work.inputs import ImagesInput, LatentsInput, TextInput
from cogtune.work.slices import Slice

_DECODED_PIXELS = 60e6
"""Source pixels decoded and resized per second and core."""
_THUMBNAIL = 20_000
"""Bytes."""


class ScanCost(StageCost):
    """Used only for a scan that is in the store but has no receipt in this results folder."""

    startup = 2.0

    @staticmethod
    def left(counts: Counts, part: Slice, parts: Parts) -> tuple[int, int, int]:
        return 0, len(counts.columns(parts).clips), 0

    def work(self, units: float) -> float:
        return 0.0


class PreprocessCost(StageCost):
    """Decoding, at a fixed rate."""

    startup = 1.0

    @staticmethod
    def outlook(counts: Counts, parts: Parts) -> Outlook:
        return counts.outlook(parts)

    def work(self, units: float) -> float:
        return units * self.costs.pixels

    def rate(self, machine: Machine, devices: int, ranks: int) -> float:
        return _DECODED_PIXELS

    def disk_bytes(self, units: int) -> float:
        return float(units * _THUMBNAIL)


class LatentsCost(StageCost):
    """The VAE's encoder over whole clips."""

    startup, gpu, cpu = 3.0, 0.30, 0.30
    on_all_devices = True

    @property
    def _input(self) -> LatentsInput:
        return self.costs.input(LatentsInput)

    def width(self) -> int:
        return width_of(self._input.precision)

    def work(self, units: float) -> float:
        return units * self.costs.vae.encode_flops(*self.costs.clip)

    def device_bytes(self, ranks: int) -> float:
        batch = self._input.batch
        return self.costs.vae.encode_bytes(*self.costs.tile("encode"), batch, self.width())

    def disk_bytes(self, units: int) -> float:
        return float(units * 2 * self.costs.vae.channels * self.costs.latents * self.width())


class ImagesCost(StageCost):
    """The VAE's encoder over noised copies of each first frame."""

    startup, gpu, cpu = 3.0, 0.30, 0.30
    on_all_devices = True

    @property
    def _copies(self) -> int:
        return self._input.draws or 1  # 0 draws: the frame itself

    @property
    def _input(self) -> ImagesInput:
        return self.costs.input(ImagesInput)

    def width(self) -> int:
        return width_of(self._input.precision)

    def work(self, units: float) -> float:
        return units * self._copies * self.costs.vae.encode_flops(1, *self.costs.clip[1:])

    def device_bytes(self, ranks: int) -> float:
        _, height, width = self.costs.tile("encode")
        return self.costs.vae.encode_bytes(1, height, width, self._copies, self.width())

    def disk_bytes(self, units: int) -> float:
        _, height, width = self.costs.clip
        numbers = 2 * self.costs.vae.channels * math.prod(latent_size(1, height, width))
        return float(units * self._copies * numbers * self.width())


class TextCost(StageCost):
    """T5's encoder."""

    startup, gpu, cpu = 5.0, 0.40, 0.50
    on_all_devices = True

    @property
    def _input(self) -> TextInput:
        return self.costs.input(TextInput)

    def width(self) -> int:
        return width_of(self._input.precision)

    def work(self, units: float) -> float:
        return units * self.costs.text.flops(self.costs.tokens_of_text)

    def device_bytes(self, ranks: int) -> float:
        batch = self._input.batch
        return self.costs.text.bytes(self.costs.tokens_of_text, batch, self.width())

    def disk_bytes(self, units: int) -> float:
        return float(units * self.costs.tokens_of_text * self.costs.text.width * self.width())

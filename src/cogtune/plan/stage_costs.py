"""Amount and cost of the work of the stages from train to report, and the cost class of each stage.

One class per stage, named by ``cost`` in the table (work/stages.py). A stage that names none is a `StageCost`: its units
are counted as for any stage with rows, and its cost is unknown.
"""

import math

from cogtune.config.build import params_of
from cogtune.config.schema.args import WHOLE_FORMATS
from cogtune.config.schema.diffusion import VideoDDIMSamplerParams
from cogtune.plan.cache_costs import ImagesCost, LatentsCost, PreprocessCost, ScanCost, TextCost
from cogtune.plan.cost.activations import activations
from cogtune.plan.cost.training import checkpoint_bytes, element_bytes, keeps_average, memory
from cogtune.plan.cost.work import require_ours
from cogtune.plan.counts import Counts, Parts
from cogtune.plan.history import History
from cogtune.plan.stage_cost import FP32, StageCost, width_of
from cogtune.runtime.machines import Machine
from cogtune.runtime.typed_json import from_json
from cogtune.work import training_log
from cogtune.work.batches import EVALUATE_BATCH, plan_batches
from cogtune.work.inputs import EvaluateInput, ExportInput, SampleInput
from cogtune.work.records import Record
from cogtune.work.results import TrainSummary
from cogtune.work.slices import Slice
from cogtune.work.stage_input import read_input
from cogtune.work.stages import Stage
from cogtune.work.training_log import StepRow
from cogtune.work.variants import variants

_LOG_ROWS = 200
DISK_RATE = 1e9
"""Bytes per second that a disk writes, assumed: an NVMe disk, or a parallel file system."""
_LARGE_CHECKPOINT = 10e9
"""Smaller ones take no time that matters."""
_WEIGHTS_PER_SECOND = 0.5e9
"""Bytes of weights that an export reads, converts and compares per second."""
_INFERENCE_UNITS = 12
"""Tensors of (batch, tokens, D) in one block at the same time, without backward pass: MLP's 4 + 4, h, its norm, branch."""


class ReportCost(StageCost):
    """Reading files and writing one page."""

    startup = 2.0

    def work(self, units: float) -> float:
        return 0.0


class TrainCost(StageCost):
    """Forward and backward pass of the network; a training records its own rate and memory."""

    startup, gpu, cpu = 15.0, 0.40, 0.32
    on_all_ranks = True

    @staticmethod
    def left(counts: Counts, part: Slice, parts: Parts) -> tuple[int, int, int]:
        return counts.steps(part, parts)

    def width(self) -> int:
        return element_bytes(self.costs.deepspeed)

    def work(self, units: float) -> float:
        costs = self.costs
        step = costs.train.global_batch * costs.network.training_flops(costs.grid)
        return units * step

    def device_bytes(self, ranks: int) -> float:
        settings, costs = self.costs.train, self.costs
        micro = plan_batches(settings.micro_batch, settings.global_batch, ranks).micro
        kept = activations(costs.network, costs.grid, micro, self.width(), costs.network.checkpointing)
        return memory(costs.network, costs.deepspeed, ranks).device + kept.peak

    def host_bytes(self, ranks: int) -> float:
        """Every rank builds the network on the CPU: in fp32 if its weights are random or an experiment's, else in the compute
        precision. Later it holds the share of offload, and the copy of what is written to a checkpoint."""
        settings, network = self.costs.train, self.costs.network
        width = self.width() if isinstance(settings.load, str) else FP32
        offloaded = ranks * memory(network, self.costs.deepspeed, ranks).host
        return max(float(ranks * network.count) * width, offloaded + self._checkpoint())

    def disk_bytes(self, units: int) -> float:
        """The kept checkpoints, one more during writing, all snapshots, and the final weights with their average."""
        if not units:
            return 0.0
        settings, averages = self.costs.train, keeps_average(self.costs.deepspeed)
        written = math.inf if settings.save_minutes else -(-units // settings.save_interval)
        kept = min(settings.keep_checkpoints, written)
        weights = float(FP32 * self.costs.network.trained_count)
        snapshot = weights * (2 if averages and self.costs.only_adapters else 1)
        snapshots = units // settings.snapshot_interval if settings.snapshot_interval else 0
        snapshots += 3 if settings.keep_best else 0  # those of the last checkpoints' best steps, until the end
        return (kept + 1) * self._checkpoint() + snapshots * snapshot + weights * (1 + averages)

    def notes(self) -> list[str]:
        size = self._checkpoint()
        if size < _LARGE_CHECKPOINT:
            return []
        kept = self.costs.train.keep_checkpoints
        return [
            f"train: a checkpoint has {size / 1e9:,.0f} GB, about {size / DISK_RATE:,.0f} s at {DISK_RATE / 1e9:g} GB/s; "
            f"{kept} of them are kept (args.keep_checkpoints)"
        ]

    def _checkpoint(self) -> float:
        return checkpoint_bytes(self.costs.network, self.costs.deepspeed)

    def measured_rate(self, history: History, key: str, record: Record, machine: Machine, ranks: int) -> float | None:
        summary = from_json(TrainSummary, history.json(f"train/{key}/final/summary.json"))
        scale = summary.ranks / ranks if machine.device.gpu else 1.0
        return scale / (summary.steps_per_second * self.work(1))

    def measured_peak(self, history: History, key: str, record: Record, gpu: bool) -> tuple[int, float | None]:
        summary = from_json(TrainSummary, history.json(f"train/{key}/final/summary.json"))
        return summary.ranks, summary.peak_memory.gpu_mib if gpu else summary.peak_memory.host_mib

    def own_rate(self, history: History, part: Slice) -> float | None:
        """From the log of the run to resume."""
        log = training_log.read(history.store / "train" / part.key / "log.jsonl", warn=False)
        seconds = [row.seconds for row in log if isinstance(row, StepRow) and row.loss is not None][-_LOG_ROWS:]
        return sum(seconds) / len(seconds) if len(seconds) > 1 else None


class ExportCost(StageCost):
    """Reading, converting and comparing weights, at a fixed rate."""

    startup = 5.0

    @staticmethod
    def left(counts: Counts, part: Slice, parts: Parts) -> tuple[int, int, int]:
        return counts.formats(part)

    def work(self, units: float) -> float:
        return float(4 * self.costs.network.count)

    def rate(self, machine: Machine, devices: int, ranks: int) -> float:
        return _WEIGHTS_PER_SECOND

    def host_bytes(self, ranks: int) -> float:
        """For a LoRA: one network in fp32; for a full network: a second one and its file in addition."""
        formats = self.costs.input(ExportInput).formats
        full_network = not self.costs.only_adapters or set(WHOLE_FORMATS) & set(formats)
        return float(FP32 * self.costs.network.count * (3 if full_network else 1))

    def disk_bytes(self, units: int) -> float:
        network = self.costs.network
        return float(FP32 * (network.trained_count if self.costs.only_adapters else network.count))


class SampleCost(StageCost):
    """The network at every step (twice with guidance), and one decoding."""

    startup, gpu, cpu = 8.0, 0.40, 0.45

    @staticmethod
    def left(counts: Counts, part: Slice, parts: Parts) -> tuple[int, int, int]:
        return counts.videos(part, parts)

    @staticmethod
    def together(part: Slice) -> int:
        return read_input(SampleInput, part.config()).batch

    @property
    def _input(self) -> SampleInput:
        return self.costs.input(SampleInput)

    @property
    def _guided(self) -> float:
        """Fraction of the sampled videos that need two network passes per step."""
        guided = [variant.guided for variant in variants(self._input.controls, self._input.guided, prompts=2)]
        return sum(guided) / len(guided)

    def width(self) -> int:
        return 2 if self._input.bf16 or self._input.fp16 else FP32

    def work(self, units: float) -> float:
        settings, costs = self._input, self.costs
        require_ours(settings.sampler, "sampler")  # each evaluates the network once a step
        sampler = params_of(settings.sampler, VideoDDIMSamplerParams)
        passes = (settings.steps or sampler.num_steps) * (1 + self._guided)
        return units * (passes * costs.network.flops(costs.grid) + costs.vae.decode_flops(*costs.clip))

    def device_bytes(self, ranks: int) -> float:
        costs, vae_width = self.costs, width_of(self._input.encoder_precision)
        batch = self._input.batch * (2 if self._guided else 1)
        unit = batch * costs.grid.tokens * costs.network.width * self.width()
        vae = costs.vae.parameters * vae_width
        weights = costs.network.count * self.width() + vae
        return weights + max(_INFERENCE_UNITS * unit, costs.decoding_bytes(vae_width) - vae)

    def host_bytes(self, ranks: int) -> float:
        """The network is built on the CPU: in fp32 if its weights are random or an experiment's."""
        width = self.width() if isinstance(self.costs.train.load, str) else FP32
        return float(self.costs.network.count * width)

    def disk_bytes(self, units: int) -> float:
        return float(units * 3 * self.costs.pixels)


class EvaluateCost(StageCost):
    """The VAE's decoder over each clip's latent."""

    startup, gpu, cpu = 5.0, 0.30, 0.30

    @staticmethod
    def left(counts: Counts, part: Slice, parts: Parts) -> tuple[int, int, int]:
        return counts.evaluated(part, parts)

    @staticmethod
    def together(part: Slice) -> int:
        return EVALUATE_BATCH

    @property
    def _input(self) -> EvaluateInput:
        return self.costs.input(EvaluateInput)

    def width(self) -> int:
        return width_of(self._input.precision)

    def work(self, units: float) -> float:
        return units * self.costs.vae.decode_flops(*self.costs.clip)

    def device_bytes(self, ranks: int) -> float:
        return self.costs.decoding_bytes(self.width())


COSTS: dict[str, type[StageCost]] = {
    cost.__name__: cost
    for cost in (
        ScanCost,
        PreprocessCost,
        LatentsCost,
        ImagesCost,
        TextCost,
        TrainCost,
        ExportCost,
        SampleCost,
        EvaluateCost,
        ReportCost,
    )
}


def cost_of(stage: Stage) -> type[StageCost]:
    """The cost class of a row of the table."""
    return COSTS[stage.cost] if stage.cost else StageCost

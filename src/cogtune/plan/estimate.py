"""Seconds, memory and disk of a stage: modelled from its arithmetic, and corrected by what earlier runs really took."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cogtune.plan.cost.work import Costs, Unmodelled
from cogtune.plan.counts import Work
from cogtune.plan.history import History
from cogtune.runtime.machines import Device, Machine
from cogtune.work import training_log
from cogtune.work.slices import Slice
from cogtune.work.training_log import StepRow

_STARTUP = {
    "preprocess": 1.0,
    "latents": 3.0,
    "images": 3.0,
    "text": 5.0,
    "train": 15.0,
    "export": 5.0,
    "sample": 8.0,
    "evaluate": 5.0,
}
"""Seconds before the first unit: libraries, weights, and in training the process group."""
_REPORT_SECONDS = 2.0
_FOUND_DONE_SECONDS = 4.0
"""Of a job that starts, finds its work done, and writes its receipt."""
_UTILISATION = {"train": 0.40, "latents": 0.30, "images": 0.30, "text": 0.40, "sample": 0.40, "evaluate": 0.30}
"""Share of the peak that is sustained on a GPU: assumed (docs/cost_model.md)."""
_CPU_UTILISATION = {"train": 0.32, "latents": 0.30, "images": 0.30, "text": 0.50, "sample": 0.45, "evaluate": 0.30}
_DECODED_PIXELS = 60e6
"""Source pixels that one core decodes and resizes in a second."""
_WEIGHTS_PER_SECOND = 0.5e9
"""Bytes of weights that an export reads, converts and compares in a second."""
_WAY_OUT = {
    "train": "checkpoint_activations, a smaller train_micro_batch_size_per_gpu, offload_optimizer or ZeRO 3 save memory",
    "latents": "encode_tile_size (or encode_batch_frames: 8) of first_stage_config and args.encode_batch: 1 save memory",
    "images": "encode_tile_size of first_stage_config saves memory",
    "text": "a smaller args.text_batch or args.encoder_precision: bf16 save memory",
    "sample": "a smaller args.sampling_batch, or decode_tile_size of first_stage_config save memory",
    "evaluate": "args.encoder_precision: bf16, or decode_tile_size of first_stage_config save memory",
}
_ON_ALL_DEVICES = ("latents", "images", "text")
_LOG_ROWS = 200
_PROCESS_BYTES = 0.6e9
"""Of a Python process with PyTorch and DeepSpeed imported, before it does anything."""


@dataclass(frozen=True)
class Estimate:
    """``seconds`` None: the device is not known here, or a component is not cogtune's (``basis`` "unknown"). ``disk``: bytes
    that the store grows by. ``memory``: bytes at the peak on each of ``devices`` devices, 0 if the job needs none.
    ``host``: CPU memory of all processes, libraries left out. ``basis``: "measured" if it scales an earlier run of this
    stage on such a device, else "modelled".
    """

    seconds: float | None
    disk: float
    memory: float
    devices: int
    basis: str
    host: float = 0.0


class Estimator:
    """Estimates of one experiment's stages on ``machine``."""

    def __init__(
        self, values: Mapping[str, Any], files: Mapping[str, str], ranks: int, machine: Machine, history: History
    ) -> None:
        model_dir = next((path for key, path in files.items() if key.endswith(".model_dir")), None)
        self._costs = Costs(values, model_dir)
        self._ranks, self._machine, self._history = ranks, machine, history

    @property
    def device(self) -> Device:
        """What is estimated for."""
        return self._machine.device

    def of(self, part: Slice, work: Work) -> Estimate:
        """What is left of a job."""
        if not work.todo:
            return Estimate(_FOUND_DONE_SECONDS, 0.0, 0.0, 0, "modelled")
        try:
            return self._corrected(self._modelled(part, work), part, work)
        except Unmodelled:
            return Estimate(None, 0.0, 0.0, 0, "unknown")

    def _modelled(self, part: Slice, work: Work) -> Estimate:
        costs, devices = self._costs, self._devices(part.stage, work)
        memory = self._device_bytes(costs, part.stage, self._ranks)
        return Estimate(
            seconds=self._seconds(part.stage, work.todo, devices),
            disk=costs.disk_bytes(part.stage, work.todo),
            memory=memory,
            devices=devices if memory else 0,
            basis="modelled",
            host=costs.host_bytes(part.stage, self._ranks),
        )

    def _device_bytes(self, costs: Costs, stage: str, ranks: int) -> float:
        """Peak on a device; on a CPU that is the whole process, libraries included."""
        found = costs.device_bytes(stage, ranks)
        return found + (0 if self._gpu or not found else _PROCESS_BYTES)

    def warnings(self, stage: str, found: Estimate) -> list[str]:
        """What would stop the job: a device, or the machine, with less memory than it wants."""
        device, told = self._machine.device, []
        if found.memory > device.memory > 0:
            wants = f"{stage} wants {_gb(found.memory)} of memory, {device.name} has {_gb(device.memory)}"
            told.append(f"does not fit: {wants}; {_WAY_OUT[stage]}")
        if stage == "train" and self._gpu and self._ranks > self._machine.count:
            told.append(f"does not fit: train wants {self._ranks} devices (ranks), there are {self._machine.count}")
        return told

    def _devices(self, stage: str, work: Work) -> int:
        if stage == "train":
            return self._ranks
        return max(1, min(self._machine.count, work.todo)) if stage in _ON_ALL_DEVICES else 1

    def _seconds(self, stage: str, units: float, devices: int) -> float | None:
        work = _modelled_work(self._costs, stage, units)
        if stage == "preprocess":
            return _STARTUP[stage] + work / _DECODED_PIXELS
        if stage == "export":
            return _STARTUP[stage] + 4 * work / _WEIGHTS_PER_SECOND
        if stage not in _UTILISATION:
            return _REPORT_SECONDS
        rate = self._machine.rate(self._costs.half(stage)) * (_UTILISATION if self._gpu else _CPU_UTILISATION)[stage]
        together = rate * (devices if self._gpu else min(self._machine.cores, self._ranks * self._costs.threads))
        return _STARTUP[stage] + work / together if together else None

    @property
    def _gpu(self) -> bool:
        return self._machine.device.gpu

    def _corrected(self, found: Estimate, part: Slice, work: Work) -> Estimate:
        """The same from what was measured: the nearest earlier run on such a device, and this training's own log."""
        stage = part.stage
        for key in self._history.nearest(part) if stage in _STARTUP else []:
            record = self._history.record(stage, key)
            if not record.get("made") or record.get("device") != self._machine.device.name:
                continue
            try:
                earlier = Costs(self._history.values(key))
                rate = self._rate(stage, key, record, earlier)
                memory = self._memory(found.memory, stage, key, record, earlier)
            except (KeyError, ValueError, TypeError, Unmodelled):
                continue  # a version that kept less wrote it
            if rate is not None:
                seconds = _STARTUP[stage] + rate * _modelled_work(self._costs, stage, work.todo)
                found = replace(found, seconds=seconds, memory=memory, basis="measured")
                break
        own = self._own_rate(part) if stage == "train" else None
        return replace(found, seconds=_STARTUP[stage] + work.todo * own, basis="measured") if own else found

    def _own_rate(self, part: Slice) -> float | None:
        """Seconds a step of the run that is to be resumed, from its own log."""
        log = training_log.read(self._history.store / "train" / part.key / "log.jsonl", warn=False)
        seconds = [row.seconds for row in log if isinstance(row, StepRow) and row.loss is not None][-_LOG_ROWS:]
        return sum(seconds) / len(seconds) if len(seconds) > 1 else None

    def _rate(self, stage: str, key: str, record: Mapping[str, Any], earlier: Costs) -> float | None:
        """Seconds per unit of modelled work in an earlier run, start-up left out, as if on this many devices."""
        if stage == "train":
            summary = self._history.json(f"train/{key}/final/summary.json")
            scale = summary["ranks"] / self._ranks if self._gpu else 1.0
            return scale / (summary["steps_per_second"] * _modelled_work(earlier, stage, 1))
        startup = min(_STARTUP[stage] * record["runs"], 0.8 * record["seconds"])
        scale = record.get("devices", 1) / self._machine.count if stage in _ON_ALL_DEVICES else 1.0
        work = _modelled_work(earlier, stage, record["made"])
        return scale * (record["seconds"] - startup) / work if work else None

    def _memory(self, modelled: float, stage: str, key: str, record: Mapping[str, Any], earlier: Costs) -> float:
        """The modelled peak, moved by how far an earlier run was from its own model."""
        ranks, kind = 1, "peak_gpu_mib" if self._gpu else "peak_memory_mib"
        measured = record.get(kind)
        if stage == "train":
            summary = self._history.json(f"train/{key}/final/summary.json")
            ranks, measured = summary["ranks"], summary["peak_memory"].get("gpu_mib" if self._gpu else "host_mib")
        if not modelled or not measured:
            return modelled
        return max(0.5 * modelled, modelled + measured * 2**20 - self._device_bytes(earlier, stage, ranks))


def _gb(count: float) -> str:
    return f"{count / 1e9:.0f} GB"


def _modelled_work(costs: Costs, stage: str, units: float) -> float:
    """What the time of a stage is in proportion to: FLOPs, pixels of preprocess, weights of export."""
    if stage == "preprocess":
        return units * costs.pixels
    if stage == "export":
        return float(costs.network.count)
    return units * costs.flops(stage)

"""The interface of a stage's cost model, and its defaults for a stage without one."""

from cogtune.plan.cost.work import Costs, Unmodelled
from cogtune.plan.counts import Counts, Parts
from cogtune.plan.history import History
from cogtune.plan.outlook import Outlook
from cogtune.runtime.machines import Machine
from cogtune.work.records import Record
from cogtune.work.slices import Slice

FP32 = 4
"""Bytes of a number."""


class StageCost:
    """A stage without cost model: its cost methods raise Unmodelled.

    ``startup``: seconds before the first unit: libraries, weights, and in training the process group. ``gpu``, ``cpu``:
    share of the peak that is sustained there, assumed (docs/cost_model.md). ``on_all_devices``: it runs one copy a
    device. ``on_all_ranks``: it runs one process a rank.
    """

    startup = 0.0
    gpu, cpu = 0.0, 0.0
    on_all_devices = on_all_ranks = False

    def __init__(self, costs: Costs) -> None:
        self.costs = costs

    @staticmethod
    def left(counts: Counts, part: Slice, parts: Parts) -> tuple[int, int, int]:
        """(units to compute, all units, missing units that an earlier job of the plan computes)."""
        return counts.rows(part, parts)

    @staticmethod
    def together(part: Slice) -> int:
        """How many units are made together, at most: several parts of a job do not share them."""
        return 1

    @staticmethod
    def outlook(counts: Counts, parts: Parts) -> Outlook:
        """What the stage will reject or change, as far as known before it runs."""
        return Outlook()

    def work(self, units: float) -> float:
        """The work of ``units`` units, proportional to time: FLOPs, pixels of preprocess, bytes of an export."""
        raise Unmodelled(type(self).__name__)

    def width(self) -> int:
        """Bytes per number of the compute precision."""
        return FP32

    def rate(self, machine: Machine, devices: int, ranks: int) -> float:
        """Work per second; 0 if the device is unknown."""
        peak = machine.rate(self.width() == 2)
        if machine.device.gpu:
            return peak * self.gpu * devices
        return peak * self.cpu * min(machine.cores, ranks * self.costs.train.threads)

    def device_bytes(self, ranks: int) -> float:
        """Peak memory on one device: of a training rank, or of a stage with one copy per device. 0: needs no device."""
        return 0.0

    def host_bytes(self, ranks: int) -> float:
        """Peak CPU memory of all processes: networks and offload."""
        return 0.0

    def disk_bytes(self, units: int) -> float:
        """Bytes that ``units`` units add to the store."""
        return 0.0

    def notes(self) -> list[str]:
        """What else the plan says of the stage, one line each. Raises Unmodelled."""
        return []

    def measured_rate(self, history: History, key: str, record: Record, machine: Machine, ranks: int) -> float | None:
        """Seconds per unit of work in the earlier run ``key`` (whose costs these are), without start-up, scaled to
        ``machine``.."""
        startup = min(self.startup * record.runs, 0.8 * record.seconds)
        scale = record.mean_devices / machine.count if self.on_all_devices else 1.0
        work = self.work(record.made or 0)
        return scale * (record.seconds - startup) / work if work else None

    def measured_peak(self, history: History, key: str, record: Record, gpu: bool) -> tuple[int, float | None]:
        """(ranks, peak MiB) of an earlier run."""
        return 1, record.peak_gpu_mib if gpu else record.peak_memory_mib

    def own_rate(self, history: History, part: Slice) -> float | None:
        """Seconds per unit of the run to resume, if recorded."""
        return None


def width_of(precision: str) -> int:
    """Bytes of a number: ``fp32``, ``bf16`` or ``fp16``."""
    return FP32 if precision == "fp32" else 2

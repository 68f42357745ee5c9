"""What a job asks of the scheduler: Snakemake's resources, from the plan's estimate of what is left of the job.

Memory and time get a margin, since a job that is cut off costs more than one that asked for too much. What is not modelled
(scans, the report, a component of the user's own) asks for `resources` of the workflow config.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from cogtune.errors import UserError
from cogtune.plan.counts import Counts
from cogtune.plan.estimate import PROCESS_BYTES, Estimate, estimator_of
from cogtune.plan.history import History
from cogtune.plan.stage_costs import StageCost, cost_of
from cogtune.runtime.machines import Machine, machine_of
from cogtune.work.slices import Slice
from cogtune.work.stages import STAGES
from cogtune.work.workspace import Workspace

_SIZE_MARGIN, _TIME_MARGIN = 1.5, 2.0
_EXTRA_MINUTES = 10
"""For what grows with no stage: a slow disk at the start, the last checkpoint, a node that is busy."""


@dataclass(frozen=True)
class Request:
    """``mem_mb``, ``disk_mb``: MB (10^6 bytes), as Snakemake counts them; ``runtime``: minutes; ``gpu``: devices."""

    mem_mb: int
    runtime: int
    disk_mb: int
    gpu: int


class Requests:
    """Requests of the jobs of a workspace, for the machine that its config names, or this one."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._history = History(workspace.store, workspace.results)
        self._counts = Counts(self._history, remember=False)
        self._known: dict[str, Request] = {}

    @cached_property
    def machine(self) -> Machine:
        """What is estimated for."""
        ranks = max(experiment.ranks for experiment in self._workspace.experiments.values())
        return machine_of(self._workspace.device, ranks)

    def of(self, key: str, stage: str) -> Request:
        """The request of a job; the same for the life of this process, once the job is known. Some jobs are known only after
        the scans: before them, and for the scans themselves, it is the default."""
        if key not in self._known:
            name = self._owner(key, stage)
            if name is None:
                return self._default(stage, 1)
            self._known[key] = self._estimated(name, self._workspace.job(key))
        return self._known[key]

    def _owner(self, key: str, stage: str) -> str | None:
        """The first experiment that has the job; None for a scan, a sweep, and a job that is not known."""
        if stage in ("scan", "sweep") or not self._workspace.knows(key):
            return None
        for name in self._workspace.experiments:
            done = all(receipt.exists() for receipt in self._workspace.scan_receipts(name))
            if done and key in {part.key for part in self._workspace.slices(name).values()}:
                return name
        return None

    def _estimated(self, name: str, part: Slice) -> Request:
        default = self._default(part.stage, self._workspace.experiments[name].ranks)
        if part.stage == "report":
            return default
        parts, cost = self._workspace.slices(name), cost_of(STAGES[part.stage])
        try:
            work = self._counts.left(part, parts, cost.left)
            estimate = estimator_of(self._workspace, name, self.machine, self._history).of(part, work)
        except UserError:  # damage in the store: the job itself says what, where and what to do
            return default
        if estimate.basis == "unknown":
            return default
        processes = max(1, estimate.devices)
        if cost.on_all_ranks and work.todo:
            processes = self._workspace.experiments[name].ranks
        return self._with_margin(estimate, processes, default, modelled=not work.todo)

    def _with_margin(self, estimate: Estimate, processes: int, default: Request, modelled: bool) -> Request:
        """``modelled``: whether the figures are known although they are 0."""
        on_gpu, modelled = self.machine.device.gpu, bool(modelled or estimate.memory or estimate.host)
        memory = estimate.host + processes * PROCESS_BYTES
        if not on_gpu:  # what a device holds, and the libraries, are in the memory of its process there
            memory = max(memory, processes * estimate.memory)
        seconds = estimate.seconds
        return Request(
            mem_mb=math.ceil(_SIZE_MARGIN * memory / 1e6) if modelled else default.mem_mb,
            runtime=default.runtime if seconds is None else math.ceil(_TIME_MARGIN * seconds / 60) + _EXTRA_MINUTES,
            disk_mb=math.ceil(_SIZE_MARGIN * estimate.disk / 1e6),
            gpu=estimate.devices if on_gpu and estimate.devices else default.gpu,
        )

    def _default(self, stage: str, ranks: int) -> Request:
        given = self._workspace.resources
        cost = cost_of(STAGES[stage]) if stage in STAGES else StageCost  # a sweep stands beside the table
        gpu = (ranks if cost.on_all_ranks else given.gpu) if cost.gpu and self.machine.device.gpu else 0
        return Request(given.mem_mb, given.runtime, given.disk_mb, gpu)

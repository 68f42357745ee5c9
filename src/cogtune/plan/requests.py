"""The resources that a job requests from the scheduler, from the plan's estimate of its remaining work.

Memory and time get a margin, because a killed job costs more than a request that is too large. Jobs without estimate
(scans, the report, plugins) request `resources` of the workflow config.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

from cogtune.errors import UserError
from cogtune.plan.counts import Counts, Work
from cogtune.plan.estimate import FOUND_DONE_SECONDS, PROCESS_BYTES, Estimate, estimator_of
from cogtune.plan.history import History
from cogtune.plan.stage_costs import StageCost, cost_of
from cogtune.runtime.machines import Machine, machine_of
from cogtune.work.slices import Slice
from cogtune.work.stages import STAGES
from cogtune.work.workspace import Workspace

_SIZE_MARGIN, _TIME_MARGIN = 1.5, 2.0
_EXTRA_MINUTES = 10
"""For delays that no estimate covers: a slow disk at the start, the last checkpoint, a busy node."""


@dataclass(frozen=True)
class Request:
    """``mem_mb``, ``disk_mb``: MB (10^6 bytes), as Snakemake counts them; ``runtime``: minutes; ``gpu``: devices."""

    mem_mb: int
    runtime: int
    disk_mb: int
    gpu: int


class Requests:
    """Requests of the jobs of a workspace, for the device in its config, or for this machine."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._history = History(workspace.store, workspace.results)
        self._counts = Counts(self._history, remember=False)
        self._known: dict[tuple[str, int], Request] = {}

    @cached_property
    def machine(self) -> Machine:
        """The device of the estimates."""
        ranks = max(experiment.ranks for experiment in self._workspace.experiments.values())
        return machine_of(self._workspace.device, ranks)

    def of(self, key: str, stage: str, parts: int = 0) -> Request:
        """The request of a job, constant for this process once the job is known. Before the scans, and for scans themselves,
        it is the default. ``parts``: of one of so many jobs that share the rows (see `parts`); 0: of the only one."""
        if (key, parts) not in self._known:
            name = self._owner(key, stage)
            if name is None:
                return self._default(stage, 1)
            self._known[key, parts] = self._estimated(name, self._workspace.job(key), parts)
        return self._known[key, parts]

    def parts(self, key: str, stage: str, most: int) -> int:
        """Into how many parts a job is cut, at most ``most``; 0 if it is not, as all its rows exist. Constant for this
        process once the job is known."""
        name = self._owner(key, stage) if most > 1 else None
        if name is None:
            return 0
        try:
            return self._work(name, self._workspace.job(key)).parts(most)
        except UserError:  # damage in the store: the job itself reports it with advice
            return 0

    def of_gather(self, stage: str) -> Request:
        """The request of a job whose parts make all rows. It needs no device; it writes files of samples, so
        its time is not estimated."""
        default = self._default(stage, 1)
        done = Estimate(FOUND_DONE_SECONDS, 0.0, 0.0, 0, "modelled")
        request = self._with_margin(done, 1, default, modelled=True)
        return replace(request, runtime=default.runtime, gpu=0)

    def _work(self, name: str, part: Slice) -> Work:
        """Including rows that another job of this run may make: the job that starts first makes them."""
        work = self._counts.left(part, self._workspace.slices(name), cost_of(STAGES[part.stage]))
        return replace(work, todo=work.todo + work.shared, shared=0)

    def _owner(self, key: str, stage: str) -> str | None:
        """The first experiment that has the job; None for a scan, a sweep, or an unknown job."""
        if stage in ("scan", "sweep") or not self._workspace.knows(key):
            return None
        for name in filter(self._workspace.available, self._workspace.experiments):
            done = all(receipt.exists() for receipt in self._workspace.scan_receipts(name))
            if done and key in {part.key for part in self._workspace.slices(name).values()}:
                return name
        return None

    def _estimated(self, name: str, part: Slice, count: int) -> Request:
        default = self._default(part.stage, self._workspace.experiments[name].ranks)
        if count:
            default = replace(default, gpu=min(1, default.gpu))
        if STAGES[part.stage].publishes:
            return default
        cost = cost_of(STAGES[part.stage])
        try:
            work = self._work(name, part)
            estimator = estimator_of(self._workspace, name, self.machine, self._history)
            estimate = estimator.of_part(part, work, count) if count else estimator.of(part, work)
        except UserError:  # damage in the store: the job itself reports it with advice
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
        resources = self._workspace.resources
        cost = cost_of(STAGES[stage]) if stage in STAGES else StageCost  # a sweep is not in the table
        gpu = (ranks if cost.on_all_ranks else resources.gpu) if cost.gpu and self.machine.device.gpu else 0
        return Request(resources.mem_mb, resources.runtime, resources.disk_mb, gpu)

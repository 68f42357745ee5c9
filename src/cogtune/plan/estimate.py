"""Seconds, memory and disk of a stage: modelled from its arithmetic, and corrected by what earlier runs really took."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from cogtune.errors import UserError
from cogtune.plan.cost.work import Costs, Unmodelled
from cogtune.plan.counts import Work
from cogtune.plan.history import History
from cogtune.plan.remedies import savings, with_remedies
from cogtune.plan.stage_cost import StageCost
from cogtune.plan.stage_costs import cost_of
from cogtune.runtime.machines import Device, Machine
from cogtune.work.records import Record
from cogtune.work.slices import Slice
from cogtune.work.stages import STAGES
from cogtune.work.workspace import Workspace

FOUND_DONE_SECONDS = 4.0
"""Of a job that starts, finds its work done, and writes its receipt."""
PROCESS_BYTES = 0.6e9
"""Of a Python process with PyTorch and DeepSpeed imported, before it does anything."""
COMPARABLE = 20.0
"""A run is scaled to units of at most this much more or less work than its own. A small network does not fill a GPU: the
demo's training reached 0.02 % of an H200's peak, 5B 40 %, with 10,000 times the work a step."""


@dataclass(frozen=True)
class Estimate:
    """``seconds`` None: unknown device, or a component without cost model (``basis`` "unknown"). ``disk``: bytes added to
    the store. ``memory``: bytes at the peak on each of ``devices`` devices, 0 if the job needs none.
    ``host``: CPU memory of all processes, libraries left out. ``basis``: "measured" if it scales an earlier run of this
    stage on such a device, else "modelled". ``parts``: jobs that share the work; then ``seconds``, ``memory`` and ``host``
    are those of one of them, and ``devices`` and ``disk`` of all. 0: the job is not cut.
    """

    seconds: float | None
    disk: float
    memory: float
    devices: int
    basis: str
    host: float = 0.0
    parts: int = 0


def estimator_of(workspace: Workspace, name: str, machine: Machine, history: History) -> "Estimator":
    """The estimator of one experiment, with its actual global batch size. The scans of its chain must be done."""
    config, train = workspace.config(name), workspace.slices(name).get("train")
    values = config.values
    if train is not None:
        batch = train.identity["values"]["args"]["global_batch_size"]
        values = values | {"args": values["args"] | {"global_batch_size": batch}}
    return Estimator(values, config.files, workspace.experiments[name].ranks, machine, history)


class Estimator:
    """Estimates the stages of one experiment on ``machine``."""

    def __init__(
        self, values: Mapping[str, Any], files: Mapping[str, str], ranks: int, machine: Machine, history: History
    ) -> None:
        model_dir = next((path for key, path in files.items() if key.endswith(".model_dir")), None)
        self._costs = Costs(values, model_dir)
        self._ranks, self._machine, self._history = ranks, machine, history

    @property
    def device(self) -> Device:
        """The device of the estimates."""
        return self._machine.device

    def of(self, part: Slice, work: Work) -> Estimate:
        """Estimate the remaining work of a job."""
        if not work.todo:
            return Estimate(FOUND_DONE_SECONDS, 0.0, 0.0, 0, "modelled")
        cost = cost_of(STAGES[part.stage])(self._costs)
        try:
            return self._corrected(self._modelled(cost, work), cost, part, work)
        except Unmodelled:
            return Estimate(None, 0.0, 0.0, 0, "unknown")

    def of_part(self, part: Slice, work: Work, parts: int) -> Estimate:
        """Estimate the largest of ``parts`` jobs that share the remaining work, with one device each."""
        one = copy(self)
        one._machine = replace(self._machine, count=1)
        return one.of(part, replace(work, todo=work.largest(parts)))

    def of_parts(self, part: Slice, work: Work, parts: int) -> Estimate:
        """Estimate all of them. 0: the job is not cut."""
        whole = self.of(part, work)
        if not parts or not work.todo:
            return whole
        return replace(
            self.of_part(part, work, parts), disk=whole.disk, devices=parts * bool(whole.devices), parts=parts
        )

    def _modelled(self, cost: StageCost, work: Work) -> Estimate:
        devices, memory = self._devices(cost, work), self._device_bytes(cost, self._ranks)
        amount, rate = cost.work(work.todo), cost.rate(self._machine, devices, self._ranks)
        return Estimate(
            seconds=cost.startup + (amount / rate if amount else 0.0) if rate or not amount else None,
            disk=cost.disk_bytes(work.todo),
            memory=memory,
            devices=devices if memory else 0,
            basis="modelled",
            host=cost.host_bytes(self._ranks),
        )

    def _device_bytes(self, cost: StageCost, ranks: int) -> float:
        """Peak memory on a device; on a CPU, of the process including libraries."""
        device_bytes = cost.device_bytes(ranks)
        return device_bytes + (0 if self._gpu or not device_bytes else PROCESS_BYTES)

    def warnings(self, stage: str, estimate: Estimate) -> list[str]:
        """Warnings for a job that needs more memory or devices than available."""
        device, messages, cost = self._machine.device, list[str](), cost_of(STAGES[stage])
        if estimate.memory > device.memory > 0:
            needed = f"{stage} needs {_gb(estimate.memory)} of memory, {device.name} has {_gb(device.memory)}"
            messages.append(f"does not fit: {needed}{self._advice(stage, estimate.memory)}")
        if cost.on_all_ranks and self._gpu and self._ranks > self._machine.count:
            messages.append(f"does not fit: {stage} needs {self._ranks} devices (ranks), found {self._machine.count}")
        return messages

    def notes(self, stage: str) -> list[str]:
        """What the cost model says of a stage beside its figures."""
        try:
            return cost_of(STAGES[stage])(self._costs).notes()
        except Unmodelled:
            return []

    def _advice(self, stage: str, needed: float) -> str:
        """What would save memory, the largest saving first. ``needed``: bytes of the estimate, which measurements may have
        moved away from the model; so are the figures here."""
        cost = cost_of(STAGES[stage])(self._costs)
        moved = needed - self._device_bytes(cost, self._ranks)
        options = savings(stage, cost, self._ranks)
        if not options:
            return "; no setting saves memory there: use a device with more"
        text = ", ".join(f"{option.remedy.text} ({_gb(option.bytes + moved)})" for option in options)
        if min(option.bytes for option in options) + moved <= self._machine.device.memory:
            return f". Less memory with any of: {text}"
        together = with_remedies(cost, [option.remedy for option in options]).device_bytes(self._ranks)
        return f". Less memory with {text}; all of them together: {_gb(together + moved)}"

    def _devices(self, cost: StageCost, work: Work) -> int:
        if cost.on_all_ranks:
            return self._ranks
        return max(1, min(self._machine.count, work.todo)) if cost.on_all_devices else 1

    @property
    def _gpu(self) -> bool:
        return self._machine.device.gpu

    def _corrected(self, estimate: Estimate, cost: StageCost, part: Slice, work: Work) -> Estimate:
        """Correct the estimate by measurements: the closest earlier run on such a device, or this training's own log."""
        amount = cost.work(work.todo)
        for key in self._history.nearest(part) if amount else []:
            record = self._history.record(part.stage, key)
            if record is None or not record.made or record.device != self._machine.device.name:
                continue
            try:
                earlier = type(cost)(Costs(self._history.values(key)))
                if not 1 / COMPARABLE <= cost.work(1) / earlier.work(1) <= COMPARABLE:
                    continue
                rate = earlier.measured_rate(self._history, key, record, self._machine, self._ranks)
                memory = self._memory(estimate.memory, earlier, key, record)
            except (KeyError, ValueError, TypeError, ZeroDivisionError, UserError, Unmodelled):
                continue  # written by an earlier version with less information
            if rate is not None:
                estimate = replace(estimate, seconds=cost.startup + rate * amount, memory=memory, basis="measured")
                break
        own = cost.own_rate(self._history, part)
        return replace(estimate, seconds=cost.startup + work.todo * own, basis="measured") if own else estimate

    def _memory(self, modelled: float, earlier: StageCost, key: str, record: Record) -> float:
        """The modelled peak, corrected by the error of the model for an earlier run."""
        ranks, measured = earlier.measured_peak(self._history, key, record, self._gpu)
        if not modelled or not measured:
            return modelled
        return max(0.5 * modelled, modelled + measured * 2**20 - self._device_bytes(earlier, ranks))


def _gb(count: float) -> str:
    return f"{count / 1e9:.0f} GB"

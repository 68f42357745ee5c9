"""Settings with which every stage fits a device, by the plan's own estimate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cogtune.config.schema.checkpointing import Policy
from cogtune.config.schema.checkpointing import canonical as policy_value
from cogtune.plan.cost.work import Costs, Unmodelled
from cogtune.plan.estimate import PROCESS_BYTES
from cogtune.plan.remedies import LORA_RANK, NETWORK_POLICY, Remedy, changed, remedies_of
from cogtune.plan.stage_costs import cost_of
from cogtune.runtime.machines import Device
from cogtune.work.stages import STAGES

DRIVER_BYTES = 1e9
"""Of a GPU's memory, for the driver's context and libraries (docs/plan.md)."""
MICRO_BATCHES = (4, 2, 1)
POLICIES = (Policy.SELECTIVE, Policy.ATTENTION, Policy.FULL)
"""From the fastest to the one that needs least memory."""
LORA_RANKS = (64, 32)
MENDED = ("latents", "images", "text", "sample", "evaluate")
"""Stages whose settings do not depend on those of the training."""
_MICRO = "deepspeed.train_micro_batch_size_per_gpu"
_BATCH = "args.global_batch_size"
_ZERO = "deepspeed.zero_optimization"


@dataclass(frozen=True)
class Candidate:
    """Settings of a training. ``clips``: per step. ``extra``: what else saves memory, by key."""

    policy: Policy
    micro: int
    clips: int
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def changes(self) -> dict[str, Any]:
        """Canonical values by dotted key."""
        policy = policy_value(self.policy.value)
        fixed = {"args.checkpoint_activations": policy, NETWORK_POLICY: policy, _MICRO: self.micro, _BATCH: self.clips}
        return fixed | dict(self.extra)

    @property
    def typed(self) -> dict[str, Any]:
        """What to write into a config for them."""
        fixed = {"args.checkpoint_activations": self.policy.value, _MICRO: self.micro, _BATCH: self.clips}
        return fixed | dict(self.extra)


@dataclass(frozen=True)
class Fit:
    """``candidate``: the first that fits. ``remedies``: for the other stages, by stage. ``peaks``: bytes on a device, by
    stage."""

    candidate: Candidate
    remedies: dict[str, list[Remedy]]
    peaks: dict[str, float]


def candidates(ranks: int, clips: int, batch: int, lora: bool, accumulate: bool) -> Iterator[Candidate]:
    """Settings in the order in which they are tried: least recomputation first, then the largest micro batch; then those that
    cost more. ``batch``: clips per step to aim at, of ``clips`` in all."""
    limit = max(ranks, min(batch, clips))
    micros = [micro for micro in MICRO_BATCHES if ranks * micro <= limit]
    sizes = {micro: _clips_a_step(ranks * micro, limit, accumulate) for micro in micros}
    for policy in POLICIES:
        for micro in micros:
            yield Candidate(policy, micro, sizes[micro])
    least = Candidate(Policy.FULL, micros[-1], sizes[micros[-1]])
    if lora:
        for rank in LORA_RANKS:
            yield replace(least, extra=((LORA_RANK, rank),))
    extra: tuple[tuple[str, Any], ...] = ((LORA_RANK, LORA_RANKS[-1]),) if lora else ()
    if ranks > 1:
        extra += ((f"{_ZERO}.stage", 3),)
        yield replace(least, extra=extra)
    yield replace(least, extra=(*extra, (f"{_ZERO}.offload_optimizer.device", "cpu")))
    if ranks > 1:
        yield replace(
            least,
            extra=(*extra, (f"{_ZERO}.offload_optimizer.device", "cpu"), (f"{_ZERO}.offload_param.device", "cpu")),
        )


def fit(values: Mapping[str, Any], tried: Sequence[Candidate], ranks: int, device: Device) -> Fit | None:
    """The first candidate with which all stages fit ``device``; None if none does. ``values``: canonical config."""
    for candidate in tried:
        mended = changed(values, [candidate.changes])
        if peak("train", mended, ranks, device) > room(device):
            continue
        remedies = dict[str, list[Remedy]]()
        for stage in MENDED:
            applied = _mend(stage, mended, ranks, device)
            if applied is None:
                return None  # no setting of the training changes that
            if applied:
                remedies[stage] = applied
                mended = changed(mended, (one.values for one in applied))
        return Fit(candidate, remedies, {name: peak(name, mended, ranks, device) for name in STAGES})
    return None


def least_memory(
    values: Mapping[str, Any], tried: Sequence[Candidate], ranks: int, device: Device
) -> tuple[str, float]:
    """(the stage that needs most memory with all settings that save some, bytes that a device must have for it)."""
    needs = {"train": min(peak("train", changed(values, [one.changes]), ranks, device) for one in tried)}
    for stage in MENDED:
        remedies = remedies_of(stage, Costs(values), ranks)
        needs[stage] = min(
            peak(stage, changed(values, (one.values for one in remedies[:count])), ranks, device)
            for count in range(len(remedies) + 1)
        )
    stage = max(needs, key=lambda name: needs[name])
    return stage, needs[stage] + _overhead(device)


def peak(stage: str, values: Mapping[str, Any], ranks: int, device: Device) -> float:
    """Bytes of a stage on one device, as a plan estimates them; 0 if it needs none, or has no cost model."""
    try:
        needed = cost_of(STAGES[stage])(Costs(values)).device_bytes(ranks)
    except Unmodelled:
        return 0.0
    if device.gpu or not needed:
        return needed
    processes = ranks if STAGES[stage].name == "train" else 1
    return processes * (needed + PROCESS_BYTES)


def room(device: Device) -> float:
    """Bytes that a stage may use; unlimited on a device of unknown size."""
    return device.memory - _overhead(device) if device.memory else float("inf")


def _overhead(device: Device) -> float:
    return DRIVER_BYTES if device.gpu else 0.0


def _clips_a_step(at_once: int, limit: int, accumulate: bool) -> int:
    return at_once * (limit // at_once) if accumulate else at_once


def _mend(stage: str, values: Mapping[str, Any], ranks: int, device: Device) -> list[Remedy] | None:
    """The remedies, in their order, until the stage fits; None if it does not with all of them."""
    applied = list[Remedy]()
    needed = peak(stage, values, ranks, device)
    for remedy in remedies_of(stage, Costs(values), ranks) if needed > room(device) else []:
        less = peak(stage, changed(values, (one.values for one in (*applied, remedy))), ranks, device)
        if less < needed:
            applied.append(remedy)
            needed = less
        if needed <= room(device):
            return applied
    return applied if needed <= room(device) else None

"""What the cost model says of a training: FLOPs of its model, and settings that need less memory."""

from typing import Any

from cogtune.config.leaves import KeyPath, leaves_of, nest
from cogtune.errors import UserError
from cogtune.plan.cost.work import Costs, Unmodelled
from cogtune.plan.remedies import Remedy, savings
from cogtune.plan.stage_costs import TrainCost
from cogtune.runtime.machines import here
from cogtune.stages.job import Job
from cogtune.train.ends import RankError
from cogtune.work.inputs import TrainInput
from cogtune.work.slices import how_read
from cogtune.work.stages import STAGES


def costs_of(job: Job[TrainInput]) -> Costs:
    """The sizes of a training, from its config and those of its caches."""
    leaves: dict[KeyPath, Any] = {}
    for one in reversed(_line(job)):
        leaves |= dict(leaves_of(one.slice.config()))
    return Costs(nest(leaves))


def model_flops(job: Job[TrainInput]) -> float | None:
    """FLOPs of the model for one training clip; None for a model without cost model."""
    try:
        costs = costs_of(job)
        return costs.network.model_flops(costs.grid)
    except (Unmodelled, UserError):
        return None


def out_of_memory(job: Job[TrainInput], error: RankError) -> UserError:
    """The message for a training whose rank ran out of memory: what it requested, what the device has, and settings that need
    less, the one that saves most first, each with the predicted memory of a rank."""
    kind = "GPU memory" if error.memory == "GPU" else "memory"
    request = f" ({error.request})" if error.request else ""
    first = f"rank {error.rank} of training is out of {kind}{request}"
    on_gpu = here().device.gpu
    try:
        cost = TrainCost(costs_of(job))
        if on_gpu and error.memory != "GPU":
            host = f"the ranks of this training need about {_gb(cost.host_bytes(job.ranks))} of CPU memory together"
            return UserError(f"{first}. {host}: use fewer ranks on this machine, or request more memory{_AGAIN}")
        now = cost.device_bytes(job.ranks)
        options = [one for one in savings("train", cost, job.ranks) if on_gpu or "offload" not in one.remedy.text]
    except (Unmodelled, UserError):
        return UserError(error.message)
    size = f"By the cost model a rank needs {_gb(now)}{'' if on_gpu else ', libraries not counted'}"
    if not options:
        return UserError(f"{first}. {size}, and no setting saves memory: use a device with more{_AGAIN}")
    ways = "".join(f"\n  {one.remedy.text}: {_gb(one.bytes)}{_restarts(one.remedy)}" for one in options)
    return UserError(f"{first}. {size}; with any one of these settings:{ways}\n{_PLAN}{_AGAIN}")


_PLAN = "`cogtune plan EXPERIMENT -- KEY=VALUE` estimates several together"
_AGAIN = "; then run the same command again: the training resumes from its last checkpoint"


_CHAIN = {"scan", "preprocess", "latents", "images", "text", "train"}
"""The stages whose keys say which training it is."""


def _restarts(remedy: Remedy) -> str:
    """A note on settings that define another training."""
    chain = [stage for name, stage in STAGES.items() if name in _CHAIN]
    other = any(how_read(stage, key) == "keys" for key in remedy.values for stage in chain)
    return " (another training, from step 0)" if other or not remedy.values else ""


def _gb(count: float) -> str:
    if count < 0.5e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB" if count < 10e9 else f"{count / 1e9:.0f} GB"


def _line(job: Job[Any]) -> list[Job[Any]]:
    """The job and its upstream jobs, nearest first, without the training whose result it starts from."""
    line: dict[str, Job[Any]] = {}
    waiting = [job]
    while waiting:
        one = waiting.pop(0)
        if one.key not in line:
            line[one.key] = one
            waiting += [one.upstream_job(name) for name in one.upstream if name not in ("scan", "load")]
    return list(line.values())

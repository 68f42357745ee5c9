"""What the cost model says of a training: FLOPs of its model."""

from typing import Any

from cogtune.config.leaves import KeyPath, leaves_of, nest
from cogtune.errors import UserError
from cogtune.plan.cost.work import Costs, Unmodelled
from cogtune.stages.job import Job
from cogtune.work.inputs import TrainInput


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

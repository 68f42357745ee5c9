"""The folder final/: the trained parameters, their moving average, and a summary."""

import json
import resource
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cogtune.runtime.atomic import replacing
from cogtune.runtime.sums import write_sums
from cogtune.train.engine import full_tensors, keeps_average
from cogtune.train.optim import SHADOW
from cogtune.work.results import PeakMemory

MODEL, AVERAGE = "model.safetensors", "ema.safetensors"


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a safetensors file with ``facts`` as one JSON string in the metadata key "cogtune": safetensors does not fix
    the order of several keys, so the file's bytes would differ between runs."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, {"cogtune": json.dumps(facts, sort_keys=True)})


def write_weights(engine: Any, module: nn.Module, final: Path, facts: dict[str, Any], first: bool) -> None:
    """Gather the fp32 master weights of all trained parameters, and their average, into ``final``. Collective."""
    if first:
        final.mkdir(parents=True, exist_ok=True)
    weights = dict(full_tensors(engine, module))
    if first:
        write_tensors(final / MODEL, weights, facts)
    if keeps_average(engine):
        averages = dict(full_tensors(engine, module, SHADOW))
        if first:
            write_tensors(final / AVERAGE, averages, facts | {"average": True})
    if first:
        write_sums(final, [path for name in (MODEL, AVERAGE) if (path := final / name).exists()])


def parameter_counts(module: nn.Module) -> dict[str, int]:
    """``parameters_trained`` and ``parameters_total``, with the full sizes of partitioned parameters."""
    numel = {id(p): (getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in module.parameters()}
    return {
        "parameters_trained": sum(count for count, trained in numel.values() if trained),
        "parameters_total": sum(count for count, _ in numel.values()),
    }


def peak_memory() -> PeakMemory:
    """Peak memory of this process, in MiB."""
    host = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    gpu = round(torch.cuda.max_memory_allocated() / 2**20, 1) if torch.cuda.is_available() else None
    return PeakMemory(host, gpu)

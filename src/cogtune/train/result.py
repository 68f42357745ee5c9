"""The folder final/: the trained parameters, their moving average, and a summary."""

import json
import resource
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.model.weights.write import stream_safetensors, write_safetensors
from cogtune.runtime.atomic import replacing
from cogtune.runtime.sums import write_sums
from cogtune.train.average import has_average
from cogtune.train.engine import full_tensors, keeps_average, trained_shapes
from cogtune.train.optim import SHADOW
from cogtune.work.results import PeakMemory

MODEL, AVERAGE = "model.safetensors", "ema.safetensors"


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a safetensors file of weights with ``facts`` in its metadata."""
    write_safetensors(path, dict(sorted(tensors.items())), _metadata(facts))


def _metadata(facts: dict[str, Any]) -> dict[str, str]:
    return {"cogtune": json.dumps(facts, sort_keys=True)}


def write_weights(
    engine: Any, module: nn.Module, folder: Path, facts: dict[str, Any], first: bool, names: Sequence[str] | None = None
) -> None:
    """Write the fp32 master weights of all trained parameters (`MODEL`), and their average (`AVERAGE`) if the optimizer
    keeps one, into ``folder``, with their checksums. ``names``: only these of the two. Before the first update (all steps so
    far were skipped) the average is the weights.

    Collective. The tensors are gathered and written one by one, so the first rank's host holds one of them, and the other
    ranks' hosts none.
    """
    states: dict[str, str | None] = {MODEL: None}
    if keeps_average(engine):
        states[AVERAGE] = SHADOW if has_average(engine) else None
    written = [name for name in states if names is None or name in names]
    for name in written:
        tensors = full_tensors(engine, module, states[name])
        if not first:
            deque(tensors, maxlen=0)
            continue
        layout = {parameter: (torch.float32, shape) for parameter, shape in trained_shapes(module).items()}
        metadata = _metadata(facts | ({"average": True} if name == AVERAGE else {}))
        with replacing(folder / name) as temporary:
            stream_safetensors(temporary, layout, tensors, metadata)
    if first:
        write_sums(folder, [folder / name for name in written])


def clear_unfinished(folder: Path) -> None:
    """Remove the temporary files of killed writers. Call it only while no writer is alive."""
    for path in folder.glob(".*.tmp"):
        path.unlink()


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

"""Write weight files: safetensors, single or sharded with an index, and SAT's torch files."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogtune.checkpoints.header import SIZES
from cogtune.model.weights.read import DTYPES
from cogtune.runtime.atomic import replacing, write_json, write_text

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
WEIGHTS = "diffusion_pytorch_model"


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Write ``tensors`` in the given order; return the size of the file in bytes.

    Not written with the safetensors library, because it copies all tensors in memory, and writes the keys of
    ``metadata`` in random order, so that equal weights would give different files.
    """
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        return stream_safetensors(temporary, layout, tensors.values(), metadata)


def stream_safetensors(
    path: Path,
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
    on_bytes: Callable[[memoryview], object] = lambda chunk: None,
) -> int:
    """Write a file whose ``tensors`` come one by one, on any device, in the order of ``layout`` (name -> dtype, shape), so
    that only one of them is in memory. ``on_bytes`` gets all that is written. Returns the size in bytes."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    begin = 0
    for name, (dtype, shape) in layout.items():
        end = begin + math.prod(shape) * SIZES[_NAMES[dtype]]
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # data begin at a multiple of 8
    with path.open("wb") as file:
        for chunk in itertools.chain([memoryview(len(head).to_bytes(8, "little") + head)], map(_bytes_of, tensors)):
            file.write(chunk)
            on_bytes(chunk)
    return 8 + len(head) + begin


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def write_shards(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], shard_bytes: float) -> int:
    """Write a diffusers component's weights into ``folder``: one file, or shards of at most ``shard_bytes`` bytes (a
    larger tensor gets its own shard) and their index. Returns the total size in bytes."""
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= size
    if len(shards) == 1:
        return write_safetensors(folder / f"{WEIGHTS}.safetensors", shards[0], metadata)
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = f"{WEIGHTS}-{number:05d}-of-{len(shards):05d}.safetensors"
        total += write_safetensors(folder / file, shard, metadata)
        weight_map |= dict.fromkeys(shard, file)
    size = sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_json(folder / f"{WEIGHTS}.safetensors.index.json", index)
    return total


def write_sat(folder: Path, tensors: Mapping[str, Tensor], iteration: int, facts: Mapping[str, Any]) -> int:
    """Write a SAT folder: `latest` and <iteration>/mp_rank_00_model_states.pt with ``tensors`` under `module`.

    ``facts`` are stored under `cogtune`, which SAT ignores. Returns the size in bytes.
    """
    file = folder / str(iteration) / "mp_rank_00_model_states.pt"
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # torch.save would write the full storage of a view.
    contiguous = {name: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for name, t in contiguous.items()}
    with replacing(file) as temporary:
        torch.save(
            {"module": contiguous, "iteration": iteration, "cogtune": json.dumps(facts, sort_keys=True)}, temporary
        )
    write_text(folder / "latest", str(iteration))
    return file.stat().st_size

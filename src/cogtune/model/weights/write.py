"""Weight files on disk: safetensors, whole or in shards with their index, and SAT's torch files."""

import json
import math
from collections.abc import Mapping
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
    """Write ``tensors`` in the order given; returns the bytes of the file.

    Written here and not by the safetensors library: that copies all tensors once more in memory, and puts the keys of
    ``metadata`` in an order that changes from run to run, so that equal weights would give unequal files.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    for name, tensor in tensors.items():
        dtype = _NAMES[tensor.dtype]
        end = begin + tensor.numel() * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # data begin at a multiple of 8
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
    return 8 + len(head) + begin


def write_shards(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], most: float) -> int:
    """Write a diffusers component's weights into ``folder``: one file, or shards of at most ``most`` bytes (a larger
    tensor has one to itself) and the index that lists them. Returns the bytes."""
    shards: list[dict[str, Tensor]] = [{}]
    room = most
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and shards[-1]:
            shards.append({})
            room = most
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

    ``facts`` stand beside them under `cogtune`; SAT passes over what it does not know. Returns the bytes.
    """
    file = folder / str(iteration) / "mp_rank_00_model_states.pt"
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # A view would take its whole storage along into the file.
    whole = {name: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for name, t in whole.items()}
    with replacing(file) as temporary:
        torch.save({"module": whole, "iteration": iteration, "cogtune": json.dumps(facts, sort_keys=True)}, temporary)
    write_text(folder / "latest", str(iteration))
    return file.stat().st_size

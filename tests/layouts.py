"""Weights on disk in every layout that there is, as the tools that write them do it."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
PREFIX = "model.diffusion_model."


def empty_t5(folder: Path, **config: Any) -> Path:
    """What the check of a config asks of a text encoder's folder: config.json, and files of the right names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"} | config))
    for name in ("spiece.model", "model.safetensors"):
        (folder / name).touch()
    return folder


def sat_folder(root: Path, state: State) -> Path:
    """As DeepSpeed writes it under SAT: the whole engine below `module`, random states beside it."""
    engine = {PREFIX + name: tensor for name, tensor in state.items()}
    engine |= {
        "conditioner.embedders.0.transformer.shared.weight": torch.zeros(2),
        "first_stage_model.x": torch.zeros(2),
    }
    content = {
        "module": engine, "iteration": 1000, "optimizer": None, "ds_config": {"zero": {"stage": 2}},
        "sparse_tensor_module_names": set(), "np_rng_state": np.random.RandomState(1).get_state(),
        "torch_rng_state": torch.get_rng_state(), "random_rng_state": random.getstate(),
        "cuda_rng_state": torch.zeros(16, dtype=torch.uint8),
    }  # fmt: skip
    (root / "1000").mkdir()
    torch.save(content, root / "1000" / "mp_rank_00_model_states.pt")
    (root / "latest").write_text("1000")
    return root


def one_safetensors(root: Path, state: State) -> Path:
    save_file(state, root / "model.safetensors")
    return root / "model.safetensors"


def state_dict_file(root: Path, state: State) -> Path:
    torch.save({"state_dict": state}, root / "w.bin")
    return root / "w.bin"


def legacy_pickle(root: Path, state: State) -> Path:
    torch.save(state, root / "w.pt", _use_new_zipfile_serialization=False)
    return root / "w.pt"


def views_of_one_storage(root: Path, state: State) -> Path:
    """Tensors that share a storage, and transposed ones, as a state dict of views has them."""
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    views, begin = {}, 0
    for name, tensor in state.items():
        views[name] = flat[begin : begin + tensor.numel()].view(tensor.shape)
        begin += tensor.numel()
        if tensor.ndim == 2:
            views[name] = tensor.t().contiguous().t()
    torch.save({"module": views}, root / "w.pt")
    return root / "w.pt"


WRAPPINGS = [sat_folder, one_safetensors, state_dict_file, legacy_pickle, views_of_one_storage]


def diffusers_folder(folder: Path, tensors: State, shards: int = 1, ending: str = "safetensors", **config: Any) -> Path:
    """A component folder: one file, or shards and their index; ``config`` joins config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    names, stem = sorted(tensors), "diffusion_pytorch_model"
    index: dict[str, str] = {}
    for k in range(shards):
        part = {name: tensors[name].contiguous() for name in names[k::shards]}
        file = f"{stem}.{ending}" if shards == 1 else f"{stem}-{k + 1:05d}-of-{shards:05d}.{ending}"
        save_file(part, folder / file) if ending == "safetensors" else torch.save(part, folder / file)
        index |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps({"_class_name": "CogVideoXTransformer3DModel"} | config))
    return folder


def split_ranks(state: State, ranks: int) -> list[State]:
    """Megatron's split, written out for two kinds of layer by hand."""
    out: list[State] = [{} for _ in range(ranks)]
    for name, tensor in state.items():
        for rank in range(ranks):
            piece = tensor
            if "query_key_value" in name and "matrix_" not in name:
                piece = torch.cat([third.chunk(ranks)[rank] for third in tensor.chunk(3)])
            elif "dense_h_to_4h" in name or "query_key_value.matrix_B" in name:
                piece = tensor.chunk(ranks)[rank]
            elif (
                name.endswith(("attention.dense.weight", "dense.original.weight", "dense_4h_to_h.weight"))
                or "attention.dense.matrix_A" in name
            ):
                piece = tensor.chunk(ranks, dim=1)[rank]
            out[rank][name] = piece
    return out


def tensor_parallel(root: Path, state: State, ranks: int) -> Path:
    for rank, part in enumerate(split_ranks(state, ranks)):
        content = {"module": {PREFIX + name: tensor.clone() for name, tensor in part.items()}}
        torch.save(content, root / f"mp_rank_{rank:02d}_model_states.pt")
    return root

"""Detect the layout of weights: one file, or a folder of SAT, diffusers or PEFT. By content, never by name."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from cogtune.checkpoints import safetensors_file, torch_file
from cogtune.checkpoints.header import Header, Joined, Source
from cogtune.checkpoints.locations import SHARD, find_next_to, place_of, shards_like, usual_name
from cogtune.checkpoints.training import RECORD, Ranges, read_record
from cogtune.errors import UserError
from cogtune.runtime.paths import inside
from cogtune.runtime.saved import DamagedError

_RANKS = "mp_rank_*_model_states.pt"
TRAINING, FINAL = "training checkpoint", "train/<key>/final/model.safetensors"
PEFT_PREFIX = "base_model."
COMPONENTS = ("transformer", "vae", "text_encoder")


def read_header(path: str | Path, component: str = "transformer") -> Header:
    """The header of a SAT folder (with `latest`), an iteration folder, a diffusers pipeline (its ``component``) or
    component folder, a PEFT folder, a folder with one weight file, a safetensors file, or a torch file. A path to
    a part of one of them works too: an index, a shard, one of several ranks, a link (`locations.py`).

    Raises: UserError when the path is none of these, is damaged, or contains more than tensors.
    """
    path = place_of(Path(path))
    if path.is_dir():
        return _folder(path, component)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; expected a path to weights")
    shards_like(path)
    return _with_config_files(path, _file(path))


def _with_config_files(path: Path, header: Header) -> Header:
    """Add adapter_config.json of a PEFT file (LoRA rank and alpha), and config.json of a diffusers file."""
    ours = usual_name(path)
    peft = ours or any(name.startswith(PEFT_PREFIX) for name in header.tensors)
    adapter = find_next_to(path, "adapter_config.json") if peft else None
    config = find_next_to(path, "config.json") if ours else None
    return replace(header, adapter=_json(adapter) if adapter else None, config=_json(config) if config else None)


def components(path: str | Path) -> list[str]:
    """The folders with weights of a diffusers pipeline; empty for anything else."""
    path = Path(path)
    if not (path / "model_index.json").is_file():
        return []
    return [name for name in COMPONENTS if _weight_files(path / name)]


def _file(path: Path) -> Header:
    return safetensors_file.read(path) if safetensors_file.is_safetensors(path) else torch_file.read(path)


def _folder(folder: Path, component: str) -> Header:
    if (folder / "latest").is_file():
        iteration = (folder / "latest").read_text(encoding="utf-8", errors="replace").strip()
        return _ranks(inside(folder, iteration, folder / "latest"), f"SAT folder, iteration {iteration}")
    if any(folder.glob(_RANKS)):
        return _ranks(folder, "SAT iteration folder")
    if (folder / RECORD).is_file() and (folder / "state").is_dir():
        return _earlier_checkpoint(folder)
    if (folder / RECORD).is_file():
        return _training_checkpoint(folder)
    if (folder / "model_index.json").is_file():
        if not (folder / component).is_dir():
            raise UserError(f"{folder}: diffusers pipeline without {component}/ folder")
        return _component(folder / component, f"{component} of a diffusers pipeline")
    return _component(folder, "")


def _training_checkpoint(folder: Path) -> Header:
    """A checkpoint of `train/checkpoint.py`: the fp32 master weights, of which each rank's file holds ranges."""
    try:
        weights = Ranges(folder, read_record(folder)).weights()
    except (ValueError, DamagedError) as error:
        raise UserError(f"{folder}: not a complete training checkpoint ({str(error).split(';')[0]})") from None
    return Header(folder, f"{TRAINING} {folder.name}", weights)


def _earlier_checkpoint(folder: Path) -> Header:
    """A checkpoint of an earlier version: the trained weights in the precision of training. With ZeRO-3 they are split."""
    if not any((folder / "state").glob(_RANKS)):
        raise UserError(
            f"{folder}: a training checkpoint whose weights are split over the ranks (ZeRO-3); give the finished "
            f"training's {FINAL} (in the store), or results/<experiment>/export"
        )
    return _ranks(folder / "state", f"{TRAINING} {folder.name}, rounded; the fp32 weights are in {FINAL}")


def _ranks(folder: Path, layout: str) -> Header:
    files = sorted(folder.glob(_RANKS))
    if not files:
        raise UserError(f"{folder}: mp_rank_00_model_states.pt is missing; the file `latest` points to this folder")
    expected = [folder / f"mp_rank_{rank:02d}_model_states.pt" for rank in range(len(files))]
    if files != expected:
        missing = next(path for path in expected if path not in files)
        raise UserError(f"{folder}: {missing.name} is missing; found {len(files)} tensor-parallel ranks")
    headers = [torch_file.read(file) for file in files]
    ranks = [header.tensors for header in headers]
    if len(ranks) == 1:
        return Header(folder, layout, ranks[0], headers[0].metadata)
    for file, rank in zip(files, ranks, strict=True):
        if rank.keys() != ranks[0].keys():
            name = next(iter(rank.keys() ^ ranks[0].keys()))
            raise UserError(f"{file}: tensors differ from rank 0, e.g. {name}; all ranks must be from one checkpoint")
    merged = {name: _merged(name, tuple(rank[name] for rank in ranks)) for name in ranks[0]}
    return Header(folder, f"{layout}, {len(ranks)} tensor-parallel ranks merged", merged)


def _merged(name: str, pieces: tuple[Source, ...]) -> Source:
    """How a tensor is split over ranks: query_key_value by rows within each of q, k, v; dense_h_to_4h by rows; dense and
    dense_4h_to_h by columns. For adapters, matrix_B like the rows of its layer, matrix_A of dense by columns.
    Everything else, including the biases of dense and dense_4h_to_h, is replicated."""
    layer, _, kind = name.replace(".original.", ".").rpartition(".")
    if layer.endswith(".attention.query_key_value"):
        return Joined("thirds", pieces)
    if layer.endswith((".mlp.dense_h_to_4h", ".attention.query_key_value.matrix_B")):
        return Joined("rows", pieces)
    if layer.endswith((".attention.dense", ".mlp.dense_4h_to_h")) and kind == "weight":
        return Joined("columns", pieces)
    if layer.endswith(".attention.dense.matrix_A"):
        return Joined("columns", pieces)
    return pieces[0]


def _component(folder: Path, layout: str) -> Header:
    files = _weight_files(folder)
    if not files:
        raise UserError(
            f"{folder}: no weights found; expected a SAT folder (with a `latest` file), a diffusers folder, or "
            "a folder with one weight file"
        )
    adapter, config = _json(folder / "adapter_config.json"), _json(folder / "config.json")
    if not layout:
        layout = "PEFT folder" if adapter else f"{_library(config)} folder" if config else f"folder of {files[0].name}"
    tensors: dict[str, Source] = {}
    metadata: dict[str, str] = {}
    for file in files:
        shard = _file(file)
        if duplicate := next((name for name in shard.tensors if name in tensors), None):
            raise UserError(f"{folder}: {duplicate} is in two files; remove the outdated one")
        tensors |= shard.tensors
        metadata |= shard.metadata
    shards = f", {len(files)} shards" if len(files) > 1 else ""
    return Header(folder, layout + shards, tensors, metadata, adapter, config)


def _library(config: dict[str, Any]) -> str:
    return "diffusers" if "_class_name" in config else "transformers"


def _weight_files(folder: Path) -> list[Path]:
    """The weight file of a folder, or the shards listed in its index. Raises UserError if ambiguous."""
    for ending in ("safetensors", "bin", "pt"):
        indexes = sorted(folder.glob(f"*.{ending}.index.json"))
        if len(indexes) == 1:
            return _shards(indexes[0])
        files = sorted(folder.glob(f"*.{ending}"))
        if files and SHARD.fullmatch(files[0].name) and not set(files) - set(shards_like(files[0])):
            return files
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise UserError(f"{folder}: contains several weight files ({names}); give the path of one of them")
        if files:
            return files
    return []


def _shards(index: Path) -> list[Path]:
    listed = (_json(index) or {}).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise UserError(f"{index}: expected `weight_map`, a mapping of tensor names to files")
    files = [inside(index.parent, name, index) for name in sorted(set(listed.values()))]
    for file in files:
        if file.parent != index.parent or not os.path.isfile(file):
            raise UserError(f"{index}: lists {file.name}, which is missing; download the folder again")
    return files


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: invalid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON mapping")
    return content

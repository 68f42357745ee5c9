"""Export formats and their writers: a network's full state, or adapters only."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogtune.checkpoints.shapes import PREFIXES
from cogtune.config.build import params_of
from cogtune.config.schema.dit import DiffusionTransformerParams
from cogtune.errors import UserError
from cogtune.model.lora import is_adapter, merge_lora
from cogtune.model.weights import lora_formats as lora
from cogtune.model.weights.diffusers import config_json, to_diffusers
from cogtune.model.weights.lora_formats import Adapter, Adapters
from cogtune.model.weights.write import write_safetensors, write_sat, write_shards
from cogtune.runtime.atomic import write_json

GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class NetworkWeights:
    """A network's weights. ``state``: with our names, with or without adapters; ``node``: its {target, params};
    ``alpha``: of the adapters, if any."""

    state: Mapping[str, Tensor]
    node: Mapping[str, Any]
    alpha: float = 1.0

    @property
    def has_adapters(self) -> bool:
        return any(map(is_adapter, self.state))

    def merged(self) -> dict[str, Tensor]:
        """The state with merged adapters, and names without adapters."""
        if not self.has_adapters:
            return dict(self.state)
        rank = next(tensor.shape[0] for name, tensor in self.state.items() if ".matrix_A." in name)
        return merge_lora(self.state, self.alpha / rank)

    def plain_node(self) -> dict[str, Any]:
        """The node without adapters."""
        params = self.node["params"]
        modules = {name: module for name, module in params["modules"].items() if name != "lora_config"}
        return {**self.node, "params": {**params, "modules": modules}}


@dataclass(frozen=True)
class Settings:
    """How to write: dtype of the tensors (None: unchanged), bytes per shard, facts for the metadata, and SAT's iteration
    and alpha."""

    dtype: torch.dtype | None = None
    shard: float = 5 * GIGABYTE
    facts: Mapping[str, Any] | None = None
    iteration: int = 1
    sat_alpha: float = 1.0

    def note(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Metadata of a safetensors header."""
        facts = {"cogtune": json.dumps(self.facts, sort_keys=True)} if self.facts else {}
        return {"format": "pt"} | facts | dict(more or {})

    def cast(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Floating-point tensors in ``dtype``."""
        if self.dtype is None:
            return dict(tensors)
        return {name: t.to(self.dtype) if t.is_floating_point() else t for name, t in tensors.items()}

    def round(self, pairs: Adapters) -> Adapters:
        """Adapters in ``dtype``; alpha unchanged."""
        dtype = self.dtype
        return pairs if dtype is None else {k: Adapter(p.A.to(dtype), p.B.to(dtype), p.alpha) for k, p in pairs.items()}


@dataclass(frozen=True)
class Format:
    """``path``: file or folder below the target folder. Exactly one of the writers is set."""

    path: str
    whole: Callable[[Path, NetworkWeights, Settings], int] | None = None
    adapters: Callable[[Path, Adapters, Settings], int] | None = None


def _diffusers(path: Path, weights: NetworkWeights, settings: Settings) -> int:
    params = params_of(weights.plain_node(), DiffusionTransformerParams)
    write_json(path / "config.json", config_json(params))
    return write_shards(path, settings.cast(to_diffusers(weights.merged(), params)), settings.note(), settings.shard)


def _sat(path: Path, weights: NetworkWeights, settings: Settings) -> int:
    return write_sat(path, _prefixed(settings.cast(weights.state)), settings.iteration, settings.facts or {})


def _merged(path: Path, weights: NetworkWeights, settings: Settings) -> int:
    return write_sat(path, _prefixed(settings.cast(weights.merged())), settings.iteration, settings.facts or {})


def _prefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {PREFIXES["network"] + name: tensor for name, tensor in state.items()}


def _diffusers_lora(path: Path, pairs: Adapters, settings: Settings) -> int:
    tensors, metadata = lora.to_diffusers_lora(pairs)
    return write_safetensors(path, tensors, settings.note(metadata))


def _folded_lora(path: Path, pairs: Adapters, settings: Settings) -> int:
    tensors, metadata = lora.to_folded_lora(pairs)
    return write_safetensors(path, tensors, settings.note(metadata))


def _peft(path: Path, pairs: Adapters, settings: Settings) -> int:
    tensors, config = lora.to_peft(pairs)
    write_json(path / lora.PEFT_CONFIG, config)
    return write_safetensors(path / lora.PEFT_FILE, tensors, settings.note())


def _kohya(path: Path, pairs: Adapters, settings: Settings) -> int:
    return write_safetensors(path, lora.to_kohya(pairs), settings.note())


def _comfyui(path: Path, pairs: Adapters, settings: Settings) -> int:
    return write_safetensors(path, lora.to_comfyui(pairs), settings.note())


def _sat_lora(path: Path, pairs: Adapters, settings: Settings) -> int:
    return write_sat(path, lora.to_sat(pairs, settings.sat_alpha), settings.iteration, settings.facts or {})


FORMATS = {
    "diffusers": Format("transformer", _diffusers),
    "sat": Format("sat", _sat),
    "merged": Format("merged", _merged),
    "diffusers_lora": Format(lora.LORA_FILE, adapters=_diffusers_lora),
    "folded_lora": Format(f"folded_lora/{lora.LORA_FILE}", adapters=_folded_lora),
    "peft": Format("peft", adapters=_peft),
    "comfyui_lora": Format("comfyui_lora.safetensors", adapters=_comfyui),
    "kohya": Format("kohya_lora.safetensors", adapters=_kohya),
    "sat_lora": Format("sat_lora", adapters=_sat_lora),
}
"""Keys as in `EXPORT_FORMATS`, which describes them."""


def write(name: str, path: Path, weights: NetworkWeights | Adapters, settings: Settings) -> int:
    """Write ``weights`` to ``path`` (a file or a folder, as the format has it); returns the bytes.

    For the LoRA formats, the adapters of a full network are extracted. Raises: UserError if the weights do not contain
    what the format needs.
    """
    form = FORMATS[name]
    if form.whole is not None:
        if not isinstance(weights, NetworkWeights):
            raise UserError(f"{name}: needs a full network, but the weights are a LoRA; give its base weights too")
        return form.whole(path, weights, settings)
    assert form.adapters is not None
    if isinstance(weights, NetworkWeights):
        if not weights.has_adapters:
            raise UserError(f"{name}: needs a LoRA, but the weights have no adapters; use diffusers or sat")
        weights = lora.pairs_of(weights.state, weights.alpha)
    return form.adapters(path, settings.round(weights), settings)

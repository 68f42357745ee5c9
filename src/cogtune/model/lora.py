"""Low-rank adapters on the attention projections, and selection of the trainable parameters.

LoRA (arXiv:2106.09685), in the layout of upstream's sat.model.finetune.lora2: the wrapped layer moves to `original`,
and each part of its output (q, k, v; or the one of `dense`) has its own pair matrix_A.{j} (r, D), matrix_B.{j} (D, r).
y_j = original(x)_j + s (lora_alpha / r) B_j A_j x. With upstream's default lora_alpha = 1 the factor is 1/r. The
strength s is 1 in training; a sample may be made with another one.

Shapes: B batch, N tokens, D hidden, R rank.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cogtune.checkpoints.shapes import ADAPTED
from cogtune.config.geometry import NETWORK_PREFIX
from cogtune.config.schema.dit import LoraParams
from cogtune.errors import UserError
from cogtune.model.blocks import TransformerLayer


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus its low-rank update; returns the same type as the layer (a tensor, or q, k, v)."""

    def __init__(self, original: nn.Linear, parts: int, params: LoraParams) -> None:
        super().__init__()
        self.original = original
        self.scale = params.lora_alpha / params.r
        self.strength = 1.0
        self.dropout = params.lora_dropout
        like = {"dtype": original.weight.dtype, "device": original.weight.device}
        out = original.out_features // parts
        self.matrix_A = nn.ParameterList(torch.empty(params.r, original.in_features, **like) for _ in range(parts))
        self.matrix_B = nn.ParameterList(torch.empty(out, params.r, **like) for _ in range(parts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for A, B in zip(self.matrix_A, self.matrix_B, strict=True):
            nn.init.kaiming_uniform_(A, a=math.sqrt(5))
            nn.init.zeros_(B)

    def forward(self, x_BND: Tensor) -> Tensor | tuple[Tensor, ...]:
        y = self.original(x_BND)
        dropped_BND = F.dropout(x_BND, self.dropout, self.training)
        if isinstance(y, Tensor):
            return self._add(y, dropped_BND, 0)
        return tuple(self._add(part, dropped_BND, j) for j, part in enumerate(y))

    def _add(self, y_BND: Tensor, x_BND: Tensor, j: int) -> Tensor:
        low_MR = F.linear(x_BND, self.matrix_A[j]).flatten(0, 1)  # M = B N
        return torch.addmm(y_BND.flatten(0, 1), low_MR, self.matrix_B[j].T, alpha=self.scale * self.strength).view_as(
            y_BND
        )


class Lora:
    """The `modules.lora_config` node: selects the layers to wrap."""

    def __init__(self, params: LoraParams) -> None:
        if params.r < 1:
            raise UserError(f"lora_config.params.r: {params.r}; expected a rank of at least 1")
        self.params = params

    def wrap(self, layers: Sequence[TransformerLayer]) -> None:
        """Add adapters to query_key_value and dense of the layers in `layer_range` (default: all), in place. Raises
        UserError for a layer that does not exist."""
        adapted_layers = range(len(layers)) if self.params.layer_range is None else self.params.layer_range
        for i in adapted_layers:
            if not 0 <= i < len(layers):
                raise UserError(f"lora_config.params.layer_range: no layer {i}; the model has {len(layers)}, from 0")
            attention = layers[i].attention
            for name, parts in ADAPTED.items():
                original = attention.get_submodule(name)
                assert isinstance(original, nn.Linear)
                setattr(attention, name, AdaptedLinear(original, parts, self.params))


def draw_adapters(model: nn.Module) -> None:
    """Initialise, in fp32, the adapters that are still on `meta` after the weights were loaded."""
    for layer in model.modules():
        if isinstance(layer, AdaptedLinear) and layer.matrix_A[0].is_meta:
            for matrices in (layer.matrix_A, layer.matrix_B):
                matrices.float().to_empty(device="cpu")
            layer.reset_parameters()


def set_strength(model: nn.Module, strength: float) -> None:
    """Multiply the updates of all adapters by ``strength``: 1 is as trained, 0 the model without the LoRA. The weights do
    not change. Raises UserError if the model has no adapters."""
    adapted = [layer for layer in model.modules() if isinstance(layer, AdaptedLinear)]
    if not adapted:
        raise UserError("the model has no LoRA, so its strength cannot be set")
    for layer in adapted:
        layer.strength = strength


def is_adapter(name: str) -> bool:
    return "matrix_A" in name or "matrix_B" in name


def set_trainable(model: nn.Module, prefixes: Iterable[str]) -> list[str]:
    """Freeze parameters; returns the names of the trainable ones, in the model's order.

    prefixes: `not_trainable_prefixes`, compared with `model.diffusion_model.<name>`; `all` freezes everything. Adapters
    are always trainable.
    Raises: UserError if nothing is trainable, or if a prefix matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen = _frozen_prefixes(names, prefixes)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.requires_grad_(True)
        elif any(p == "all" or (NETWORK_PREFIX + name).startswith(p) for p in frozen):
            parameter.requires_grad_(False)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise UserError(
            "not_trainable_prefixes freezes every weight, and there is no lora_config: nothing is trainable"
        )
    return trainable


def _frozen_prefixes(names: list[str], prefixes: Iterable[str]) -> list[str]:
    never_trained = ("first_stage_model", "conditioner")  # VAE and T5
    frozen = [p for p in prefixes if not p.startswith(never_trained)]
    for prefix in frozen:
        if prefix != "all" and not any((NETWORK_PREFIX + name).startswith(prefix) for name in names):
            raise UserError(
                f"not_trainable_prefixes: {prefix!r} matches no weight; expected `all` or the start of a name such as "
                f"{NETWORK_PREFIX + names[0]!r}"
            )
    return frozen


def merge_lora(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A state dict without adapters: W' = W + rows_j(scale B_j A_j), added in fp32, names without `.original`."""
    merged = {name.replace(".original.", "."): tensor for name, tensor in state.items() if not is_adapter(name)}
    for name in state:
        if match := re.fullmatch(r"(.+)\.matrix_A\.0", name):
            layer = match[1]
            parts = [j for j in range(3) if f"{layer}.matrix_A.{j}" in state]
            update = [state[f"{layer}.matrix_B.{j}"].float() @ state[f"{layer}.matrix_A.{j}"].float() for j in parts]
            weight = merged[f"{layer}.weight"]
            merged[f"{layer}.weight"] = (weight.float() + scale * torch.cat(update)).to(weight.dtype)
    return merged

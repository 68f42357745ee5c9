"""Putting weights of any known format into a module, all of them or none."""

from pathlib import Path

import torch
from torch import Tensor, nn

from cogtune.errors import UserError
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.lora import AdaptedLinear, is_adapter
from cogtune.model.weights.diffusers import from_diffusers
from cogtune.model.weights.files import WeightFile, read_weights
from cogtune.model.weights.lora_formats import from_diffusers_lora, is_diffusers_lora

_SHOWN = 8  # names per list in a message


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Loads `path` into `module`; what the file is, its content says.

    Known: a SAT folder or its mp_rank_XX_model_states.pt (tensor-parallel ranks are merged; T5 and VAE inside are
    passed over), a torch file with `state_dict`, safetensors in our names, a diffusers pipeline or transformer
    folder, a LoRA file of diffusers. A base checkpoint loads into a model with adapters, which then keep their initial
    values; a LoRA file replaces the adapters only. Parameters on `meta` become the file's tensors.
    Raises: UserError that lists missing and unexpected names and wrong shapes; the module is then unchanged.
    """
    file = read_weights(path)
    if is_diffusers_lora(file.tensors):
        _load_adapters(module, file)
        return
    state = _in_our_names(module, file)
    own = module.state_dict()
    if not any(map(is_adapter, state)):
        state = _under_adapters(state, own)
        adapters = {name: tensor for name, tensor in own.items() if is_adapter(name)}
        state = adapters | state
    _load_strictly(module, state, own, file.source)


def _in_our_names(module: nn.Module, file: WeightFile) -> dict[str, Tensor]:
    prefix = getattr(module, "checkpoint_prefix", "")
    tensors = file.tensors
    if prefix and any(name.startswith(prefix) for name in tensors):
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if any(name.startswith("transformer_blocks.") for name in tensors):
        tables = module.derived_state() if isinstance(module, DiffusionTransformer) else {}
        return tables | from_diffusers(tensors)
    return dict(tensors)


def _under_adapters(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames `….query_key_value.weight` to `….query_key_value.original.weight` where the model has it so."""
    wrapped = {name.replace(".original.", "."): name for name in own if ".original." in name}
    return {wrapped.get(name, name): tensor for name, tensor in state.items()}


def _load_adapters(module: nn.Module, file: WeightFile) -> None:
    adapters, scale = from_diffusers_lora(file.tensors, file.metadata)
    own = module.state_dict()
    ours = {name: layer.scale for name, layer in module.named_modules() if isinstance(layer, AdaptedLinear)}
    if not ours:
        raise UserError(f"{file.source}: a LoRA, but the model has no adapters; add modules.lora_config to the YAML")
    for name, tensor in adapters.items():
        layer = name.partition(".matrix_B")[0]
        if ".matrix_B" in name and layer in ours:  # the file's strength, whatever alpha the YAML gives
            adapters[name] = tensor * (scale / ours[layer])
    base = {name: tensor for name, tensor in own.items() if not is_adapter(name)}
    _load_strictly(module, base | adapters, own, file.source)


def _load_strictly(module: nn.Module, state: dict[str, Tensor], own: dict[str, Tensor], source: Path) -> None:
    shapes = [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in state and not _same_shape(name, state[name], tensor)
    ]
    lists = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    if any(lists.values()):
        found = "\n".join(_listed(title, names) for title, names in lists.items() if names)
        raise UserError(
            f"{source}: these weights do not belong to the configured model.\n{found}\n"
            "Use the YAML of the same family (2B, 5B, 5B-I2V, 1.5, 1.5-I2V), or other weights."
        )
    on_meta = any(tensor.is_meta for tensor in own.values())
    with torch.no_grad():
        module.load_state_dict(state, strict=True, assign=on_meta)


def _same_shape(name: str, given: Tensor, wanted: Tensor) -> bool:
    if name.endswith("patch_embed.proj.weight") and given.ndim == 4:  # the convolution of 1.0 checkpoints
        return given.flatten(1).shape == wanted.shape
    return given.shape == wanted.shape


def _listed(title: str, names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"  {title} ({len(names)}): {', '.join(names[:_SHOWN])}{more}"

"""Load weights of any supported format into a module."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cogtune.checkpoints import Header, Source, fit, kinds, read_header
from cogtune.checkpoints.lora import Lora, our_name, read_lora
from cogtune.checkpoints.shapes import Shape
from cogtune.errors import UserError
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.lora import AdaptedLinear, is_adapter
from cogtune.model.weights.read import read, read_into
from cogtune.runtime.sums import check_sums


def load_weights(module: nn.Module, path: str | Path, ignore: tuple[str, ...] = ()) -> None:
    """Load `path` into `module`. The format is detected from the content, as by `cogtune weights inspect`.

    Supported: a SAT folder or its mp_rank_XX_model_states.pt (tensor-parallel ranks are merged; T5 and VAE in it are
    ignored), a torch file with `state_dict`, safetensors with our names, a diffusers pipeline or component folder,
    a LoRA file of SAT, diffusers, PEFT, kohya, ComfyUI. A base checkpoint loads into a model with adapters, which then
    keep their initial values; a LoRA file replaces the adapters only. Parameters on `meta` are allocated, in their dtype.
    Names that start with one of ``ignore`` are skipped. Tensors are read one by one, so that memory grows by the model
    and its largest tensor.
    If there is a SHA256SUMS, the files are verified first.
    Raises: UserError that lists missing and unexpected names and wrong shapes; the module is then unchanged. Damaged
    data is detected during reading, and leaves the module partly loaded.
    """
    check_sums(Path(path))
    prefix = getattr(module, "checkpoint_prefix", "")
    header = read_header(path, component="vae" if prefix == "first_stage_model." else "transformer")
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if kinds.roles(header) == ["lora"]:
        _load_lora(module, expected, header)
        return
    sources = kinds.component(header, prefix)
    sources = {name: source for name, source in sources.items() if not name.startswith(ignore)}
    computed: dict[str, Tensor] = {}
    if isinstance(module, DiffusionTransformer):
        computed = {name: table for name, table in module.derived_state().items() if name not in sources}
    optional: set[str] = set()
    if not any(map(is_adapter, sources)):
        sources = fit.under_adapters(sources, expected)
        optional = {name for name in expected if is_adapter(name)}
    _check(header, expected, sources, optional | computed.keys(), getattr(module, "params", None))
    _fill(module, sources, computed)


def _load_lora(module: nn.Module, expected: dict[str, Shape], header: Header) -> None:
    lora = read_lora(header)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, AdaptedLinear)}
    if not layers:
        raise UserError(f"{header.path}: is a LoRA, but the model has no adapters; add modules.lora_config to the YAML")
    sources = {our_name(*target, side): getattr(pair, side) for target, pair in lora.adapters.items() for side in "AB"}
    adapters = {name: shape for name, shape in expected.items() if is_adapter(name)}
    _check(header, adapters, sources, set())
    _fill(module, sources, {}, _strengths(lora, layers))


def _strengths(lora: Lora, layers: dict[str, AdaptedLinear]) -> dict[str, float]:
    """Factor of each matrix B that gives the file's scale, independent of the YAML's alpha. SAT's files have no alpha: the
    YAML's is used."""
    factors: dict[str, float] = {}
    for target, pair in lora.adapters.items():
        name = our_name(*target, "B")
        if pair.scale is not None:
            factors[name] = pair.scale / layers[name.partition(".matrix_B")[0]].scale
    return factors


def _check(
    header: Header, expected: dict[str, Shape], sources: dict[str, Source], optional: set[str], params: object = None
) -> None:
    misfit = fit.compare(expected, sources, optional)
    misfit = replace(misfit, contradicted=fit.contradictions(params, header.config))
    if misfit:
        raise UserError(fit.refusal(header.path, misfit, expected, sources))


@torch.no_grad()
def _fill(
    module: nn.Module,
    sources: dict[str, Source],
    computed: dict[str, Tensor],
    factors: dict[str, float] | None = None,
) -> None:
    for name in [*sources, *computed]:
        holder, _, key = name.rpartition(".")
        owner = module.get_submodule(holder)
        slot = getattr(owner, key)
        factor = (factors or {}).get(name, 1.0)
        if name in sources and not slot.is_meta and factor == 1.0 and slot.device.type == "cpu":
            read_into(sources[name], slot.view(sources[name].shape))
            continue
        value = (read(sources[name]) if name in sources else computed[name]).reshape(slot.shape)
        value = value if factor == 1.0 else value * factor
        value = value.to(slot.dtype)
        if not slot.is_meta:
            slot.copy_(value)
        elif isinstance(slot, nn.Parameter):
            setattr(owner, key, nn.Parameter(value.contiguous(), requires_grad=slot.requires_grad))
        else:
            setattr(owner, key, value.contiguous())

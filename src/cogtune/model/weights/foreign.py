"""Round-trip check of exports: load them with diffusers and PEFT, run one step, and compare the outputs.

If diffusers or PEFT is not installed, the check reports this instead of passing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from cogtune.config.geometry import latent_frames
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.lora import is_adapter
from cogtune.model.weights.diffusers import config_json, to_diffusers
from cogtune.model.weights.lora_formats import LORA_FILE

_LAST_EPSILON = 1e-6


@dataclass(frozen=True)
class Probe:
    """One step's inputs: latent (1, T, C, H, W), timestep (1,), caption states (1, L, D)."""

    x_BTCHW: Tensor
    timesteps_B: Tensor
    context_BLD: Tensor


def probe_of(network: DiffusionTransformer) -> Probe:
    """Deterministic inputs for ``network``: medium noise, one patch of frames, at most 16 x 16 latent pixels.

    Position tables fit the configured height and width only. diffusers uses a learned table for the configured number
    of frames only, and skips it for fewer.
    """
    params, table = network.params, network.mixins.pos_embed.pos_embedding
    frames, sides = network.patch_size[0], (params.latent_height, params.latent_width)
    height, width = sides if table is not None else (min(side, 16) for side in sides)
    if table is not None and table.requires_grad:
        frames = latent_frames(params.num_frames, params.time_compressed_rate)
    draw = torch.Generator().manual_seed(0)
    x_BTCHW = torch.randn(1, frames, params.in_channels, height, width, generator=draw)
    text = network.mixins.patch_embed.text_proj.in_features
    return Probe(
        x_BTCHW, torch.tensor([500]), torch.randn(1, network.mixins.pos_embed.text_length, text, generator=draw)
    )


@torch.no_grad()
def output(network: DiffusionTransformer, probe: Probe, device: torch.device) -> Tensor:
    """The output of cogtune's network, on the CPU; the network is not moved."""
    moved = {name: tensor.to(device) for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    inputs = (probe.x_BTCHW.to(device), probe.timesteps_B.to(device), probe.context_BLD.to(device))
    return functional_call(network.eval(), moved, inputs).cpu()


@torch.no_grad()
def twin_output(twin: Any, probe: Probe, device: torch.device) -> Tensor:
    """The output of a CogVideoXTransformer3DModel in fp32, on the CPU. Rotary tables and `ofs` are the ones
    of its pipelines, with SAT's positions: integers from 0."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    config, x_BTCHW, rotary = twin.config, probe.x_BTCHW, None
    if config.use_rotary_positional_embeddings:
        frames = x_BTCHW.shape[1] // (config.patch_size_t or 1)
        grid = (x_BTCHW.shape[3] // config.patch_size, x_BTCHW.shape[4] // config.patch_size)
        rotary = get_3d_rotary_pos_embed(
            config.attention_head_dim, None, grid, frames, grid_type="slice", max_size=grid, device=device
        )
    ofs = torch.full((1,), 2.0, device=device) if config.ofs_embed_dim else None
    twin.eval().float().to(device)
    inputs = (probe.x_BTCHW.to(device), probe.context_BLD.to(device), probe.timesteps_B.to(device))
    return twin(*inputs, ofs=ofs, image_rotary_emb=rotary, return_dict=False)[0].cpu()


@dataclass(frozen=True)
class Loaded:
    """``loader``: library and version; "none" if no library can load the file, then ``why``. ``output``: of the loaded
    network; ``like_ours``: with SAT's epsilon of the last norm, 1e-6, where diffusers always uses 1e-5."""

    loader: str
    output: Tensor | None = None
    like_ours: Tensor | None = None
    why: str = ""


def load_and_run(form: str, path: Path, base: DiffusionTransformer, probe: Probe, device: torch.device) -> Loaded:
    """Load ``path``, in the format ``form``, with its library. ``base``: cogtune's network with the base weights of a
    LoRA."""
    if form not in _LOADERS:
        return Loaded("none", why="no library loads this format into a CogVideoX model")
    packages, load = _LOADERS[form]
    try:
        names = [f"{package} {version(package)}" for package in packages]
    except PackageNotFoundError as error:
        return Loaded("none", why=f"{error.name} is not installed")
    twin = load(path, base)
    as_loaded = twin_output(twin, probe, device)
    twin.norm_out.norm.eps = _LAST_EPSILON
    return Loaded(", ".join(names), as_loaded, twin_output(twin, probe, device))


def _from_pretrained(path: Path, base: DiffusionTransformer) -> Any:
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
    from diffusers.utils import logging

    logging.disable_progress_bar()
    return CogVideoXTransformer3DModel.from_pretrained(path, local_files_only=True)


def _base_twin(base: DiffusionTransformer) -> Any:
    """diffusers' network sharing the memory of ``base``; accelerate is a dependency of PEFT."""
    from accelerate import init_empty_weights
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel

    under = {n.replace(".original.", "."): tensor for n, tensor in base.state_dict().items() if not is_adapter(n)}
    config: Mapping[str, Any] = config_json(base.params)
    with init_empty_weights(include_buffers=False):
        twin: Any = CogVideoXTransformer3DModel(**{key: value for key, value in config.items() if key != "_class_name"})
    twin.load_state_dict(to_diffusers(under, base.params), strict=True, assign=True)
    return twin


def _load_lora_weights(path: Path, base: DiffusionTransformer) -> Any:
    from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin

    class Pipeline(CogVideoXLoraLoaderMixin):
        """The parts of a pipeline that its LoRA loader uses."""

        hf_device_map = None

        def __init__(self, transformer: Any) -> None:
            self.transformer, self.components = transformer, {"transformer": transformer}

    twin = _base_twin(base)
    Pipeline(twin).load_lora_weights(str(path.parent), weight_name=LORA_FILE)
    return twin


def _from_peft(path: Path, base: DiffusionTransformer) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(_base_twin(base), str(path)).get_base_model()


_LOADERS: dict[str, tuple[tuple[str, ...], Callable[[Path, DiffusionTransformer], Any]]] = {
    "diffusers": (("diffusers",), _from_pretrained),
    "diffusers_lora": (("diffusers", "peft"), _load_lora_weights),
    "folded_lora": (("diffusers", "peft"), _load_lora_weights),
    "peft": (("diffusers", "peft"), _from_peft),
}

"""The formats that an export adds to its default one."""

from collections.abc import Mapping
from typing import Any

from cogtune.config.build import params_of
from cogtune.config.diffusers_limits import refusal
from cogtune.config.schema.dit import DiffusionTransformerParams

COMFYUI = "comfyui_lora"
BESIDE_DEFAULT = {"diffusers_lora": (COMFYUI,)}
"""Default format -> formats that are always written beside it."""


def export_formats(values: Mapping[str, Any]) -> list[str]:
    """``args.export_formats``, and for a LoRA that diffusers can compute also ComfyUI's: a file of a few megabytes that
    most users of a LoRA need. ``values``: a merged config."""
    formats = list(values["args"]["export_formats"])
    network = params_of(values["model"]["network_config"])
    if not isinstance(network, DiffusionTransformerParams):
        return formats
    is_lora = bool(network.modules.get("lora_config")) and refusal(network) is None
    return [*formats, COMFYUI] if is_lora and COMFYUI not in formats else formats

"""The formats that an export adds to its default one."""

from collections.abc import Iterable, Mapping
from typing import Any

from cogtune.config.build import params_of
from cogtune.config.diffusers_limits import refusal
from cogtune.config.schema.dit import DiffusionTransformerParams

BESIDE_DEFAULT = {"diffusers_lora": ("comfyui_lora",)}
"""Default format -> formats that are always written beside it."""


def written_formats(default: str, formats: Iterable[str]) -> list[str]:
    """What an export with ``args.export_formats`` writes: also the ``default`` format, and those beside it."""
    return list(dict.fromkeys([default, *BESIDE_DEFAULT.get(default, ()), *formats]))


def export_formats(values: Mapping[str, Any]) -> list[str]:
    """``args.export_formats``, and for a LoRA that diffusers can compute also ComfyUI's: a file of a few megabytes that
    most users of a LoRA need. ``values``: a merged config."""
    formats = list(values["args"]["export_formats"])
    network = params_of(values["model"]["network_config"])
    if not isinstance(network, DiffusionTransformerParams):
        return formats
    if not network.modules.get("lora_config") or refusal(network) is not None:
        return formats
    return list(dict.fromkeys([*formats, *BESIDE_DEFAULT["diffusers_lora"]]))

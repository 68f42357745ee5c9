"""The section "Use it" of a report: lines for diffusers, and the files for ComfyUI."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogtune.evaluation.report.report_data import Copied, Exported, Use

PIPELINES = {
    "CogVideoX-2B": "THUDM/CogVideoX-2b",
    "CogVideoX-5B": "THUDM/CogVideoX-5b",
    "CogVideoX-5B-I2V": "THUDM/CogVideoX-5b-I2V",
    "CogVideoX1.5-5B": "THUDM/CogVideoX1.5-5B",
    "CogVideoX1.5-5B-I2V": "THUDM/CogVideoX1.5-5B-I2V",
}
"""Published diffusers pipelines by the name of `setup.model_name`."""
OWN_PIPELINE = "base-pipeline"
"""Stands in the lines for the pipeline of a model that is not published."""
OWN_TRANSFORMER = "base-transformer"


@dataclass(frozen=True)
class Base:
    """The weights that a LoRA was trained on. ``pipeline``: the folder or Hub name of the published pipeline;
    ``transformer``: the folder of other weights in its place, if any."""

    pipeline: str
    transformer: str | None = None


@dataclass(frozen=True)
class Clip:
    """A video to generate. ``dynamic``: whether the guidance varies with the step; ``dtype``: of torch; ``image``: whether
    the model needs a first frame."""

    caption: str
    height: int
    width: int
    frames: int
    fps: float
    steps: int
    guidance: float
    dynamic: bool
    dtype: str
    image: bool = False


def use(experiment: str, folder: str, root: Path, exports: Sequence[Exported], base: Base, clip: Clip) -> Use:
    """How to use the files in ``folder``, a path relative to ``root``."""
    by_format = {entry.format: entry for entry in exports}
    notes = []
    if "diffusers_lora" in by_format:
        python = _lora_lines(folder, by_format["diffusers_lora"].path, base, clip)
        notes.append("Strength 1 gives the trained result; a lower value weakens it. Do not multiply by alpha / rank.")
    elif "diffusers" in by_format:
        python = _network_lines(f"{folder}/{by_format['diffusers'].path}", base, clip)
    else:
        return Use(folder, str(root), ["diffusers cannot compute this network, so the weights are in SAT's format."])
    if base.pipeline == OWN_PIPELINE:
        notes.append(
            f"Replace {OWN_PIPELINE} by the folder of a diffusers pipeline with the text encoder and the VAE of your base model."
        )
    if OWN_TRANSFORMER in python:
        notes.append(
            f"This LoRA was trained on the result of another experiment. Export that one with args.export_formats: "
            f"[diffusers], and replace {OWN_TRANSFORMER} by its transformer/ folder."
        )
    return Use(folder, str(root), notes, python, _comfyui(experiment, folder, by_format))


def _lora_lines(folder: str, file: str, base: Base, clip: Clip) -> str:
    load = [
        f'pipe.load_lora_weights({_text(folder)}, weight_name={_text(file)}, adapter_name="tuned")',
        'pipe.set_adapters("tuned", 1.0)  # the strength',
    ]
    return _lines(base, clip, load)


def _network_lines(transformer: str, base: Base, clip: Clip) -> str:
    return _lines(Base(base.pipeline, transformer), clip, [])


def _lines(base: Base, clip: Clip, load: Sequence[str]) -> str:
    pipeline = "CogVideoXImageToVideoPipeline" if clip.image else "CogVideoXPipeline"
    dtype, functions = f"torch.{clip.dtype}", "export_to_video, load_image" if clip.image else "export_to_video"
    names, with_transformer, given = pipeline, [], ""
    if base.transformer:
        names = f"{pipeline}, CogVideoXTransformer3DModel"
        source = f"{_text(base.transformer)}, torch_dtype={dtype}"
        with_transformer = [f"transformer = CogVideoXTransformer3DModel.from_pretrained({source})"]
        given = "transformer=transformer, "
    first = 'image=load_image("first-frame.png"), ' if clip.image else ""
    dynamic = ", use_dynamic_cfg=True" if clip.dynamic else ""
    size = f"height={clip.height}, width={clip.width}, num_frames={clip.frames}"
    return "\n".join(
        [
            "import torch",
            f"from diffusers import {names}",
            f"from diffusers.utils import {functions}",
            "",
            *with_transformer,
            f"pipe = {pipeline}.from_pretrained({_text(base.pipeline)}, {given}torch_dtype={dtype})",
            *load,
            'pipe.to("cuda" if torch.cuda.is_available() else "cpu")',
            "video = pipe(",
            f"    {_text(clip.caption)},",
            f"    {first}{size},",
            f"    num_inference_steps={clip.steps}, guidance_scale={clip.guidance:g}{dynamic},",
            ").frames[0]",
            f'export_to_video(video, "sample.mp4", fps={clip.fps:g})',
            "",
        ]
    )


def _comfyui(experiment: str, folder: str, by_format: dict[str, Exported]) -> list[Copied]:
    targets = (
        ("comfyui_lora", "ComfyUI's own CogVideoX nodes, node LoraLoaderModelOnly", "models/loras"),
        ("folded_lora", "kijai's CogVideoXWrapper, node CogVideo LoRA Select", "models/CogVideo/loras"),
        ("diffusers", "loaders of a diffusers transformer, such as CogVideoX Model Loader", "models/diffusion_models"),
    )
    return [
        Copied(what, f"{folder}/{by_format[name].path}", f"ComfyUI/{target}/{experiment}{_ending(name)}")
        for name, what, target in targets
        if name in by_format
    ]


def _ending(name: str) -> str:
    return "/" if name == "diffusers" else ".safetensors"


def _text(value: str) -> str:
    """A Python string literal in double quotes: JSON's are."""
    return json.dumps(value, ensure_ascii=False)

"""The section "Use it" of a report: lines for diffusers, and the files for ComfyUI."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cogtune.evaluation.report.report_data import Copied, Exported, Use

_TOKENS = 226
"""Length of captions in diffusers, unless the lines give another."""
OWN_PIPELINE = "base-pipeline"
"""Stands in the lines for the pipeline of a model that is not published."""
OWN_TRANSFORMER = "base-transformer"


@dataclass(frozen=True)
class Base:
    """The weights that a LoRA was trained on. ``pipeline``: the folder or Hub name of the published pipeline;
    ``transformer``: the folder of other weights in its place, if any; ``text_encoder``: the folders of T5 and of its
    tokenizer, if the pipeline's folder has none."""

    pipeline: str
    transformer: str | None = None
    text_encoder: tuple[str, str] | None = None


@dataclass(frozen=True)
class Clip:
    """A video to generate. ``dynamic``: whether the guidance varies with the step; ``dtype``: of torch; ``image``: whether
    the model needs a first frame; ``tokens``: length of the captions that it was trained on."""

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
    tokens: int = _TOKENS


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
    return _lines(replace(base, transformer=transformer), clip, [])


def _lines(base: Base, clip: Clip, load: Sequence[str]) -> str:
    pipeline = "CogVideoXImageToVideoPipeline" if clip.image else "CogVideoXPipeline"
    dtype, functions = f"torch.{clip.dtype}", "export_to_video, load_image" if clip.image else "export_to_video"
    names, with_transformer, given = pipeline, [], ""
    imports, with_t5 = _t5_lines(base, dtype)
    if base.transformer:
        names = f"{pipeline}, CogVideoXTransformer3DModel"
        source = f"{_text(base.transformer)}, torch_dtype={dtype}"
        with_transformer = [f"transformer = CogVideoXTransformer3DModel.from_pretrained({source})"]
        given = "transformer=transformer, "
    if with_t5:
        given += "**t5, "
    first = 'image=load_image("first-frame.png"), ' if clip.image else ""
    dynamic = ", use_dynamic_cfg=True" if clip.dynamic else ""
    size = f"height={clip.height}, width={clip.width}, num_frames={clip.frames}"
    tokens = f", max_sequence_length={clip.tokens}" if clip.tokens != _TOKENS else ""
    return "\n".join(
        [
            "import torch",
            f"from diffusers import {names}",
            f"from diffusers.utils import {functions}",
            *imports,
            "",
            *with_t5,
            *with_transformer,
            f"pipe = {pipeline}.from_pretrained({_text(base.pipeline)}, {given}torch_dtype={dtype})",
            *load,
            'pipe.to("cuda" if torch.cuda.is_available() else "cpu")',
            "video = pipe(",
            f"    {_text(clip.caption)},",
            f"    {first}{size},",
            f"    num_inference_steps={clip.steps}, guidance_scale={clip.guidance:g}{dynamic}{tokens},",
            ").frames[0]",
            f'export_to_video(video, "sample.mp4", fps={clip.fps:g})',
            "",
        ]
    )


def _t5_lines(base: Base, dtype: str) -> tuple[list[str], list[str]]:
    """The import and the lines that load T5 from a folder of its own; empty if the pipeline has it."""
    if base.text_encoder is None:
        return [], []
    weights, tokenizer = map(_text, base.text_encoder)
    return ["from transformers import AutoTokenizer, T5EncoderModel"], [
        "t5 = {",
        f'    "tokenizer": AutoTokenizer.from_pretrained({tokenizer}),',
        f'    "text_encoder": T5EncoderModel.from_pretrained({weights}, torch_dtype={dtype}),',
        "}",
    ]


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

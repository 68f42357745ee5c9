"""Keys that must fit each other. Each check reads canonical values and says which key is wrong, and what would fit."""

from collections.abc import Callable, Iterator
from typing import Any

from cogtune.config import deepspeed_limits
from cogtune.config.registry import kind

Problem = tuple[str, str]
_VAE_STRIDE = 8
"""Pixels to one latent pixel, in height and width."""
_VAE_RATE = 4
"""Pixel frames to one latent frame, after the first."""

_NETWORK = "model.network_config.params"
_POSITIONS = f"{_NETWORK}.modules.pos_embed_config.params"
_VAE = "model.first_stage_config.params"
_SCHEDULES = ("denoiser_config.params", "loss_fn_config.params.sigma_sampler_config.params", "sampler_config.params")
"""Where a noise schedule stands in `model`."""
_SCHEDULE = "discretization_config.params"
_T5 = "model.conditioner_config.params.emb_models.0.params"


class _Missing(Exception):  # noqa: N818  a key that is wrong or absent is reported elsewhere; nothing to compare
    pass


class Values:
    """Canonical values by dotted path; a path that is not there ends the check that asked for it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, path: str) -> Any:
        found = self.get(path, _Missing)
        if found is _Missing:
            raise _Missing
        return found

    def get(self, path: str, default: Any = None) -> Any:
        found: Any = self._values
        for part in path.split("."):
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                return default
        return found


def cross_check(values: dict[str, Any]) -> tuple[list[Problem], list[str]]:
    """(key, message) of every contradiction, and remarks on what is legal but surprising."""
    at = Values(values)
    problems = [problem for check in _CHECKS for problem in _run(check, at)]
    remarks = [remark for check in _REMARKS for remark in _run(check, at)]
    return problems, remarks


def _run(check: Callable[[Values], Iterator[Any]], at: Values) -> Iterator[Any]:
    try:
        yield from check(at)
    except _Missing:
        return


def _frames(at: Values) -> Iterator[Problem]:
    frames = at["data.params.max_num_frames"]
    if frames % _VAE_RATE != 1:
        below = max(frames - 1, 0) // _VAE_RATE * _VAE_RATE + 1
        fitting = f"{below} or {below + _VAE_RATE}"
        yield "data.params.max_num_frames", f"{frames}; the VAE takes 4k + 1 frames: {fitting}"
    if at[f"{_NETWORK}.time_compressed_rate"] != _VAE_RATE:
        yield (
            f"{_NETWORK}.time_compressed_rate",
            f"{at[f'{_NETWORK}.time_compressed_rate']}; the VAE compresses {_VAE_RATE} frames to one",
        )


def _size(at: Values) -> Iterator[Problem]:
    _, *patch = at[f"{_NETWORK}.patch_size"]
    for name, pixels, size in zip(("height", "width"), at["data.params.video_size"], patch, strict=True):
        multiple = _VAE_STRIDE * size
        if pixels % multiple:
            near = f"{pixels // multiple * multiple} or {pixels // multiple * multiple + multiple}"
            yield "data.params.video_size", f"{name} {pixels} is no multiple of {multiple}; expected {near}"


def _fixed_grid(at: Values) -> Iterator[Problem]:
    """Sine-cosine and learned tables hold for one height and width, and for at most the configured frames."""
    target = kind(at["model.network_config.params.modules.pos_embed_config.target"])
    if target != "Basic3DPositionEmbedding" and not at.get(f"{_POSITIONS}.learnable_pos_embed"):
        return
    table = "sine-cosine" if target == "Basic3DPositionEmbedding" else "learned"
    want = [at[f"{_NETWORK}.latent_{side}"] * _VAE_STRIDE for side in ("height", "width")]
    size = at["data.params.video_size"]
    if size != want:
        yield (
            "data.params.video_size",
            f"{size}; the {table} positions are made for {want} (latent_height, latent_width x {_VAE_STRIDE})",
        )
    frames, most = at["data.params.max_num_frames"], at[f"{_NETWORK}.num_frames"]
    if frames > most:
        yield (
            "data.params.max_num_frames",
            f"{frames} frames; the {table} positions are made for at most {most} (num_frames)",
        )


def _patch(at: Values) -> Iterator[Problem]:
    for side, size in zip(("height", "width"), at[f"{_NETWORK}.patch_size"][1:], strict=True):
        if at[f"{_NETWORK}.latent_{side}"] % size:
            yield (
                f"{_NETWORK}.latent_{side}",
                f"{at[f'{_NETWORK}.latent_{side}']} is no multiple of the patch size {size}",
            )


def _channels(at: Values) -> Iterator[Problem]:
    z, out = at[f"{_VAE}.encoder_config.params.z_channels"], at[f"{_NETWORK}.out_channels"]
    if at[f"{_VAE}.decoder_config.params.z_channels"] != z:
        yield f"{_VAE}.decoder_config.params.z_channels", f"expected the encoder's z_channels, {z}"
    if out != z:
        yield f"{_NETWORK}.out_channels", f"{out}; expected {z}, the VAE's z_channels"
    image = at["model.noised_image_input"]
    want = 2 * z if image else z
    if at[f"{_NETWORK}.in_channels"] != want:
        why = (
            f"{z} of noise and {z} of the image, since noised_image_input is true" if image else "the VAE's z_channels"
        )
        hint = (
            ""
            if image or at[f"{_NETWORK}.in_channels"] != 2 * z
            else "; for image-to-video set model.noised_image_input: true"
        )
        yield f"{_NETWORK}.in_channels", f"{at[f'{_NETWORK}.in_channels']}; expected {want}, {why}{hint}"


def _groups(at: Values) -> Iterator[Problem]:
    for part in ("encoder_config", "decoder_config"):
        ch, mults, groups = (at[f"{_VAE}.{part}.params.{name}"] for name in ("ch", "ch_mult", "num_groups"))
        odd = [ch * mult for mult in mults if ch * mult % groups]
        if odd:
            yield (
                f"{_VAE}.{part}.params.num_groups",
                f"{groups} does not divide {odd[0]} channels (ch x ch_mult)",
            )


def _tiles(at: Values) -> Iterator[Problem]:
    for part in ("encode", "decode"):
        size, overlap = at.get(f"{_VAE}.{part}_tile_size"), at.get(f"{_VAE}.{part}_tile_overlap")
        if not size:
            continue
        if any(pixels % _VAE_STRIDE for pixels in size):
            yield f"{_VAE}.{part}_tile_size", f"{size}; expected multiples of {_VAE_STRIDE}"
        if overlap % _VAE_STRIDE or overlap >= min(size):
            yield (
                f"{_VAE}.{part}_tile_overlap",
                f"{overlap}; expected a multiple of {_VAE_STRIDE} below the tile's {min(size)}",
            )


def _text(at: Values) -> Iterator[Problem]:
    if len(at["model.conditioner_config.params.emb_models"]) != 1:
        yield "model.conditioner_config.params.emb_models", "expected one text encoder"
    length, tokens = at[f"{_POSITIONS}.text_length"], at[f"{_T5}.max_length"]
    if length != tokens:
        yield f"{_POSITIONS}.text_length", f"{length}; expected {tokens}, the text encoder's max_length"


def _heads(at: Values) -> Iterator[Problem]:
    hidden, heads = at[f"{_NETWORK}.hidden_size"], at[f"{_NETWORK}.num_attention_heads"]
    if hidden % heads:
        yield f"{_NETWORK}.hidden_size", f"{hidden} is no multiple of num_attention_heads, {heads}"
        return
    sized = at.get(f"{_POSITIONS}.hidden_size_head")
    if sized is not None and sized != hidden // heads:
        yield (
            f"{_POSITIONS}.hidden_size_head",
            f"{sized}; expected hidden_size / num_attention_heads, {hidden // heads}",
        )
    if sized is not None and sized % 16:
        yield f"{_POSITIONS}.hidden_size_head", f"{sized}; rotary positions need a multiple of 16"
    if sized is None and hidden % 16:
        yield f"{_NETWORK}.hidden_size", f"{hidden}; sine-cosine positions need a multiple of 16"


def _ofs(at: Values) -> Iterator[Problem]:
    ofs, time = at[f"{_NETWORK}.ofs_embed_dim"], at[f"{_NETWORK}.time_embed_dim"] or at[f"{_NETWORK}.hidden_size"]
    if ofs is not None and ofs != time:
        yield f"{_NETWORK}.ofs_embed_dim", f"{ofs} is added to the timestep embedding; expected time_embed_dim, {time}"


def _timestep(at: Values) -> Iterator[Problem]:
    if at["model.denoiser_config.params.quantize_c_noise"]:
        yield (
            "model.denoiser_config.params.quantize_c_noise",
            "true; expected false: VideoScaling's timestep is an index already",
        )


def _images(at: Values) -> Iterator[Problem]:
    takes_image, named = at["model.noised_image_input"], at["args.image2video"]
    if named and not takes_image:
        yield (
            "args.image2video",
            "true, but the model takes no image; use an image-to-video model file, or set it to false",
        )
    if takes_image and not named and at.get("args.input_type") == "txt":
        yield "args.image2video", "false, but the model needs an image; set it to true, with `prompt@@image` lines"


_ADAPTERS = (
    "modules:\n        lora_config:\n          target: sat.model.finetune.lora2.LoraMixin\n          params: {r: 128}"
)


def _lora(at: Values) -> Iterator[Problem]:
    if at.get(f"{_NETWORK}.modules.lora_config"):
        layers, chosen = at[f"{_NETWORK}.num_layers"], at[f"{_NETWORK}.modules.lora_config.params.layer_range"]
        if chosen and max(chosen) >= layers:
            key = f"{_NETWORK}.modules.lora_config.params.layer_range"
            yield key, f"no layer {max(chosen)}; there are {layers}, counted from 0"
        return
    missing = f"without {_NETWORK}.modules.lora_config nothing would train; add under {_NETWORK}:\n      {_ADAPTERS}"
    if at["model.lora_train"]:
        yield "model.lora_train", f"true; {missing}"
    elif "all" in at["model.not_trainable_prefixes"] and at.get("args.mode") != "inference":
        yield "model.not_trainable_prefixes", f"all; {missing}"


def _precision(at: Values) -> Iterator[Problem]:
    if at["args.mode"] != "inference" and at["deepspeed.bf16.enabled"] and at["deepspeed.fp16.enabled"]:
        yield "deepspeed.fp16.enabled", "true, and bf16.enabled as well; turn one of them off"
    elif at["args.fp16"] and at["args.bf16"]:
        yield "args.fp16", "true, and bf16 as well; turn one of them off"


def _deepspeed(at: Values) -> Iterator[Problem]:
    if at["args.mode"] != "inference":
        for key, message in deepspeed_limits.refused(at["deepspeed"]):
            yield f"deepspeed.{key}", message


def _length(at: Values) -> Iterator[Problem]:
    if at["args.train_iters"] is not None and at["args.epochs"] is not None:
        yield (
            "args.epochs",
            f"{at['args.epochs']}, and train_iters {at['args.train_iters']} as well; set one of them to null",
        )


def _batch(at: Values) -> Iterator[Problem]:
    total, micro = at["args.global_batch_size"], at["deepspeed.train_micro_batch_size_per_gpu"]
    if total is not None and micro is not None and micro > total and at["args.mode"] != "inference":
        yield (
            "deepspeed.train_micro_batch_size_per_gpu",
            f"{micro} clips in one pass, but a step has {total} (args.global_batch_size); set it to {total} or less",
        )


def _timesteps(at: Values) -> Iterator[Problem]:
    """The network is told a clip's place in the table, so the table has to have all of the schedule's timesteps."""
    for part in ("denoiser_config.params", "loss_fn_config.params.sigma_sampler_config.params"):
        have, total = at.get(f"model.{part}.num_idx"), at.get(f"model.{part}.{_SCHEDULE}.num_timesteps")
        if None not in (have, total) and have != total:
            yield f"model.{part}.num_idx", f"{have}; expected {total}, the num_timesteps of its noise schedule"
    for part in _SCHEDULES:
        start, end = (at.get(f"model.{part}.{_SCHEDULE}.linear_{name}") for name in ("start", "end"))
        if None not in (start, end) and start >= end:
            yield f"model.{part}.{_SCHEDULE}.linear_start", f"{start}; expected less than linear_end, {end}"


def _steps(at: Values) -> Iterator[Problem]:
    sampler = "model.sampler_config.params"
    key = "args.sampling_steps" if at.get("args.sampling_steps") else f"{sampler}.num_steps"
    steps, total = at[key], at.get(f"{sampler}.{_SCHEDULE}.num_timesteps")
    if total is not None and steps > total:
        yield key, f"{steps}; the noise schedule has {total} timesteps (num_timesteps)"
    ramp = at.get(f"{sampler}.guider_config.params.num_steps")
    if ramp is not None and ramp != steps:
        yield (
            f"{sampler}.guider_config.params.num_steps",
            f"{ramp}, but the sampler takes {steps} steps ({key}); set both to the same number",
        )


def _prefix(at: Values) -> Iterator[Problem]:
    key = "model.sampler_config.params.fixed_frames"
    if at[key]:
        yield (
            key,
            f"{at[key]}; samples start from noise in all frames, so the prefix that is kept would be noise; set 0",
        )


def _held_out(at: Values) -> Iterator[str]:
    both = [folder for folder in at["args.valid_data"] or [] if folder in (at["args.train_data"] or [])]
    if both and at["args.mode"] != "inference":
        yield (
            f"args.valid_data: {', '.join(both)} is in train_data as well, so its clips are trained on, and figures of "
            "validation are not of held-out clips"
        )


def _idle_deepspeed(at: Values) -> Iterator[str]:
    if at["args.mode"] != "inference":
        yield from deepspeed_limits.idle(at["deepspeed"])


def _padding(at: Values) -> Iterator[str]:
    frames, size = at["data.params.max_num_frames"], at[f"{_NETWORK}.patch_size"][0]
    latents = (frames - 1) // _VAE_RATE + 1
    if latents % size:
        yield (
            f"data.params.max_num_frames: {frames} frames are {latents} latents, no multiple of the patch's {size}; "
            "the first latent is repeated in front, and dropped again after decoding"
        )


def _beyond(at: Values) -> Iterator[str]:
    if kind(at[f"{_NETWORK}.modules.pos_embed_config.target"]) != "Rotary3DPositionEmbedding":
        return
    most = [at[f"{_NETWORK}.latent_{side}"] * _VAE_STRIDE for side in ("height", "width")]
    size, frames = at["data.params.video_size"], at["data.params.max_num_frames"]
    if frames > at[f"{_NETWORK}.num_frames"] or any(have > limit for have, limit in zip(size, most, strict=True)):
        yield (
            f"data.params: {frames} frames of {size} are more than {at[f'{_NETWORK}.num_frames']} of {most}, "
            "which the positions of this model were trained on"
        )


def _schedules(at: Values) -> Iterator[str]:
    first, *others = _SCHEDULES
    for part in others:
        if at[f"model.{part}.discretization_config"] != at[f"model.{first}.discretization_config"]:
            yield f"model.{part}.discretization_config: another noise schedule than model.{first}'s; is that meant?"


_HIDDEN_2B = 1920


def _trained_in(at: Values) -> Iterator[str]:
    """Upstream's sft.yaml: bf16 off for 2B, on for 5B. The published 2B weights are fp16, all others bf16."""
    small = at[f"{_NETWORK}.hidden_size"] == _HIDDEN_2B
    have = "fp16" if at["args.fp16"] else "bf16" if at["args.bf16"] else None
    if small and have == "bf16":
        yield (
            f"{have}: CogVideoX-2B was trained in fp16, which is the finer of the two; for that set deepspeed.bf16.enabled: "
            "false and deepspeed.fp16.enabled: true"
        )
    elif not small and have == "fp16" and at[f"{_NETWORK}.hidden_size"] > _HIDDEN_2B:
        yield f"{have}: this family was trained in bf16, whose range is larger; watch for overflows (inf in the loss)"


def _adapters(at: Values) -> Iterator[str]:
    if at.get(f"{_NETWORK}.modules.lora_config") and "all" not in at["model.not_trainable_prefixes"]:
        yield (
            "model.not_trainable_prefixes: the LoRA adapters train together with all other weights; "
            "for the adapters alone set it to [all]"
        )


_CHECKS = (
    _frames, _patch, _size, _fixed_grid, _channels, _groups, _tiles, _text, _heads, _ofs, _timestep, _images, _lora,
    _precision, _deepspeed, _length, _batch, _timesteps, _steps, _prefix,
)  # fmt: skip
_REMARKS = (_idle_deepspeed, _padding, _beyond, _schedules, _trained_in, _adapters, _held_out)

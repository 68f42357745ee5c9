"""Cross-field validation. Each check reads canonical values and yields the wrong key with the values that are valid."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from cogtune.config import deepspeed_limits
from cogtune.config.diffusers_limits import SAT_FORMATS
from cogtune.config.diffusers_limits import refusal as diffusers_refusal
from cogtune.config.geometry import FRAMES_PER_LATENT, PIXELS_PER_LATENT
from cogtune.config.registry import kind
from cogtune.config.remarks import REMARKS
from cogtune.config.values import NETWORK, POSITIONS, SCHEDULE, SCHEDULES, Values, network, positions, run

Problem = tuple[str, str]
_VAE = "model.first_stage_config.params"
_T5 = "model.conditioner_config.params.emb_models.0.params"


def cross_check(values: dict[str, Any]) -> tuple[list[Problem], list[str]]:
    """(key, message) of every contradiction, and remarks on legal but surprising settings."""
    at = Values(values)
    problems = [problem for check in _CHECKS for problem in run(check, at)]
    remarks = [remark for check in REMARKS for remark in run(check, at)]
    return problems, remarks


def _frames(at: Values) -> Iterator[Problem]:
    frames = at["data.params.max_num_frames"]
    if frames % FRAMES_PER_LATENT != 1:
        below = max(frames - 1, 0) // FRAMES_PER_LATENT * FRAMES_PER_LATENT + 1
        fitting = f"{below} or {below + FRAMES_PER_LATENT}"
        yield "data.params.max_num_frames", f"{frames} is not 4k + 1, which the VAE needs; expected {fitting}"
    if at[f"{NETWORK}.time_compressed_rate"] != FRAMES_PER_LATENT:
        yield (
            f"{NETWORK}.time_compressed_rate",
            f"{at[f'{NETWORK}.time_compressed_rate']}; expected {FRAMES_PER_LATENT}, as the VAE compresses"
            f" {FRAMES_PER_LATENT} frames into one",
        )


def _size(at: Values) -> Iterator[Problem]:
    _, *patch = at[f"{NETWORK}.patch_size"]
    for name, pixels, size in zip(("height", "width"), at["data.params.video_size"], patch, strict=True):
        multiple = PIXELS_PER_LATENT * size
        if pixels % multiple:
            near = f"{pixels // multiple * multiple} or {pixels // multiple * multiple + multiple}"
            yield "data.params.video_size", f"{name} {pixels} is not a multiple of {multiple}; expected {near}"


def _fixed_grid(at: Values) -> Iterator[Problem]:
    """Sine-cosine and learned tables fit one height and width, and at most the configured number of frames."""
    table = positions(at).table
    if table is None:
        return
    want = [at[f"{NETWORK}.latent_{side}"] * PIXELS_PER_LATENT for side in ("height", "width")]
    size = at["data.params.video_size"]
    if size != want:
        yield (
            "data.params.video_size",
            f"{size}; expected {want} (latent_height, latent_width x {PIXELS_PER_LATENT}), the size of the {table} position "
            "table",
        )
    frames, most = at["data.params.max_num_frames"], at[f"{NETWORK}.num_frames"]
    if frames > most:
        yield (
            "data.params.max_num_frames",
            f"{frames} frames; the {table} position table holds at most {most} (num_frames)",
        )


def _patch(at: Values) -> Iterator[Problem]:
    for side, size in zip(("height", "width"), at[f"{NETWORK}.patch_size"][1:], strict=True):
        if at[f"{NETWORK}.latent_{side}"] % size:
            yield (
                f"{NETWORK}.latent_{side}",
                f"{at[f'{NETWORK}.latent_{side}']} is not a multiple of the patch size {size}",
            )


def _channels(at: Values) -> Iterator[Problem]:
    z, out = at[f"{_VAE}.encoder_config.params.z_channels"], at[f"{NETWORK}.out_channels"]
    if at[f"{_VAE}.decoder_config.params.z_channels"] != z:
        yield f"{_VAE}.decoder_config.params.z_channels", f"expected the encoder's z_channels, {z}"
    if out != z:
        yield f"{NETWORK}.out_channels", f"{out}; expected {z}, the VAE's z_channels"
    image = at["model.noised_image_input"]
    want = 2 * z if image else z
    if at[f"{NETWORK}.in_channels"] != want:
        why = (
            f"{z} for the noise and {z} for the image (noised_image_input is true)" if image else "the VAE's z_channels"
        )
        hint = (
            ""
            if image or at[f"{NETWORK}.in_channels"] != 2 * z
            else "; for image-to-video set model.noised_image_input: true"
        )
        yield f"{NETWORK}.in_channels", f"{at[f'{NETWORK}.in_channels']}; expected {want}, {why}{hint}"


def _groups(at: Values) -> Iterator[Problem]:
    for part in ("encoder_config", "decoder_config"):
        ch, mults, groups = (at[f"{_VAE}.{part}.params.{name}"] for name in ("ch", "ch_mult", "num_groups"))
        odd = [ch * mult for mult in mults if ch * mult % groups]
        if odd:
            yield (
                f"{_VAE}.{part}.params.num_groups",
                f"{odd[0]} channels (ch x ch_mult) are not a multiple of {groups}",
            )


def _tiles(at: Values) -> Iterator[Problem]:
    for part in ("encode", "decode"):
        size, overlap = at.get(f"{_VAE}.{part}_tile_size"), at.get(f"{_VAE}.{part}_tile_overlap")
        if not size:
            continue
        if any(pixels % PIXELS_PER_LATENT for pixels in size):
            yield f"{_VAE}.{part}_tile_size", f"{size}; expected multiples of {PIXELS_PER_LATENT}"
        if overlap % PIXELS_PER_LATENT or overlap >= min(size):
            yield (
                f"{_VAE}.{part}_tile_overlap",
                f"{overlap}; expected a multiple of {PIXELS_PER_LATENT} below the tile's {min(size)}",
            )


def _text(at: Values) -> Iterator[Problem]:
    if len(at["model.conditioner_config.params.emb_models"]) != 1:
        yield "model.conditioner_config.params.emb_models", "expected one text encoder"
    length, tokens = at[f"{POSITIONS}.text_length"], at[f"{_T5}.max_length"]
    if length != tokens:
        yield f"{POSITIONS}.text_length", f"{length}; expected {tokens}, the text encoder's max_length"


def _heads(at: Values) -> Iterator[Problem]:
    hidden, heads = at[f"{NETWORK}.hidden_size"], at[f"{NETWORK}.num_attention_heads"]
    if hidden % heads:
        yield f"{NETWORK}.hidden_size", f"{hidden} is not a multiple of num_attention_heads, {heads}"
        return
    for name, problem in positions(at).size_problems(hidden, hidden // heads):
        within = f"{NETWORK}.modules" if name.startswith("pos_embed_config.") else NETWORK
        yield f"{within}.{name}", problem


def _ofs(at: Values) -> Iterator[Problem]:
    ofs, time = at[f"{NETWORK}.ofs_embed_dim"], at[f"{NETWORK}.time_embed_dim"] or at[f"{NETWORK}.hidden_size"]
    if ofs is not None and ofs != time:
        yield (
            f"{NETWORK}.ofs_embed_dim",
            f"{ofs} must equal time_embed_dim, as the two embeddings are added; expected {time}",
        )


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
            "true, but this is not an image-to-video model; use an image-to-video model file, or set it to false",
        )
    if takes_image and not named and at.get("args.input_type") == "txt":
        yield "args.image2video", "false, but the model needs an image; set it to true, with `prompt@@image` lines"


_ADAPTERS = (
    "modules:\n        lora_config:\n          target: sat.model.finetune.lora2.LoraMixin\n          params: {r: 128}"
)


def _lora(at: Values) -> Iterator[Problem]:
    if at.get(f"{NETWORK}.modules.lora_config"):
        layers, chosen = at[f"{NETWORK}.num_layers"], at[f"{NETWORK}.modules.lora_config.params.layer_range"]
        if chosen and max(chosen) >= layers:
            key = f"{NETWORK}.modules.lora_config.params.layer_range"
            yield key, f"layer {max(chosen)} does not exist; the network has layers 0 to {layers - 1}"
        return
    missing = f"without {NETWORK}.modules.lora_config no weight is trained; add below {NETWORK}:\n      {_ADAPTERS}"
    if at["model.lora_train"]:
        yield "model.lora_train", f"true; {missing}"
    elif "all" in at["model.not_trainable_prefixes"] and at.get("args.mode") != "inference":
        yield "model.not_trainable_prefixes", f"all; {missing}"


def _precision(at: Values) -> Iterator[Problem]:
    if at["args.mode"] != "inference" and at["deepspeed.bf16.enabled"] and at["deepspeed.fp16.enabled"]:
        yield "deepspeed.fp16.enabled", "true, but bf16.enabled is true too; disable one of them"
    elif at["args.fp16"] and at["args.bf16"]:
        yield "args.fp16", "true, but bf16 is true too; disable one of them"


def _deepspeed(at: Values) -> Iterator[Problem]:
    if at["args.mode"] != "inference":
        for key, message in deepspeed_limits.refused(at["deepspeed"]):
            yield f"deepspeed.{key}", message


def _length(at: Values) -> Iterator[Problem]:
    if at["args.train_iters"] is not None and at["args.epochs"] is not None:
        yield (
            "args.epochs",
            f"{at['args.epochs']}, but train_iters is set too ({at['args.train_iters']}); set one of them to null",
        )


def _batch(at: Values) -> Iterator[Problem]:
    total, micro = at["args.global_batch_size"], at["deepspeed.train_micro_batch_size_per_gpu"]
    if total is not None and micro is not None and micro > total and at["args.mode"] != "inference":
        yield (
            "deepspeed.train_micro_batch_size_per_gpu",
            f"{micro} clips in one pass, but a step has {total} (args.global_batch_size); set it to {total} or less",
        )


def _timesteps(at: Values) -> Iterator[Problem]:
    """The network gets a clip's index in the table, so the table needs all timesteps of the schedule."""
    for part in ("denoiser_config.params", "loss_fn_config.params.sigma_sampler_config.params"):
        have, total = at.get(f"model.{part}.num_idx"), at.get(f"model.{part}.{SCHEDULE}.num_timesteps")
        if None not in (have, total) and have != total:
            yield f"model.{part}.num_idx", f"{have}; expected {total}, the num_timesteps of its noise schedule"
    for part in SCHEDULES:
        start, end = (at.get(f"model.{part}.{SCHEDULE}.linear_{name}") for name in ("start", "end"))
        if None not in (start, end) and start >= end:
            yield f"model.{part}.{SCHEDULE}.linear_start", f"{start}; expected less than linear_end, {end}"


def _steps(at: Values) -> Iterator[Problem]:
    sampler = "model.sampler_config.params"
    key = "args.sampling_steps" if at.get("args.sampling_steps") else f"{sampler}.num_steps"
    steps, total = at[key], at.get(f"{sampler}.{SCHEDULE}.num_timesteps")
    if total is not None and steps > total:
        yield key, f"{steps}; the noise schedule has {total} timesteps (num_timesteps)"
    ramp = at.get(f"{sampler}.guider_config.params.num_steps")
    if ramp is not None and ramp != steps:
        yield (
            f"{sampler}.guider_config.params.num_steps",
            f"{ramp}, but the sampler takes {steps} steps ({key}); set both to the same number",
        )


def _best(at: Values) -> Iterator[Problem]:
    missing = [key for key in ("args.valid_data", "args.eval_interval") if not at[key]]
    if at["args.keep_best"] and missing and at["args.mode"] != "inference":
        yield (
            "args.keep_best",
            f"true, but {missing[0]} is not set; the best step is that of the lowest validation loss",
        )


def _prefix(at: Values) -> Iterator[Problem]:
    key = "model.sampler_config.params.fixed_frames"
    own = "." not in kind(at["model.sampler_config.target"])  # in a plugin's class the key may mean something else
    if at[key] and own:
        yield (
            key,
            f"{at[key]}; all frames of a sample start from noise, so the kept prefix would be noise; set it to 0",
        )


def _exports(at: Values) -> Iterator[Problem]:
    """Reported before the training, not after it."""
    formats = [name for name in at["args.export_formats"] if name not in SAT_FORMATS]
    if formats and at["args.mode"] != "inference" and (why := diffusers_refusal(network(at))):
        yield (
            "args.export_formats",
            f"{formats[0]} is for diffusers' network ({why}); expected {', '.join(SAT_FORMATS)}",
        )


def _inference(at: Values) -> Iterator[Problem]:
    """Without data set and training, weights and prompts must be given."""
    if at["args.mode"] != "inference":
        return
    load = at["args.load"]
    if load is None and at["model"] is not None:  # without one it is a part of a config, and model.weights_dir decides
        yield "args.load", "not set; mode inference needs the weights to sample from: a path, or {experiment: name}"
    if at["args.input_type"] != "txt":
        yield (
            "args.input_type",
            f"{at['args.input_type']} uses the captions of the data set, which mode inference does not read; "
            "expected txt, with the prompts in args.input_file",
        )
    if at["args.ema_sampling"] and isinstance(load, str):
        yield "args.ema_sampling", "true, but a weight file holds no moving average; set it to false"


def _trackers(at: Values) -> Iterator[Problem]:
    if at["args.wandb"] and at["args.mode"] != "inference" and find_spec("wandb") is None:
        yield "args.wandb", "true; Weights & Biases is not installed; `pip install wandb`, or set it to false"


_CHECKS = (
    _frames, _patch, _size, _fixed_grid, _channels, _groups, _tiles, _text, _heads, _ofs, _timestep, _images, _lora,
    _precision, _deepspeed, _length, _batch, _timesteps, _steps, _prefix, _exports, _inference, _trackers,
    _best,
)  # fmt: skip

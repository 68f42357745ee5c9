"""THE TABLE: which keys each stage reads, which of them are identity, and what it stands on.

A stage receives the keys listed here and nothing else (`slices.py` cuts them), so a key that is missing from the table
cannot be read, and a key that is listed under the wrong heading fails the invalidation test. A new key, this table and
`tests/workflow/test_invalidation.py` change in one commit.

Patterns are dotted paths; ``*`` stands for one segment (a list index or a name); a pattern covers everything below it.
The longest pattern that fits a key decides whether it is identity or volatile; what none fits does not reach the stage.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    ``keys`` enter the digest; ``volatile`` keys reach the stage without entering it (they change how fast or how
    talkative a stage is, never what it writes). ``upstream`` names the stages whose results it reads. ``items`` marks
    the stages that keep one row per clip or caption (or one file per format): their folder is named by the *item key*,
    which leaves the data set out. ``data`` names the digest that the job depends on: one of `digest.data_digests`, or
    ``formats``, those that are asked for. ``version`` is raised whenever the stage would write something else for the
    same slice. ``when`` names a switch: where that key is false there is no such stage, and whoever lists it as upstream
    does without.
    """

    name: str
    version: int
    keys: tuple[str, ...]
    volatile: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    items: bool = False
    data: str | None = None
    when: str | None = None


_FLUSH = ("args.flush_seconds", "args.flush_megabytes", "args.num_workers")
_EMBEDDER = "model.conditioner_config.params.emb_models.*"
_VAE = "model.first_stage_config"

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "scan",
            version=2,
            keys=(
                "data.target",
                "data.params.allow_missing_caption",
                "data.params.follow_links",
                "args.max_reject_share",
            ),
            volatile=("args.train_data", "args.valid_data"),
        ),
        Stage(
            "preprocess",
            version=2,
            keys=(
                "data.params.video_size",
                "data.params.fps",
                "data.params.max_num_frames",
                "data.params.skip_frms_num",
                "data.params.frame_selection",
            ),
            volatile=_FLUSH,
            items=True,
            data="clips",
        ),
        Stage(
            "latents",
            version=3,
            keys=(
                f"{_VAE}.target",
                f"{_VAE}.params.ckpt_path",
                f"{_VAE}.params.ignore_keys",
                f"{_VAE}.params.encoder_config",
                f"{_VAE}.params.encode_batch_frames",
                f"{_VAE}.params.encode_tile_size",
                f"{_VAE}.params.encode_tile_overlap",
                "args.encoder_precision",
            ),
            # The decoder comes along because the checkpoint is loaded strictly; it does not touch a moment.
            volatile=(
                *_FLUSH,
                f"{_VAE}.params.decoder_config",
                f"{_VAE}.params.regularizer_config",
                f"{_VAE}.params.slicing",
                "args.encode_batch",
                "args.threads_per_rank",
                "data.params.video_size",
            ),
            upstream=("preprocess",),
            items=True,
            data="clips",
        ),
        # A stage of its own, so that a text-to-video and an image-to-video config share the moments of their clips.
        Stage(
            "images",
            version=2,
            keys=(
                f"{_VAE}.target",
                f"{_VAE}.params.ckpt_path",
                f"{_VAE}.params.ignore_keys",
                f"{_VAE}.params.encoder_config",
                f"{_VAE}.params.encode_tile_size",
                f"{_VAE}.params.encode_tile_overlap",
                "args.image_noise_draws",
                "args.encoder_precision",
            ),
            volatile=(
                *_FLUSH,
                f"{_VAE}.params.decoder_config",
                f"{_VAE}.params.regularizer_config",
                f"{_VAE}.params.slicing",
                "args.threads_per_rank",
                "data.params.video_size",
            ),
            upstream=("preprocess",),
            items=True,
            data="clips",
            when="model.noised_image_input",
        ),
        Stage(
            "text",
            version=1,
            keys=(
                "model.conditioner_config.target",
                f"{_EMBEDDER}.target",
                f"{_EMBEDDER}.params",
                "args.encoder_precision",
            ),
            volatile=(*_FLUSH, "args.text_batch", "args.threads_per_rank"),
            items=True,
            data="captions",
        ),
        Stage(
            "train",
            version=3,
            keys=(
                "model.scale_factor",
                "model.network_config",
                "model.denoiser_config",
                "model.loss_fn_config",
                f"{_EMBEDDER}.ucg_rate",
                f"{_VAE}.params.regularizer_config",
                "model.not_trainable_prefixes",
                "model.lora_train",
                "model.noised_image_input",
                "model.noised_image_all_concat",
                "model.noised_image_dropout",
                "model.image_scale_factor",
                "args.mode",
                "args.load",
                "args.seed",
                "args.train_iters",
                "args.epochs",
                "args.lr",
                "args.lr_decay_iters",
                "args.lr_decay_style",
                "args.lr_decay_ratio",
                "args.warmup",
                "args.auto_warmup",
                "args.weight_decay",
                "args.global_batch_size",
                "args.bf16",
                "args.fp16",
                "deepspeed",
            ),
            volatile=(
                "model.network_config.params.transformer_args.checkpoint_activations",
                "deepspeed.steps_per_print",
                "deepspeed.wall_clock_breakdown",
                "deepspeed.train_micro_batch_size_per_gpu",
                "deepspeed.gradient_accumulation_steps",
                "deepspeed.tensorboard",
                "deepspeed.wandb",
                "deepspeed.csv_monitor",
                "args.log_interval",
                "args.save_interval",
                "args.keep_checkpoints",
                "args.max_skipped_steps",
                "args.eval_interval",
                "args.eval_iters",
                "args.eval_batch_size",
                "args.num_workers",
                "args.threads_per_rank",
                "args.checkpoint_activations",
            ),
            upstream=("latents", "images", "text"),
            data="train",
        ),
        # The folder is named by the weights. The formats that are asked for are the job's, as clips are: another one is
        # written beside those that are there, and changes nothing downstream.
        Stage(
            "export",
            version=2,
            keys=(
                "args.ema_sampling",
                "args.export_precision",
                "args.export_shard_gigabytes",
                "args.export_license",
            ),
            volatile=("args.export_formats",),
            upstream=("train",),
            items=True,
            data="formats",
        ),
        Stage(
            "sample",
            version=4,
            keys=(
                "model.sampler_config",
                "model.scale_factor",
                f"{_VAE}.target",
                f"{_VAE}.params.ckpt_path",
                f"{_VAE}.params.ignore_keys",
                f"{_VAE}.params.decoder_config",
                f"{_VAE}.params.decode_tile_size",
                f"{_VAE}.params.decode_tile_overlap",
                "data.params.video_size",
                "data.params.max_num_frames",
                "data.params.fps",
                "args.seed",
                "args.bf16",
                "args.fp16",
                "args.input_type",
                "args.input_file",
                "args.image2video",
                "args.sampling_count",
                "args.sampling_guided",
                "args.sampling_controls",
                "args.sampling_steps",
                "args.ema_sampling",
                "args.encoder_precision",
            ),
            volatile=(
                *_FLUSH,
                f"{_VAE}.params.encoder_config",
                f"{_VAE}.params.encode_tile_size",
                f"{_VAE}.params.encode_tile_overlap",
                f"{_VAE}.params.regularizer_config",
                f"{_VAE}.params.slicing",
                "args.sampling_batch",
                "args.threads_per_rank",
                "model.conditioner_config",
            ),
            upstream=("export", "text", "images"),
            data="train",
        ),
        Stage(
            "evaluate",
            version=2,
            keys=(_VAE, "data.params.video_size", "args.encoder_precision", "args.seed"),
            volatile=(*_FLUSH, f"{_VAE}.params.slicing", "args.threads_per_rank", "data.params"),
            upstream=("sample", "preprocess", "latents"),
            data="pairs",
        ),
        Stage(
            "report",
            version=3,
            # as_written also holds keys that have no effect here: the published config is the user's whole config.
            keys=("model", "data", "args", "deepspeed", "experiment", "as_written"),
            upstream=("scan", "preprocess", "latents", "images", "text", "train", "export", "sample", "evaluate"),
            data="pairs",
        ),
    )
}

SAMPLING: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        # What train, text and images say of the model elsewhere, stands here itself.
        replace(
            STAGES["sample"],
            keys=(
                *STAGES["sample"].keys,
                "model.network_config",
                "model.denoiser_config",
                "model.noised_image_input",
                "model.noised_image_all_concat",
                "model.image_scale_factor",
                "model.conditioner_config.target",
                f"{_EMBEDDER}.target",
                f"{_EMBEDDER}.params.model_dir",
                f"{_EMBEDDER}.params.max_length",
                "args.mode",
                "args.load",
            ),
            volatile=(
                *STAGES["sample"].volatile,
                "model.network_config.params.transformer_args.checkpoint_activations",
            ),
            upstream=("load",),
            data=None,
        ),
        replace(STAGES["report"], upstream=("sample",), data=None),
    )
}
"""The stages with ``args.mode: inference``. There is no data set and no training: `load` is what is sampled."""


def stages_of(values: Mapping[str, Any]) -> dict[str, Stage]:
    """The stages that an experiment can have, by its config. ``load`` among their upstream: another experiment's train."""
    return SAMPLING if values["args"].get("mode") == "inference" else STAGES


SWEEP = Stage("sweep", version=1, keys=("sweep",))
"""Compares the experiments of a sweep. It stands on their reports, which only config/config.yaml can name."""

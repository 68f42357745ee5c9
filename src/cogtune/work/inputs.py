"""The inputs of all stages: the config keys that each one reads (see `stage_input.py`). The stages table is `stages.py`.

A new key is a field here, and a row in `tests/workflow/test_invalidation.py`, in one commit.
"""

from dataclasses import dataclass

from cogtune.work.engine_keys import VOLATILE_KEYS
from cogtune.work.stage_input import WHOLE, Node, Unread, identity, parts, unread, volatile

_VAE = "model.first_stage_config"
_T5 = "model.conditioner_config"
_CLIPS = "data.params"
_WEIGHTS = ("target", "params.ckpt_path", "params.ignore_keys")
_ENCODER = (*_WEIGHTS, "params.encoder_config", "params.encode_tile_size", "params.encode_tile_overlap")
# The other half comes along because the checkpoint is loaded strictly; it does not touch a result.
_BESIDE_ENCODER = ("params.decoder_config", "params.regularizer_config", "params.slicing")
_BESIDE_DECODER = (
    "params.encoder_config",
    "params.encode_tile_size",
    "params.encode_tile_overlap",
    "params.regularizer_config",
    "params.slicing",
)
_RECOMPUTATION = "params.transformer_args.checkpoint_activations"


@dataclass(frozen=True, kw_only=True)
class Flushed:
    """For stages that keep rows: when rows are written to disk."""

    flush_seconds: float = volatile("args.flush_seconds")
    flush_megabytes: float = volatile("args.flush_megabytes")


@dataclass(frozen=True, kw_only=True)
class ScanInput:
    """Which files are read as clips."""

    dataset: Unread = unread("data.target", because="it defines the two keys below; there is only one data set class")
    allow_missing_caption: bool = identity(f"{_CLIPS}.allow_missing_caption")
    follow_links: bool = identity(f"{_CLIPS}.follow_links")
    max_reject_share: float = identity("args.max_reject_share")
    train_data: list[str] | None = volatile("args.train_data")
    valid_data: list[str] | dict[str, list[str]] | None = volatile("args.valid_data")


@dataclass(frozen=True, kw_only=True)
class PreprocessInput(Flushed):
    """The frames of a clip to use, and their size."""

    video_size: list[int] = identity(f"{_CLIPS}.video_size")
    fps: float = identity(f"{_CLIPS}.fps")
    max_num_frames: int = identity(f"{_CLIPS}.max_num_frames")
    skip_frms_num: float = identity(f"{_CLIPS}.skip_frms_num")
    frame_selection: str = identity(f"{_CLIPS}.frame_selection")
    workers: int = volatile("args.num_workers")


@dataclass(frozen=True, kw_only=True)
class EncodingInput(Flushed):
    """Common input of the two stages with the VAE's encoder."""

    precision: str = identity("args.encoder_precision")
    video_size: list[int] = volatile(f"{_CLIPS}.video_size")  # preprocess, upstream, has it in its key
    threads: int = volatile("args.threads_per_rank")
    workers: int = volatile("args.num_workers")


@dataclass(frozen=True, kw_only=True)
class LatentsInput(EncodingInput):
    """The VAE's encoder, for full clips."""

    vae: Node = parts(_VAE, identity=(*_ENCODER, "params.encode_batch_frames"), volatile=_BESIDE_ENCODER)
    batch: int = volatile("args.encode_batch")


@dataclass(frozen=True, kw_only=True)
class ImagesInput(EncodingInput):
    """The VAE's encoder, for first frames."""

    vae: Node = parts(_VAE, identity=_ENCODER, volatile=_BESIDE_ENCODER)
    draws: int = identity("args.image_noise_draws")


@dataclass(frozen=True, kw_only=True)
class TextInput(Flushed):
    """The text encoder."""

    conditioner: Node = parts(_T5, identity=("target", "params.emb_models.*.target", "params.emb_models.*.params"))
    precision: str = identity("args.encoder_precision")
    batch: int = volatile("args.text_batch")
    threads: int = volatile("args.threads_per_rank")


@dataclass(frozen=True, kw_only=True)
class TrainInput:
    """Network, loss, optimizer and schedule; sampling rebuilds the model from them."""

    network: Node = identity("model.network_config", volatile=(_RECOMPUTATION,))
    denoiser: Node = identity("model.denoiser_config")
    loss: Node = identity("model.loss_fn_config")
    regularizer: Node = identity(f"{_VAE}.params.regularizer_config")
    scale_factor: float = identity("model.scale_factor")
    caption_dropout: float = identity(f"{_T5}.params.emb_models.*.ucg_rate")
    image_input: bool = identity("model.noised_image_input")
    image_everywhere: bool = identity("model.noised_image_all_concat")
    image_dropout: float = identity("model.noised_image_dropout")
    image_scale_factor: float | None = identity("model.image_scale_factor")
    frozen_prefixes: list[str] = identity("model.not_trainable_prefixes")
    lora_train: Unread = unread(
        "model.lora_train", because="not_trainable_prefixes sets it; kept so that keys do not change"
    )
    mode: Unread = unread("args.mode", because="finetune and pretrain are the same; kept so that keys do not change")
    load: str | None = identity("args.load")
    seed: int = identity("args.seed")
    steps: int | None = identity("args.train_iters")
    epochs: int | None = identity("args.epochs")
    lr: float = identity("args.lr")
    lr_decay_iters: int | None = identity("args.lr_decay_iters")
    lr_decay_style: str = identity("args.lr_decay_style")
    lr_decay_ratio: float = identity("args.lr_decay_ratio")
    warmup: float = identity("args.warmup")
    auto_warmup: bool = identity("args.auto_warmup")
    weight_decay: float = identity("args.weight_decay")
    global_batch: int = identity("args.global_batch_size")
    deterministic: bool = identity("args.deterministic")
    precisions: Unread = unread(
        "args.bf16", "args.fp16", because="the deepspeed section sets it; kept so that keys do not change"
    )
    deepspeed: Node = identity("deepspeed", volatile=tuple(VOLATILE_KEYS))
    micro_batch: int = volatile("deepspeed.train_micro_batch_size_per_gpu")
    log_interval: int = volatile("args.log_interval")
    summary_dir: str = volatile("args.summary_dir")
    wandb: bool = volatile("args.wandb")
    wandb_project: str = volatile("args.wandb_project_name")
    wandb_team: str | None = volatile("args.wandb_project_entity")
    save_interval: int = volatile("args.save_interval")
    save_minutes: float | None = volatile("args.save_minutes")
    max_hours: float | None = volatile("args.max_hours")
    keep_checkpoints: int = volatile("args.keep_checkpoints")
    snapshot_interval: int = volatile("args.snapshot_interval")
    max_skipped_steps: int = volatile("args.max_skipped_steps")
    eval_interval: int | None = volatile("args.eval_interval")
    valid_data: list[str] | dict[str, list[str]] | None = volatile("args.valid_data")
    keep_best: bool = volatile("args.keep_best")
    eval_iters: int | None = volatile("args.eval_iters")
    eval_batch_size: int | None = volatile("args.eval_batch_size")
    threads: int = volatile("args.threads_per_rank")


@dataclass(frozen=True, kw_only=True)
class ExportInput:
    """The weights, and how they are written. The formats are data of the job, like clips."""

    average: bool = identity("args.ema_sampling")
    precision: str = identity("args.export_precision")
    shard_gigabytes: float = identity("args.export_shard_gigabytes")
    license: str | None = identity("args.export_license")
    formats: list[str] = volatile("args.export_formats")


@dataclass(frozen=True, kw_only=True)
class GenerationInput(Flushed):
    """Sampler and VAE decoder: how a video is made from a caption. The rest of the model is in the input of train."""

    sampler: Node = identity("model.sampler_config")
    scale_factor: float = identity("model.scale_factor")
    vae: Node = parts(
        _VAE,
        identity=(*_WEIGHTS, "params.decoder_config", "params.decode_tile_size", "params.decode_tile_overlap"),
        volatile=_BESIDE_DECODER,
    )
    conditioner: Node = volatile(_T5)  # for prompts of a file; text, upstream, has it in its key
    video_size: list[int] = identity(f"{_CLIPS}.video_size")
    max_num_frames: int = identity(f"{_CLIPS}.max_num_frames")
    fps: float = identity(f"{_CLIPS}.fps")
    seed: int = identity("args.seed")
    bf16: bool = identity("args.bf16")
    fp16: bool = identity("args.fp16")
    guided: bool = identity("args.sampling_guided")
    steps: int | None = identity("args.sampling_steps")
    average: bool = identity("args.ema_sampling")  # of the experiment that `load` names; else export has read it
    encoder_precision: str = identity("args.encoder_precision")
    threads: int = volatile("args.threads_per_rank")


@dataclass(frozen=True, kw_only=True)
class SampleInput(GenerationInput):
    """How videos are made, and of which captions."""

    input_type: str = identity("args.input_type")
    input_file: str | None = identity("args.input_file")
    file_has_images: bool = identity("args.image2video")
    count: int | None = identity("args.sampling_count")
    controls: list[str] = identity("args.sampling_controls")
    batch: int = volatile("args.sampling_batch")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Without a training upstream, the input includes train's keys of the model."""

    network: Node = identity("model.network_config", volatile=(_RECOMPUTATION,))
    denoiser: Node = identity("model.denoiser_config")
    image_input: bool = identity("model.noised_image_input")
    image_everywhere: bool = identity("model.noised_image_all_concat")
    image_scale_factor: float | None = identity("model.image_scale_factor")
    mode: Unread = unread("args.mode", because="it separates these jobs from those after a training")
    load: str | None = identity("args.load")


@dataclass(frozen=True, kw_only=True)
class LoadedSampleInput(LoadedModel, SampleInput):
    """With ``args.mode: inference`` there is no upstream stage: the input includes the keys of train, text and images."""

    conditioner: Node = parts(
        _T5,
        identity=(
            "target",
            "params.emb_models.*.target",
            "params.emb_models.*.params.model_dir",
            "params.emb_models.*.params.max_length",
        ),
        volatile=(WHOLE,),
    )


@dataclass(frozen=True, kw_only=True)
class PromptedInput(LoadedModel, GenerationInput):
    """For `cogtune sample EXPERIMENT|WEIGHTS`: the prompts, seeds and strengths are no keys, but rows of the job."""


@dataclass(frozen=True, kw_only=True)
class EvaluateInput(Flushed):
    """The VAE, for reconstructions."""

    vae: Node = identity(_VAE, volatile=("params.slicing",))
    video_size: list[int] = identity(f"{_CLIPS}.video_size")
    precision: str = identity("args.encoder_precision")
    seed: Unread = unread("args.seed", because="there are no random draws any more; kept so that keys do not change")
    fps: float = volatile(f"{_CLIPS}.fps")
    threads: int = volatile("args.threads_per_rank")


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """The full config, which is published with the results."""

    data: Node = identity("data")
    published: Unread = unread(
        "model",
        "args",
        "deepspeed",
        "experiment",
        "as_written",
        because="the published config is the user's full config; as_written also contains ignored keys",
    )


@dataclass(frozen=True, kw_only=True)
class SweepInput:
    """Name and members of a sweep, from the workflow config."""

    points: dict[str, Node] = identity("sweep.points")
    name: Unread = unread("sweep", because="it is the title of the page")

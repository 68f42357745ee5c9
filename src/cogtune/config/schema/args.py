"""Keys of `args`: the command line of SwissArmyTransformer and CogVideo, and cogtune's own keys (marked "ours")."""

from dataclasses import dataclass

from cogtune.config.schema import checkpointing
from cogtune.config.schema.common import (
    ACCUMULATION,
    CLIPS,
    DECAY,
    FPS,
    LATENT_FRAMES,
    LR,
    PIXELS,
    REQUIRED,
    SAMPLING_STEPS,
    SEED,
    SHARE,
    STEPS,
    THREADS,
    Range,
    key,
)

_NO_DATA = ", if there is no data section; else data.params sets it"
_STRICT = "weights are always checked against the model"
_NEVER = "upstream ignores it too"
_LAUNCH = "the train stage starts the ranks and assigns the devices"
_STORE = "checkpoints and results are in the store; results/<experiment>/ links to them"
_RANDOM = "there is no random state: every draw depends on (seed, step, index in the batch) only"
_SHARDS = "webdataset shards are not supported; unpack them into a folder for train_data"

EXPORT_FORMATS = {
    "diffusers": "transformer folder of a diffusers pipeline; a LoRA is merged",
    "sat": "SAT folder; a LoRA is kept separate, for upstream's LoRA YAML",
    "merged": "SAT folder with the LoRA merged, for upstream's plain YAML",
    "diffusers_lora": "LoRA for load_lora_weights of diffusers, 0.35 or later",
    "folded_lora": "the same, multiplied by its scale: older diffusers, kijai's CogVideoXWrapper",
    "peft": "LoRA folder of PEFT",
    "comfyui_lora": "LoRA for ComfyUI's own CogVideoX nodes",
    "kohya": "LoRA with kohya's names, for tools that use them",
    "sat_lora": "SAT folder with the adapters only",
}
"""Export formats and who reads them; the writers are in model/weights/formats.py."""
WHOLE_FORMATS = ("diffusers", "sat", "merged")
"""Formats that hold a full network, even if a LoRA was trained."""


@dataclass(kw_only=True)
class Load:
    """`load` as a mapping: start from the result of another experiment."""

    experiment: str = key(REQUIRED, "name of an experiment of config/config.yaml")


@dataclass(kw_only=True)
class TrainArgs:
    """Training."""

    experiment_name: str = key(
        "MyModel",
        "name of the run",
        without_effect="experiments are named in config/config.yaml, single runs by `--name`",
    )
    mode: str = key(
        "pretrain",
        "finetune and pretrain are the same; inference only samples `load` with the prompts of input_file: no data set, "
        "no training, no export",
        choices=["pretrain", "finetune", "inference"],
    )
    load: Load | str | None = key(
        None,
        "initial weights, in any format that `cogtune weights inspect` supports, or {experiment: name}; null: random; not set: "
        "transformer/ in model.weights_dir",
        file=True,
    )
    seed: int = key(1234, "seed of every random draw", range=SEED)
    train_iters: int | None = key(None, "optimizer steps; null without epochs: 10000", unit="steps", range=STEPS)
    epochs: int | None = key(
        None,
        "passes over the data, instead of train_iters",
        range=Range(1, 1_000_000, "trainings have at most thousands"),
    )
    batch_size: int = key(
        4,
        "clips per rank and pass; in files deepspeed.train_micro_batch_size_per_gpu takes precedence",
        unit="clips",
        range=CLIPS,
    )
    gradient_accumulation_steps: int = key(
        1, "passes per step; in files deepspeed.gradient_accumulation_steps takes precedence", range=ACCUMULATION
    )
    lr: float = key(1e-4, "peak learning rate; in files deepspeed.optimizer.params.lr takes precedence", range=LR)
    weight_decay: float = key(
        0.01, "decoupled weight decay; in files deepspeed.optimizer.params.weight_decay takes precedence", range=DECAY
    )
    lr_decay_style: str = key(
        "linear", "learning rate schedule after the warmup", choices=["constant", "linear", "cosine", "exponential"]
    )
    lr_decay_iters: int | None = key(None, "length of the schedule; null: all steps", unit="steps", range=STEPS)
    lr_decay_ratio: float = key(0.1, "final learning rate of cosine, as a fraction of lr", range=SHARE)
    warmup: float = key(0.01, "fraction of the steps in which the learning rate rises; may be 0", range=SHARE)
    fp16: bool = key(False, "half precision; in training the deepspeed section takes precedence")
    bf16: bool = key(False, "bfloat16; in training the deepspeed section takes precedence")
    zero_stage: int = key(
        0, "ZeRO stage; in files deepspeed.zero_optimization.stage takes precedence", choices=[0, 1, 2, 3]
    )
    checkpoint_activations: bool | str = key(
        False,
        "what each layer keeps for the backward pass. full (= true): its input; attention: also the output of attention; "
        "selective (= false): also the outputs of its linear layers; none: everything. Less memory takes more time",
        choices=checkpointing.CHOICES,
        canonical=checkpointing.canonical,
    )
    log_interval: int = key(50, "steps between log lines", unit="steps", range=STEPS)
    save_interval: int = key(5000, "steps between checkpoints", unit="steps", range=STEPS)
    eval_interval: int | None = key(
        None,
        "steps between validations, which also precede the first step and follow the last; null: never",
        unit="steps",
        range=STEPS,
    )
    eval_iters: int | None = key(
        None,
        "batches per validation and validation set, over all ranks; null: as many clips as take 5 % of the training's time, "
        "but at least one, with 16 draws each (ours)",
        range=Range(1, 1_000_000, "each is a forward pass of the network"),
    )
    eval_batch_size: int | None = key(
        None, "draws per validation batch and rank; null: as in training", unit="clips", range=CLIPS
    )
    train_data: list[str] | None = key(
        None, "folders with videos/ and labels/", file=True, folder="videos/ and labels/"
    )
    valid_data: list[str] | dict[str, list[str]] | None = key(
        None,
        "folders with clips for validation, not trained on: a list, where each folder is a validation set, or a mapping from "
        "names of sets to lists of folders (ours). Losses are measured for each set; the first one decides which step is the "
        "best",
        file=True,
        folder="videos/ and labels/",
    )
    num_workers: int = key(1, "threads for decoding and reading", range=Range(0, 1024, THREADS.why))

    checkpoint_num_layers: int = key(
        1, "layers recomputed together", without_effect="each layer is recomputed by itself"
    )
    checkpoint_skip_layers: int = key(
        0, "layers that are not recomputed", without_effect="either all layers are recomputed, or none"
    )
    model_parallel_size: int = key(
        1,
        "tensor-parallel ranks per layer",
        refused="tensor parallelism is not supported; set 1, and use ZeRO to reduce memory",
    )
    save: str | None = key(None, "folder for checkpoints", without_effect=_STORE)
    save_args: bool = key(
        False, "save the arguments", without_effect="results/<experiment>/config.yaml always holds them"
    )
    summary_dir: str = key(
        "",
        "folder for the event files of TensorBoard; empty: the training's folder, linked from "
        "results/<experiment>/tensorboard",
    )
    force_train: bool = key(False, "train despite missing weights", without_effect=_STRICT)
    force_pretrain: bool = key(False, "train despite missing weights", without_effect=_STRICT)
    no_save_rng: bool = key(False, "checkpoint without random state", without_effect=_RANDOM)
    no_load_rng: bool = key(False, "resume without random state", without_effect=_RANDOM)
    resume_dataloader: bool = key(
        False, "resume at the same data", without_effect="a resumed run always continues with the next batch"
    )
    exit_interval: int | None = key(
        None, "exit after this many steps", without_effect="a run can be stopped at any time, and resumes automatically"
    )
    distributed_backend: str = key(
        "nccl", "communication backend", without_effect="it follows from the device: NCCL on GPUs, gloo on the CPU"
    )
    device: int = key(-1, "device of this process", without_effect=_LAUNCH)
    local_rank: int | None = key(None, "rank on this machine", without_effect=_LAUNCH)
    profiling: int = key(-1, "step at which the profiler starts", without_effect="use deepspeed.flops_profiler")
    wandb: bool = key(False, "log to Weights & Biases, which `pip install wandb` installs; as deepspeed.wandb.enabled")
    wandb_project_name: str = key(
        "default_project", "project of Weights & Biases; deepspeed.wandb.project takes precedence"
    )
    wandb_project_entity: str | None = key(None, "team of Weights & Biases; deepspeed.wandb.team takes precedence")
    debug: bool = key(False, "debug mode", without_effect="use `cogtune --debug`")
    log_image: bool = key(
        True, "log images", without_effect="samples are generated after training, and shown in the report"
    )
    strict_eval: bool = key(
        False, "evaluate all of the data", without_effect="every validation uses the same eval_iters batches"
    )
    split: str = key(
        "1000,1,1", "split into training, validation, test", without_effect="train_data and valid_data give the split"
    )
    test_data: list[str] | None = key(None, "test folders", without_effect="use valid_data for held-out clips")
    train_data_weights: list[int] | None = key(
        None, "weights of the folders", refused="weighted folders are not supported; remove it"
    )
    iterable_dataset: bool | str = key(False, "read webdataset shards", refused=_SHARDS)
    iterable_dataset_eval: str = key("", "read webdataset shards", refused=_SHARDS)
    batch_from_same_dataset: bool = key(False, "one folder per batch", refused="batches mix all folders; remove it")
    block_size: int = key(10000, "block of the data index", without_effect="each epoch is one permutation of the data")
    prefetch_factor: int = key(4, "batches read ahead", without_effect="one batch of cached latents is read ahead")
    base: list[str] | None = key(
        None, "config files", refused="put parents at the top level of the file: `base: [other.yaml]`"
    )
    deepspeed: bool = key(False, "use DeepSpeed", without_effect="training always uses it")
    deepspeed_config: str | None = key(None, "JSON file", refused="put its content into the `deepspeed:` section")
    deepscale: bool = key(False, "old name of deepspeed", without_effect="training always uses DeepSpeed")
    deepscale_config: str | None = key(None, "JSON file", refused="put its content into the `deepspeed:` section")


@dataclass(kw_only=True)
class SampleArgs:
    """Sampling, upstream's keys."""

    input_type: str = key("cli", "txt: prompts from input_file; cli: captions of the data set", choices=["cli", "txt"])
    input_file: str | None = key("input.txt", "file with one prompt per line, for input_type txt", file=True)
    image2video: bool = key(
        False,
        "lines of input_file are `prompt@@image`; set automatically for an image-to-video model. Image paths are relative "
        "to the folder of input_file, or to the current directory, and must be inside one of the two",
    )
    sampling_image_size: list[int] = key(
        [768, 1360], f"size of samples{_NO_DATA}", items="height, width", unit="pixels", range=PIXELS
    )
    sampling_num_frames: int = key(32, f"length of samples{_NO_DATA}", unit="latent frames", range=LATENT_FRAMES)
    sampling_fps: float = key(8, f"frames per second of samples{_NO_DATA}", unit="1/s", range=FPS)
    latent_channels: int = key(32, "channels of the latent", without_effect="use network_config.params.out_channels")
    output_dir: str = key("samples", "folder for videos", without_effect=_STORE)
    input_dir: str | None = key(
        None, "folder for inputs", without_effect="prompts come from input_file or from the data set"
    )
    force_inference: bool = key(False, "sample despite missing weights", without_effect=_STRICT)
    only_save_latents: bool = key(
        False, "save latents, no video", without_effect="samples are saved as latents and as videos"
    )
    only_log_video_latents: bool = key(
        False, "log latents in training", without_effect="samples are generated after training"
    )
    sdedit: bool = key(False, "start from a noised video", refused="sampling starts from noise; remove it")
    final_size: int = key(2048, "size", without_effect=_NEVER)
    grid_num_rows: int = key(1, "rows of a video grid", without_effect=_NEVER)
    lcm_steps: int | None = key(None, "LCM steps", without_effect=_NEVER)


@dataclass(kw_only=True)
class OwnArgs:
    """Keys that upstream does not have."""

    encoder_precision: str = key(
        "bf16", "precision of VAE and T5 when encoding (ours)", choices=["bf16", "fp16", "fp32"]
    )
    global_batch_size: int | None = key(
        None,
        "clips per optimizer step over all ranks; null: micro batch x accumulation x ranks (ours)",
        unit="clips",
        range=Range(1, 1_000_000, "batches in use have at most thousands of clips"),
    )
    threads_per_rank: int = key(1, "CPU threads per rank; the number affects rounding (ours)", range=THREADS)
    deterministic: bool = key(
        False,
        "GPU: the same bytes in every run with equal ranks and stage, also after a resume; training is slower. A CPU always "
        "gives the same bytes (ours)",
    )
    keep_checkpoints: int = key(
        2, "checkpoints kept (ours)", range=Range(1, 1_000_000, "resuming needs one; a large number keeps all")
    )
    snapshot_interval: int = key(
        0,
        "steps between snapshots: the weights only, all kept in the training's snapshots/ (for a full network their average, if "
        "the optimizer keeps one); 0: none (ours)",
        unit="steps",
        range=Range(0, 1_000_000_000, "0 writes none, and a multiple that is never reached neither"),
    )
    save_minutes: float | None = key(
        None,
        "minutes between checkpoints, in addition to save_interval, by the clock of the first rank; null: none (ours)",
        unit="minutes",
        range=Range(0.01, 100_000, "a checkpoint takes seconds, and 100,000 minutes are ten weeks"),
    )
    max_hours: float | None = key(
        None,
        "hours after which a training writes a checkpoint and stops; counted anew in each start; null: no limit (ours)",
        unit="hours",
        range=Range(0.0001, 10_000, "a step takes a fraction of a second at least, and 10,000 hours are a year"),
    )
    keep_best: bool = key(
        False,
        "keep the weights of the step with the lowest validation loss in the training's snapshots/best-STEP: the loss of the first "
        "set of valid_data, of the average weights if the optimizer keeps one. Needs valid_data and eval_interval (ours)",
    )
    max_skipped_steps: int = key(
        10,
        "maximum number of steps skipped because loss or gradient is not finite; one more fails the training and lists "
        "their clips (ours)",
        unit="steps",
        range=Range(0, 1_000_000_000, "0 stops training at the first skipped step, and a large number never stops it"),
    )
    auto_warmup: bool = key(False, "start with upstream's plateau: 100 steps at 5 % of lr (ours)")
    max_reject_share: float = key(0.5, "maximum fraction of rejected clips; above it scan fails (ours)", range=SHARE)
    flush_seconds: float = key(
        30.0,
        "encoded rows are written to disk at least this often (ours)",
        unit="s",
        range=Range(0, 86_400, "a killed process loses unwritten rows, and a day of work is too much"),
    )
    flush_megabytes: float = key(
        256,
        "encoded rows are written to disk after this many megabytes (ours)",
        unit="MB",
        range=Range(0, 1_000_000, "rows are kept in memory until then"),
    )
    encode_batch: int = key(1, "clips per VAE batch (ours)", unit="clips", range=CLIPS)
    image_noise_draws: int = key(
        4,
        "image-to-video: noised versions of each first frame to encode; training draws one of them. 0: without noise "
        "(ours)",
        range=Range(0, 1024, "each is one more encoding of every clip's first frame"),
    )
    text_batch: int = key(8, "captions per T5 batch (ours)", range=CLIPS)
    sampling_count: int | None = key(
        4,
        "number of captions of the data set to sample; null: all (ours)",
        range=Range(0, 1_000_000, "each is a full sampling run"),
    )
    sampling_guided: bool = key(True, "use the sampler's guider for the evaluated samples; false: scale 1 (ours)")
    sampling_controls: list[str] = key(
        [],
        "additional samples for comparison: base model, shuffled captions, no caption, guided (ours)",
        choices=["base", "shuffled", "null", "guided"],
    )
    sampling_steps: int | None = key(
        None, "sampling steps; null: sampler_config's num_steps (ours)", unit="steps", range=SAMPLING_STEPS
    )
    sampling_batch: int = key(1, "samples per batch; does not change results (ours)", range=CLIPS)
    ema_sampling: bool = key(False, "export and sample the moving average of the weights (ours)")
    export_formats: list[str] = key(
        [],
        "additional formats; always written: diffusers_lora and comfyui_lora for a LoRA, diffusers for a full network, and "
        "sat_lora or sat for a network that diffusers does not have (ours)",
        choices=[
            "diffusers",
            "sat",
            "merged",
            "diffusers_lora",
            "folded_lora",
            "peft",
            "comfyui_lora",
            "kohya",
            "sat_lora",
        ],
    )
    export_precision: str = key("fp32", "precision of exported weights (ours)", choices=["fp32", "bf16", "fp16"])
    export_shard_gigabytes: float = key(
        5,
        "maximum size of a shard of a diffusers folder (ours)",
        unit="GB",
        range=Range(1e-5, 1000, "a shard is one file with at least one tensor"),
    )
    export_license: str | None = key(
        None, "license in exported files; null: that of the published model of this size (ours)"
    )


@dataclass(kw_only=True)
class ArgsSection(OwnArgs, SampleArgs, TrainArgs):
    """All keys of the section."""

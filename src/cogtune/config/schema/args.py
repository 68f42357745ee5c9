"""Keys of `args`: SwissArmyTransformer's and CogVideo's command line, and our own (marked so)."""

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
    SHARE,
    STEPS,
    THREADS,
    Range,
    key,
)

_NO_DATA = ", where there is no data section; else data.params says it"
_STRICT = "weights are checked against the model, and frozen parts are not in its checkpoint"
_NEVER = "upstream never reads it"
_LAUNCH = "the train stage starts its ranks and gives each its device"
_STORE = "checkpoints and results live in the store; results/<experiment>/ links to them"
_RANDOM = "there is no random state: every draw comes from (seed, step, place in the batch)"
_SHARDS = "webdataset shards are not read; unpack them into a folder for train_data"

EXPORT_FORMATS = {
    "diffusers": "transformer folder of a diffusers pipeline; a LoRA is folded in",
    "sat": "SAT folder; a LoRA stays beside the weights, as upstream's LoRA YAML reads it",
    "merged": "SAT folder with the LoRA folded in, as upstream's plain YAML reads it",
    "diffusers_lora": "LoRA for load_lora_weights of diffusers, 0.35 and later",
    "folded_lora": "the same with the strength multiplied in: older diffusers, kijai's CogVideoXWrapper",
    "peft": "LoRA folder of PEFT",
    "comfyui_lora": "LoRA for ComfyUI's own CogVideoX nodes",
    "kohya": "LoRA in kohya's names, for tools of that line",
    "sat_lora": "SAT folder with the adapters only",
}
"""What weights are written as, and for whom; the writers are in model/weights/formats.py."""
WHOLE_FORMATS = ("diffusers", "sat", "merged")
"""Those that hold a whole network, whether it was a LoRA that trained or not."""


@dataclass(kw_only=True)
class Load:
    """`load` as a mapping: start from another experiment's result."""

    experiment: str = key(REQUIRED, "name of an experiment of config/config.yaml")


@dataclass(kw_only=True)
class TrainArgs:
    """Training."""

    experiment_name: str = key(
        "MyModel",
        "name of the run",
        without_effect="config/config.yaml names the experiments, and `--name` a run by hand",
    )
    mode: str = key(
        "pretrain",
        "finetune and pretrain train alike here; inference only samples: no data set is read and nothing is trained or "
        "exported, `load` is sampled as it is with the prompts of input_file",
        choices=["pretrain", "finetune", "inference"],
    )
    load: Load | str | None = key(
        None,
        "weights to start from, in any format that `cogtune weights inspect` knows, or {experiment: name}; null: random",
        file=True,
    )
    seed: int = key(1234, "of every draw", range=Range(1, 2**32 - 1, "upstream seeds NumPy too, which takes 32 bits"))
    train_iters: int | None = key(None, "optimizer steps; null without epochs: 10000", unit="steps", range=STEPS)
    epochs: int | None = key(
        None,
        "passes over the data, instead of train_iters",
        range=Range(1, 1_000_000, "no training in use has more than thousands"),
    )
    batch_size: int = key(
        4,
        "clips of one rank in one pass; deepspeed.train_micro_batch_size_per_gpu wins among files",
        unit="clips",
        range=CLIPS,
    )
    gradient_accumulation_steps: int = key(
        1, "passes to one step; deepspeed.gradient_accumulation_steps wins among files", range=ACCUMULATION
    )
    lr: float = key(1e-4, "peak learning rate; deepspeed.optimizer.params.lr wins among files", range=LR)
    weight_decay: float = key(
        0.01, "decoupled decay; deepspeed.optimizer.params.weight_decay wins among files", range=DECAY
    )
    lr_decay_style: str = key(
        "linear", "schedule after the warmup", choices=["constant", "linear", "cosine", "exponential"]
    )
    lr_decay_iters: int | None = key(None, "steps of the schedule; null: all", unit="steps", range=STEPS)
    lr_decay_ratio: float = key(0.1, "where cosine ends, as a share of lr", range=SHARE)
    warmup: float = key(0.01, "share of the steps in which the rate rises; 0 is legal", range=SHARE)
    fp16: bool = key(False, "half precision; in training the deepspeed section decides")
    bf16: bool = key(False, "bfloat16; in training the deepspeed section decides")
    zero_stage: int = key(0, "ZeRO stage; deepspeed.zero_optimization.stage wins among files", choices=[0, 1, 2, 3])
    checkpoint_activations: bool | str = key(
        False,
        "what a layer keeps for the backward pass. full (= true): its input; attention: and the result of attention; "
        "selective (= false): and the products of its linear layers; none: everything. Less memory costs time",
        choices=checkpointing.CHOICES,
        canonical=checkpointing.canonical,
    )
    log_interval: int = key(50, "steps between two lines of the log", unit="steps", range=STEPS)
    save_interval: int = key(5000, "steps between two checkpoints", unit="steps", range=STEPS)
    eval_interval: int | None = key(None, "steps between two validation losses; null: never", unit="steps", range=STEPS)
    eval_iters: int = key(
        100, "batches of a validation loss", range=Range(1, 1_000_000, "each is a forward pass of the network")
    )
    eval_batch_size: int | None = key(None, "clips of such a batch; null: as in training", unit="clips", range=CLIPS)
    train_data: list[str] | None = key(
        None, "folders with videos/ and labels/", file=True, folder="videos/ and labels/"
    )
    valid_data: list[str] | None = key(
        None, "folders with clips that are not trained on", file=True, folder="videos/ and labels/"
    )
    num_workers: int = key(1, "threads that decode and read", range=Range(0, 1024, THREADS.why))

    checkpoint_num_layers: int = key(
        1, "layers recomputed together", without_effect="each layer is recomputed by itself"
    )
    checkpoint_skip_layers: int = key(
        0, "layers that are not recomputed", without_effect="all layers are recomputed, or none"
    )
    model_parallel_size: int = key(
        1,
        "ranks that share one layer",
        refused="tensor parallelism is not available; set 1, and use ZeRO to fit a model into memory",
    )
    save: str | None = key(None, "folder for checkpoints", without_effect=_STORE)
    save_args: bool = key(
        False, "write the arguments down", without_effect="results/<experiment>/config.yaml always says them"
    )
    summary_dir: str = key(
        "",
        "folder for TensorBoard",
        without_effect="the report draws the curves; deepspeed.tensorboard writes DeepSpeed's",
    )
    force_train: bool = key(False, "train in spite of missing weights", without_effect=_STRICT)
    force_pretrain: bool = key(False, "train in spite of missing weights", without_effect=_STRICT)
    no_save_rng: bool = key(False, "checkpoint without random state", without_effect=_RANDOM)
    no_load_rng: bool = key(False, "resume without random state", without_effect=_RANDOM)
    resume_dataloader: bool = key(
        False, "resume at the same data", without_effect="a resumed run always goes on where it was"
    )
    exit_interval: int | None = key(
        None, "leave after so many steps", without_effect="a run may be stopped at any time and resumes by itself"
    )
    distributed_backend: str = key(
        "nccl", "communication", without_effect="the device decides: NCCL on GPUs, gloo on the CPU"
    )
    device: int = key(-1, "device of this process", without_effect=_LAUNCH)
    local_rank: int | None = key(None, "rank on this machine", without_effect=_LAUNCH)
    profiling: int = key(-1, "step at which the profiler starts", without_effect="deepspeed.flops_profiler does it")
    wandb: bool = key(
        False,
        "log to Weights & Biases",
        without_effect="only DeepSpeed's own monitor sends figures there",
        request="set deepspeed.wandb: {enabled: true, project: …} and pip install wandb, or read the curves in the report",
    )
    wandb_project_name: str = key("default_project", "its project", without_effect="deepspeed.wandb does it")
    wandb_project_entity: str | None = key(None, "its team (forks)", without_effect="deepspeed.wandb.team does it")
    debug: bool = key(False, "debug mode", without_effect="`cogtune --debug` does it")
    log_image: bool = key(True, "log images", without_effect="samples are made after training, and shown in the report")
    strict_eval: bool = key(
        False, "evaluate all of the data", without_effect="eval_iters batches are drawn, the same ones each time"
    )
    split: str = key(
        "1000,1,1", "shares of training, validation, test", without_effect="train_data is trained on, valid_data is not"
    )
    test_data: list[str] | None = key(None, "test folders", without_effect="valid_data holds what is not trained on")
    train_data_weights: list[int] | None = key(
        None, "weights of the folders", refused="folders cannot be weighted; leave it out"
    )
    iterable_dataset: bool | str = key(False, "read webdataset shards", refused=_SHARDS)
    iterable_dataset_eval: str = key("", "read webdataset shards", refused=_SHARDS)
    batch_from_same_dataset: bool = key(False, "one folder per batch", refused="batches mix all folders; leave it out")
    block_size: int = key(10000, "block of the data index", without_effect="each epoch is one permutation of the data")
    prefetch_factor: int = key(
        4, "batches read ahead", without_effect="latents are read from the cache, one batch ahead"
    )
    base: list[str] | None = key(
        None, "config files", refused="name parents at the top level of the file: `base: [other.yaml]`"
    )
    deepspeed: bool = key(False, "use DeepSpeed", without_effect="training always uses it")
    deepspeed_config: str | None = key(None, "JSON file", refused="write its content into the `deepspeed:` section")
    deepscale: bool = key(False, "old name of deepspeed", without_effect="training always uses DeepSpeed")
    deepscale_config: str | None = key(None, "JSON file", refused="write its content into the `deepspeed:` section")


@dataclass(kw_only=True)
class SampleArgs:
    """Sampling, upstream's keys."""

    input_type: str = key("cli", "txt: prompts of input_file; cli: the data set's captions", choices=["cli", "txt"])
    input_file: str | None = key("input.txt", "prompts, one a line, with input_type txt", file=True)
    image2video: bool = key(
        False,
        "the lines of input_file are `prompt@@image`; an image-to-video model turns it on by itself. Image paths are "
        "looked up beside input_file, then in the working directory, and may not leave the two",
    )
    sampling_image_size: list[int] = key(
        [768, 1360], f"size of a sample{_NO_DATA}", items="height, width", unit="pixels", range=PIXELS
    )
    sampling_num_frames: int = key(32, f"length of a sample{_NO_DATA}", unit="latent frames", range=LATENT_FRAMES)
    sampling_fps: float = key(8, f"frames a second{_NO_DATA}", unit="1/s", range=FPS)
    latent_channels: int = key(
        32, "channels of the latent", without_effect="network_config.params.out_channels says it"
    )
    output_dir: str = key("samples", "folder for videos", without_effect=_STORE)
    input_dir: str | None = key(
        None, "folder for inputs", without_effect="prompts come from input_file or from the data set"
    )
    force_inference: bool = key(False, "sample in spite of missing weights", without_effect=_STRICT)
    only_save_latents: bool = key(
        False, "keep latents, no video", without_effect="samples are kept as latents and as videos"
    )
    only_log_video_latents: bool = key(
        False, "log latents in training", without_effect="samples are made after training"
    )
    sdedit: bool = key(False, "start from a noised video", refused="sampling starts from noise; leave it out")
    final_size: int = key(2048, "size", without_effect=_NEVER)
    grid_num_rows: int = key(1, "rows of a grid", without_effect=_NEVER)
    lcm_steps: int | None = key(None, "LCM steps", without_effect=_NEVER)


@dataclass(kw_only=True)
class OwnArgs:
    """Keys that upstream does not have."""

    encoder_precision: str = key(
        "bf16", "of VAE and T5 when the caches are made (ours)", choices=["bf16", "fp16", "fp32"]
    )
    global_batch_size: int | None = key(
        None,
        "clips of one optimizer step on all ranks; null: micro batch x accumulation x ranks (ours)",
        unit="clips",
        range=Range(1, 1_000_000, "batches in use have at most thousands of clips"),
    )
    threads_per_rank: int = key(1, "CPU threads of a rank; another number gives other rounding (ours)", range=THREADS)
    keep_checkpoints: int = key(
        2, "checkpoints kept (ours)", range=Range(1, 1_000_000, "one is needed to resume; a large number keeps all")
    )
    max_skipped_steps: int = key(
        10,
        "steps that may be skipped because loss or gradient is no finite number; one more ends the training with the "
        "names of their clips (ours)",
        unit="steps",
        range=Range(0, 1_000_000_000, "0 stops training at the first skipped step, and a large number never stops it"),
    )
    auto_warmup: bool = key(False, "upstream's plateau: 100 steps at 5 % of lr (ours)")
    max_reject_share: float = key(0.5, "scan fails above this share of rejected clips (ours)", range=SHARE)
    flush_seconds: float = key(
        30.0,
        "encoded rows reach the disk at least this often (ours)",
        unit="s",
        range=Range(0, 86_400, "a killed process loses what it has not flushed, and a day of it is too much"),
    )
    flush_megabytes: float = key(
        256, "… or after so much (ours)", unit="MB", range=Range(0, 1_000_000, "rows wait in memory until then")
    )
    encode_batch: int = key(1, "clips that the VAE encodes at once (ours)", unit="clips", range=CLIPS)
    image_noise_draws: int = key(
        4,
        "image-to-video: noised first frames that are encoded of each clip, one is drawn each time; 0: without noise "
        "(ours)",
        range=Range(0, 1024, "each is one more encoding of every clip's first frame"),
    )
    text_batch: int = key(8, "captions that T5 encodes at once (ours)", range=CLIPS)
    sampling_count: int | None = key(
        4,
        "captions of the data set that are sampled; null: all (ours)",
        range=Range(0, 1_000_000, "each is a whole sampling"),
    )
    sampling_guided: bool = key(True, "the measured samples use the sampler's guider; false: scale 1 (ours)")
    sampling_controls: list[str] = key(
        [],
        "samples beside them: base model, shuffled captions, no caption, guided (ours)",
        choices=["base", "shuffled", "null", "guided"],
    )
    sampling_steps: int | None = key(
        None, "steps; null: sampler_config's num_steps (ours)", unit="steps", range=SAMPLING_STEPS
    )
    sampling_batch: int = key(1, "samples made at once; changes no result (ours)", range=CLIPS)
    ema_sampling: bool = key(False, "export and sample the moving average of the weights (ours)")
    export_formats: list[str] = key(
        [],
        "formats beside the default one, which is diffusers_lora for a LoRA and diffusers for a whole network (ours)",
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
    export_precision: str = key("fp32", "of exported weights (ours)", choices=["fp32", "bf16", "fp16"])
    export_shard_gigabytes: float = key(
        5,
        "a larger diffusers folder is written in shards of this size (ours)",
        unit="GB",
        range=Range(1e-5, 1000, "a shard is a file, and holds one tensor at least"),
    )
    export_license: str | None = key(
        None, "license noted in exported files; null: the published model's, by its size (ours)"
    )


@dataclass(kw_only=True)
class ArgsSection(OwnArgs, SampleArgs, TrainArgs):
    """The whole section."""

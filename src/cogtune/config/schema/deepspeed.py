"""Keys of `deepspeed`. A default of null means DeepSpeed's own default; DeepSpeed itself ignores unknown keys.

Source: DeepSpeed 0.19, deepspeed/runtime/{config,zero/config,zero/offload_config,precision_config}.py.
"""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import (
    ACCUMULATION,
    CLIPS,
    DECAY,
    ELEMENTS,
    FACTOR,
    LR,
    RANKS,
    SHARE,
    STEPS,
    OmitNulls,
    Range,
    key,
)

Component = dict[str, Any]

REDUCE_BUCKET_SIZE = 500_000_000
PERSISTENCE_THRESHOLD = 100_000
MAX_LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed's values of `zero_optimization` for the null keys that a plan needs."""

_BUCKET: dict[str, Any] = {"unit": "elements", "whole": True, "range": ELEMENTS}
_FROM_0 = Range(0, ELEMENTS.maximum, ELEMENTS.why)
_LOSS_SCALE = Range(0, 2**32, "fp16 ends at 2^16, and DeepSpeed's old default is 2^32")
_MISPLACED = "DeepSpeed reads it in its fp16 section only (upstream ignores it too)"
_PARTS = "PyTorch recomputes activations, block by block (args.checkpoint_activations)"
_REMOVED = "DeepSpeed has removed this key; remove it"
_NOT_HERE = "not supported by this trainer; remove it"
_FUSED = "the step is always PyTorch's fused one, on GPUs and CPUs"


@dataclass(kw_only=True)
class Offload(OmitNulls):
    """Keys of both offloads."""

    device: str = key("none", "target device", choices=["none", "cpu", "nvme"])
    nvme_path: str | None = key(None, "folder on the NVMe device")
    pin_memory: bool | None = key(None, "use page-locked memory (DeepSpeed: true)")
    buffer_count: int | None = key(
        None, "number of buffers for NVMe", range=Range(1, 1024, "each buffer takes CPU memory")
    )


@dataclass(kw_only=True)
class OffloadOptimizer(Offload):
    """`offload_optimizer`: keep the optimizer outside GPU memory (ZeRO 1 and above)."""

    pipeline_read: bool | None = key(None, "NVMe: overlap reading with the step")
    pipeline_write: bool | None = key(None, "NVMe: overlap writing with the step")
    fast_init: bool | None = key(None, "NVMe: fast initialisation")
    ratio: float | None = key(None, "fraction updated on the CPU (ZeRO 3; DeepSpeed: 1)", range=SHARE)


@dataclass(kw_only=True)
class OffloadParam(Offload):
    """`offload_param`: keep weights outside GPU memory (ZeRO 3)."""

    buffer_size: int | None = key(None, "NVMe: size of a buffer (DeepSpeed: 1e8)", **_BUCKET)
    max_in_cpu: int | None = key(None, "NVMe: elements kept in CPU memory (DeepSpeed: 1e9)", **_BUCKET)


@dataclass(kw_only=True)
class ZeroOptimization(OmitNulls):
    """`zero_optimization`: what is split over the ranks."""

    stage: int = key(
        0,
        "0: nothing (with bf16 and fp16 it runs as 1), 1: optimizer, 2: also gradients, 3: also weights",
        choices=[0, 1, 2, 3],
    )
    contiguous_gradients: bool | None = key(None, "copy gradients into one buffer (DeepSpeed: true)")
    overlap_comm: bool | None = key(None, "reduce during the backward pass")
    reduce_scatter: bool | None = key(None, "reduce-scatter instead of all-reduce (DeepSpeed: true)")
    reduce_bucket_size: int | None = key(None, "elements reduced at once (DeepSpeed: 5e8)", **_BUCKET)
    allgather_partitions: bool | None = key(None, "all-gather weights after the step (DeepSpeed: true)")
    allgather_bucket_size: int | None = key(None, "elements gathered at once (DeepSpeed: 5e8)", **_BUCKET)
    use_multi_rank_bucket_allreduce: bool | None = key(None, "merge the buckets of several ranks (DeepSpeed: true)")
    round_robin_gradients: bool | None = key(None, "spread gradient copies over ranks (ZeRO 2 with CPU offload)")
    offload_optimizer: OffloadOptimizer | None = key(None, "keep the optimizer outside GPU memory (ZeRO 1 and above)")
    offload_param: OffloadParam | None = key(None, "keep weights outside GPU memory (ZeRO 3)")
    cpu_offload: bool = key(False, "old switch", refused="use `offload_optimizer: {device: cpu}`")
    load_from_fp32_weights: bool | None = key(
        None,
        "restore fp32 master weights on resume; always true, as false loses precision and changes resumed runs",
    )
    ignore_unused_parameters: bool | None = key(None, "allow parameters without gradients (DeepSpeed: true)")
    sub_group_size: int | None = key(None, "elements updated at once (ZeRO 3; DeepSpeed: 1e9)", **_BUCKET)
    stage3_prefetch_bucket_size: int | None = key(
        None, "elements prefetched (ZeRO 3; DeepSpeed: 5e7)", unit="elements", whole=True, range=_FROM_0
    )
    stage3_param_persistence_threshold: int | None = key(
        None,
        "tensors below this size are not split (ZeRO 3; DeepSpeed: 1e5)",
        unit="elements",
        whole=True,
        range=_FROM_0,
    )
    stage3_model_persistence_threshold: int | None = key(
        None, "maximum number of elements that are not split (ZeRO 3)", unit="elements", whole=True, range=_FROM_0
    )
    stage3_max_live_parameters: int | None = key(
        None, "maximum number of gathered elements (ZeRO 3; DeepSpeed: 1e9)", unit="elements", whole=True, range=_FROM_0
    )
    stage3_max_reuse_distance: int | None = key(
        None,
        "keep weights that are reused within this many elements (ZeRO 3; DeepSpeed: 1e9)",
        unit="elements",
        whole=True,
        range=_FROM_0,
    )
    stage3_gather_16bit_weights_on_model_save: bool | None = key(
        None, "gather weights when saving", without_effect="cogtune writes checkpoints with full tensors"
    )
    zero_hpz_partition_size: int | None = key(
        None, "ranks per node that share a secondary copy (ZeRO++; DeepSpeed: 1)", range=RANKS
    )
    zero_quantized_weights: bool | None = key(None, "quantise weights for the all-gather (ZeRO++)")
    zero_quantized_gradients: bool | None = key(None, "quantise gradients for the reduce (ZeRO++)")
    elastic_checkpoint: bool | None = key(
        None, "checkpoints for any number of ranks", without_effect="cogtune writes checkpoints for any number of ranks"
    )


@dataclass(kw_only=True)
class Fp16(OmitNulls):
    """`fp16`: half precision with loss scaling."""

    enabled: bool = key(False, "train in fp16 (upstream: for CogVideoX-2B); needs a GPU")
    auto_cast: bool | None = key(None, "cast inputs")
    loss_scale: float | None = key(None, "fixed loss scale; 0 (DeepSpeed's default): dynamic", range=_LOSS_SCALE)
    initial_scale_power: int | None = key(
        None,
        "dynamic: exponent of the initial scale, 2^x (DeepSpeed: 16)",
        range=Range(0, 32, "2^32 is DeepSpeed's old default, and fp16 ends at 2^16"),
    )
    loss_scale_window: int | None = key(
        None, "dynamic: raise after this many steps without overflow (DeepSpeed: 1000)", unit="steps", range=STEPS
    )
    hysteresis: int | None = key(None, "dynamic: lower after this many overflows (DeepSpeed: 2)", range=STEPS)
    consecutive_hysteresis: bool | None = key(None, "dynamic: reset the hysteresis after a step without overflow")
    min_loss_scale: int | None = key(
        None, "dynamic: minimum scale (DeepSpeed: 1)", range=Range(1, _LOSS_SCALE.maximum, _LOSS_SCALE.why)
    )
    fp16_master_weights_and_grads: bool | None = key(None, "master weights in fp16 (DeepSpeedCPUAdam only)")


@dataclass(kw_only=True)
class Bf16(OmitNulls):
    """`bf16`: bfloat16, without loss scaling."""

    enabled: bool = key(False, "train in bfloat16 (upstream: for CogVideoX-5B and 1.5)")
    immediate_grad_update: bool | None = key(None, "add to fp32 gradients immediately")
    check_grad_overflow: bool | None = key(None, "skip steps with overflowing gradients (DeepSpeed: true)")
    bf16_master_weights_and_grads: bool | None = key(None, "master weights in bf16")
    bf16_optimizer_states: bool | None = key(None, "optimizer state in bf16")


@dataclass(kw_only=True)
class AdamParams:
    """`optimizer.params` of AdamW and Adam."""

    lr: float | None = key(
        None, "peak learning rate (LoRA: 5e-4 to 1e-3, full fine-tuning: 1e-5); null: args.lr", range=LR
    )
    betas: list[float] = key(
        [0.9, 0.999],
        "decay of the moments",
        items="first, second",
        range=Range(0, 0.999999, "at 1 the moments never change, and AdamW divides by 1 - beta^n"),
    )
    eps: float = key(
        1e-8,
        "added to the root of the second moment",
        range=Range(1e-16, 1, "at 0, a weight without gradient becomes 0 / 0; upstream uses 1e-8"),
    )
    weight_decay: float | None = key(
        None, "decoupled weight decay, not applied to biases and norms; null: args.weight_decay", range=DECAY
    )
    amsgrad: bool = key(False, "use the maximum of the second moment")
    adam_w_mode: bool = key(True, "decoupled decay (AdamW), as in DeepSpeed; false: L2 decay")
    adamw_mode: bool = key(True, "DeepSpeedCPUAdam's name of adam_w_mode", refused="set adam_w_mode")
    bias_correction: bool = key(True, "divide the moments by 1 - beta^n", refused="it is always on; remove it")
    torch_adam: bool = key(False, "use PyTorch's implementation", without_effect=_FUSED)
    fused: bool = key(True, "use one kernel for the step", without_effect=_FUSED)
    foreach: bool = key(False, "use kernels over lists of tensors", without_effect=_FUSED)
    set_grad_none: bool = key(True, "free gradients", without_effect="DeepSpeed manages the gradients")
    fp32_optimizer_states: bool = key(
        True, "moments in fp32 (DeepSpeedCPUAdam)", refused="set bf16.bf16_optimizer_states to keep them in bf16"
    )
    max_grad_norm: float = key(0.0, "clipping by the optimizer", refused="set deepspeed.gradient_clipping")


@dataclass(kw_only=True)
class AdamW8bitParams(AdamParams):
    """`optimizer.params` of AdamW8bit: AdamW whose moments take 8 bits each, from the package bitsandbytes. GPU only. A
    training resumes only with the same number of ranks and ZeRO stage: blocks of moments share a scale."""

    amsgrad: bool = key(False, "use the maximum of the second moment", refused="bitsandbytes has no amsgrad")
    adam_w_mode: bool = key(True, "decoupled decay", refused="AdamW8bit always decouples it")


@dataclass(kw_only=True)
class FusedEmaAdamParams(AdamParams):
    """`optimizer.params` of FusedEmaAdam: AdamW that keeps a moving average of the weights."""

    ema_decay: float = key(0.9999, "decay of the average", range=Range(0, 0.999999, "at 1 the average never changes"))
    use_num_upates: bool = key(True, "limit the decay at step n to (1 + n) / (10 + n); upstream's spelling")
    adam_w_mode: bool = key(
        True, "decoupled decay", refused="FusedEmaAdam is always AdamW; for plain Adam set type: Adam"
    )


@dataclass(kw_only=True)
class Optimizer(OmitNulls):
    """`optimizer`."""

    type: str = key(
        "AdamW",
        "sat.ops.FusedEmaAdam (AdamW with a moving average), AdamW, Adam (also as FusedAdam, CPUAdam, DeepSpeedCPUAdam), or "
        "AdamW8bit",
        node="optimizer",
    )
    params: Component = key({}, "its parameters")
    legacy_fusion: bool | None = key(None, "old fused kernel", without_effect="PyTorch's optimizer is used")


@dataclass(kw_only=True)
class ActivationCheckpointing(OmitNulls):
    """`activation_checkpointing`: only for modules that use DeepSpeed's checkpointing; the network does not."""

    partition_activations: bool | None = key(None, "split over tensor-parallel ranks", without_effect=_PARTS)
    cpu_checkpointing: bool | None = key(None, "keep activations on the CPU", without_effect=_PARTS)
    contiguous_memory_optimization: bool | None = key(None, "use one buffer", without_effect=_PARTS)
    number_checkpoints: int | None = key(None, "number of checkpoints in the buffer", without_effect=_PARTS)
    synchronize_checkpoint_boundary: bool | None = key(None, "synchronise", without_effect=_PARTS)
    profile: bool | None = key(None, "measure time", without_effect=_PARTS)


@dataclass(kw_only=True)
class Monitor(OmitNulls):
    """`tensorboard`, `csv_monitor`: the curves of a training, as cogtune writes them: DeepSpeed gets the learning rate
    only."""

    enabled: bool = key(False, "write the curves")
    output_path: str | None = key(
        None, "folder, which gets one for each training; null: in the training's folder in the store"
    )
    job_name: str | None = key(None, "folder in output_path")


@dataclass(kw_only=True)
class Wandb(OmitNulls):
    """`wandb`: the curves, for Weights & Biases."""

    enabled: bool = key(False, "log the curves; as args.wandb")
    group: str | None = key(None, "group of runs")
    team: str | None = key(None, "team; null: args.wandb_project_entity")
    project: str | None = key(None, "project; null: args.wandb_project_name")


@dataclass(kw_only=True)
class FlopsProfiler(OmitNulls):
    """`flops_profiler`."""

    enabled: bool = key(False, "profile one step")
    profile_step: int | None = key(None, "step to profile (DeepSpeed: 1)", range=Range(0, STEPS.maximum, STEPS.why))
    module_depth: int | None = key(
        None, "depth of the module tree; -1: all", range=Range(-1, 1000, "-1 means all levels")
    )
    top_modules: int | None = key(
        None, "modules listed (DeepSpeed: 1)", range=Range(1, 1000, "longer tables are of no use")
    )
    detailed: bool | None = key(None, "list all modules (DeepSpeed: true)")
    output_file: str | None = key(None, "file; null: the log")


@dataclass(kw_only=True)
class CommsLogger(OmitNulls):
    """`comms_logger`."""

    enabled: bool = key(False, "log communication")
    verbose: bool | None = key(None, "log each call")
    prof_all: bool | None = key(None, "log all operations (DeepSpeed: true)")
    debug: bool | None = key(None, "log the caller's name")
    prof_ops: list[str] | None = key(None, "log only these operations")


@dataclass(kw_only=True)
class DataTypes(OmitNulls):
    """`data_types`."""

    grad_accum_dtype: str | None = key(None, "precision of accumulated gradients", choices=["fp32", "fp16", "bf16"])


@dataclass(kw_only=True)
class DeepSpeedSection(OmitNulls):
    """All keys of the section."""

    train_micro_batch_size_per_gpu: int | None = key(
        None, "clips per rank and forward pass; null: args.batch_size", unit="clips", range=CLIPS
    )
    gradient_accumulation_steps: int | None = key(
        None, "passes per step; null: args.gradient_accumulation_steps", range=ACCUMULATION
    )
    train_batch_size: int | None = key(
        None,
        "clips per step",
        refused="remove it, or set args.global_batch_size, from which accumulation follows",
    )
    gradient_clipping: float = key(
        0.0,
        "maximum norm of the gradient; 0: no clipping",
        range=Range(0, 1_000_000, "gradient norms are near 1; 0 disables clipping"),
    )
    optimizer: Optimizer = key(Optimizer, "the optimizer")
    scheduler: Component | None = key(
        None, "learning rate schedule", refused="args.lr_decay_style and args.warmup set the schedule; remove it"
    )
    zero_optimization: ZeroOptimization = key(ZeroOptimization, "what is split over the ranks")
    bf16: Bf16 = key(Bf16, "bfloat16")
    fp16: Fp16 = key(Fp16, "half precision")
    activation_checkpointing: ActivationCheckpointing = key(
        ActivationCheckpointing, "DeepSpeed's activation checkpointing"
    )
    zero_allow_untested_optimizer: bool = key(
        True, "allow sat's optimizer under ZeRO", without_effect="it is always true; the optimizer is tested with ZeRO"
    )
    zero_force_ds_cpu_optimizer: bool = key(
        False, "DeepSpeed's CPU Adam with offload", without_effect="it is always false; its kernel needs a compiler"
    )
    prescale_gradients: bool | None = key(None, "divide gradients before the reduce")
    gradient_predivide_factor: float | None = key(
        None, "divisor of gradients before the reduce (DeepSpeed: 1.0)", range=FACTOR
    )
    communication_data_type: str | None = key(None, "precision of the reduce", choices=["fp32", "fp16", "bf16"])
    data_types: DataTypes | None = key(None, "precisions")
    steps_per_print: int | None = key(None, "DeepSpeed's own log interval", unit="steps", range=STEPS)
    wall_clock_breakdown: bool | None = key(None, "DeepSpeed logs times")
    memory_breakdown: bool | None = key(None, "DeepSpeed logs memory")
    dump_state: bool | None = key(None, "DeepSpeed prints its state at the start")
    log_level: str | None = key(None, "DeepSpeed's log level")
    disable_allgather: bool | None = key(None, "old switch", without_effect="DeepSpeed ignores it")
    dataloader_drop_last: bool | None = key(
        None, "for DeepSpeed's data loader", without_effect="batches are always full"
    )
    flops_profiler: FlopsProfiler | None = key(None, "count operations")
    comms_logger: CommsLogger | None = key(None, "log communication")
    tensorboard: Monitor | None = key(
        None, "curves for TensorBoard; null: written if it is installed; `enabled: false`: not written"
    )
    csv_monitor: Monitor | None = key(None, "curves as CSV files")
    wandb: Wandb | None = key(None, "curves for Weights & Biases")
    loss_scale: float | None = key(None, "key of the fp16 section", without_effect=_MISPLACED)
    loss_scale_window: int | None = key(None, "key of the fp16 section", without_effect=_MISPLACED)
    hysteresis: int | None = key(None, "key of the fp16 section", without_effect=_MISPLACED)
    min_loss_scale: float | None = key(None, "key of the fp16 section", without_effect=_MISPLACED)
    initial_scale_power: int | None = key(None, "key of the fp16 section", without_effect=_MISPLACED)


_GONE = """nebula compression_training amp quantize_training sparse_gradients eigenvalue sparse_attention elasticity
graph_harvesting curriculum_learning progressive_layer_drop"""
_UNUSED = """autotuning hybrid_engine pipeline data_efficiency checkpoint tensor_parallel expert_parallel
sequence_parallel_size seq_parallel_communication_data_type weight_quantization datastates vocabulary_size
use_data_before_expert_parallelism torch_autocast compile timers aio comet disable_python_gc gradient_allreduce_op
managed_gradient_accumulation"""
REFUSED = {
    **dict.fromkeys(_GONE.split(), _REMOVED),
    **dict.fromkeys(_UNUSED.split(), _NOT_HERE),
    "bfloat16": "old spelling; use bf16",
}
"""Keys of DeepSpeed that are an error, with the reason."""

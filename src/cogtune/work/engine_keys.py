"""Which keys of `deepspeed` name a training, and which may change while it runs.

A key is *volatile* if it decides only where numbers are, when they are sent, or what is reported: the weights are the same,
up to the order of sums. It may differ from start to start of one training. All others are *identity*: another value is
another training, from step 0. `tests/unit/work/test_engine_keys.py` requires a row for every key of the schema.
"""

from typing import Any

from cogtune.config.deepspeed_limits import stage_of, value_of

_PRINTED = "only prints or writes reports"
_SAME_BATCH = "args.global_batch_size names the batch; these only cut it into passes"
_TRANSFER = "when, and in pieces of which size, the same numbers are sent"
_LAYOUT = "which device holds which numbers; a checkpoint has them by name, for any layout"
_ALWAYS = "has one value in every training"
_ROUNDING = "rounds weights or gradients that are sent"
_ACCUMULATED = "rounds sums of gradients"

VOLATILE_KEYS: dict[str, str] = {
    **dict.fromkeys(
        (
            "steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "log_level", "flops_profiler",
            "comms_logger", "tensorboard", "wandb", "csv_monitor",
        ),
        _PRINTED,
    ),
    **dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), _SAME_BATCH),
    **dict.fromkeys(
        (
            "zero_optimization.contiguous_gradients", "zero_optimization.overlap_comm", "zero_optimization.reduce_scatter",
            "zero_optimization.reduce_bucket_size", "zero_optimization.allgather_partitions",
            "zero_optimization.allgather_bucket_size", "zero_optimization.use_multi_rank_bucket_allreduce",
            "zero_optimization.stage3_prefetch_bucket_size", "zero_optimization.stage3_max_live_parameters",
            "zero_optimization.stage3_max_reuse_distance", "zero_optimization.zero_hpz_partition_size",
        ),
        _TRANSFER,
    ),
    **dict.fromkeys(
        (
            "zero_optimization.stage", "zero_optimization.offload_optimizer", "zero_optimization.offload_param",
            "zero_optimization.sub_group_size", "zero_optimization.stage3_param_persistence_threshold",
            "zero_optimization.stage3_model_persistence_threshold", "zero_optimization.round_robin_gradients",
        ),
        _LAYOUT,
    ),
    "zero_optimization.ignore_unused_parameters": "only decides whether a parameter without gradient is an error",
    "zero_optimization.load_from_fp32_weights": _ALWAYS,
}  # fmt: skip

IDENTITY_KEYS: dict[str, str] = {
    "optimizer": "what a step does",
    "gradient_clipping": "what a step does",
    **dict.fromkeys(("bf16", "fp16"), "the precision of weights, masters and optimizer state, and the scale of the loss"),
    **dict.fromkeys(("prescale_gradients", "gradient_predivide_factor", "communication_data_type"), _ROUNDING),
    **dict.fromkeys(
        ("zero_optimization.zero_quantized_weights", "zero_optimization.zero_quantized_gradients"), _ROUNDING
    ),
    "data_types": _ACCUMULATED,
}  # fmt: skip
"""Key below `deepspeed`, with everything below it -> the reason."""


def recorded(section: dict[str, Any]) -> dict[str, Any]:
    """What a training writes down of the volatile keys in its section: those that are set, and the ZeRO stage as it runs."""
    values = {key: value_of(section, key) for key in VOLATILE_KEYS}
    return {key: value for key, value in values.items() if value is not None} | {
        "zero_optimization.stage": stage_of(section)
    }

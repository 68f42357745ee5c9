"""Table of settings that DeepSpeed rejects or silently ignores: (key, condition, message), used when a config is checked.

Each row was observed with DeepSpeed 0.19.8: it fails after loading the model, trains with wrong numbers, or ignores
the key. `tests/unit/train/test_deepspeed_limits.py` tests the table with the installed engine.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from cogtune.config.optimizers import STAGES, plugin_stages
from cogtune.config.plugins import load_class
from cogtune.config.registry import Entry, PluginEntry, find, kind
from cogtune.config.schema.common import fields_of

Section = dict[str, Any]
_CPU_ADAM = "needs DeepSpeedCPUAdam, whose kernel needs a compiler; cogtune uses PyTorch's optimizer; remove it"


@dataclass(frozen=True)
class Limit:
    """``key`` below `deepspeed`, when it is an error (given the whole section), and the message after its value."""

    key: str
    applies: Callable[[Section], bool]
    message: str


def value_of(section: Section, key: str) -> Any:
    """The value at a dotted key; None where it, or anything above it, is not set."""
    value: Any = section
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def stage_of(section: Section) -> int:
    """ZeRO's stage, as it runs. With bf16 or fp16, stage 0 runs as 1, so that all stages share one code path: DeepSpeed's
    wrapper without ZeRO does not scale the loss of fp16. Only a plugin that needs whole tensors stays at 0."""
    stage = value_of(section, "zero_optimization.stage") or 0
    half = any(value_of(section, f"{name}.enabled") for name in ("bf16", "fp16"))
    return 1 if stage == 0 and half and not _stages(section)[1] else stage


def _stages(section: Section) -> Mapping[int, str]:
    """The row of the section's optimizer in the table of ZeRO stages."""
    entry = _optimizer(section)
    return plugin_stages(load_class(entry.name)) if isinstance(entry, PluginEntry) else STAGES[entry.name]


def _on(key: str) -> Callable[[Section], bool]:
    return lambda section: bool(value_of(section, f"{key}.enabled"))


def _offloads(key: str) -> Callable[[Section], bool]:
    return lambda section: (value_of(section, f"zero_optimization.{key}.device") or "none") != "none"


def _nvme(key: str) -> Callable[[Section], bool]:
    return lambda section: value_of(section, f"zero_optimization.{key}.device") == "nvme"


def _below(stage: int, condition: Callable[[Section], bool]) -> Callable[[Section], bool]:
    return lambda section: stage_of(section) < stage and condition(section)


def _split(condition: Callable[[Section], bool]) -> Callable[[Section], bool]:
    """Stages 2 and 3, if gradients are split (reduce_scatter)."""

    def applies(section: Section) -> bool:
        reduced_unsplit = value_of(section, "zero_optimization.reduce_scatter") is False
        return stage_of(section) >= 2 and not reduced_unsplit and condition(section)

    return applies


def _set(key: str, *but: Any) -> Callable[[Section], bool]:
    return lambda section: value_of(section, key) not in (None, *but)


def _low_masters(section: Section) -> bool:
    low_masters = value_of(section, "bf16.bf16_master_weights_and_grads")
    return bool(low_masters and not value_of(section, "bf16.bf16_optimizer_states"))


def _states_alone(section: Section) -> bool:
    low_states = value_of(section, "bf16.bf16_optimizer_states")
    return bool(low_states and not value_of(section, "bf16.bf16_master_weights_and_grads"))


def _low_states_with(condition: Callable[[Section], bool]) -> Callable[[Section], bool]:
    return lambda section: bool(value_of(section, "bf16.bf16_optimizer_states")) and condition(section)


def _keeps_average(section: Section) -> bool:
    return kind(value_of(section, "optimizer.type") or "AdamW") == "FusedEmaAdam"


def _other_accumulation(section: Section) -> bool:
    accumulated = value_of(section, "data_types.grad_accum_dtype")
    trained = next((name for name in ("bf16", "fp16") if value_of(section, f"{name}.enabled")), "fp32")
    return accumulated not in (None, trained)


def _optimizer(section: Section) -> Entry:
    return find(value_of(section, "optimizer.type") or "AdamW", "optimizer")


def _is(name: str) -> Callable[[Section], bool]:
    return lambda section: _optimizer(section).name == name


def _all(*conditions: Callable[[Section], bool]) -> Callable[[Section], bool]:
    return lambda section: all(condition(section) for condition in conditions)


def _no_package(name: str) -> Callable[[Section], bool]:
    return lambda section: find_spec(name) is None


def _lacks(package: str, key: str) -> Callable[[Section], bool]:
    return _all(_on(key), _no_package(package))


_8BIT = "AdamW8bit"
_NO_NVME = "needs DeepSpeed's async_io, which is compiled at first use; set `device: cpu`"
_STAGE_1 = "needs ZeRO stage 1 or higher; set zero_optimization.stage to 1, 2 or 3, or remove it"

LIMITS = (
    Limit(
        "zero_optimization.stage", _below(1, _on("fp16")),
        "with fp16: DeepSpeed does not scale the loss at stage 0, but divides the gradients by the scale, so they are "
        "65,536 times too small and not clipped, and this plugin's optimizer needs stage 0; use bf16",
    ),
    Limit("zero_optimization.offload_optimizer.device", _below(1, _offloads("offload_optimizer")), _STAGE_1),
    Limit(
        "zero_optimization.offload_param.device", _below(3, _offloads("offload_param")),
        "needs ZeRO stage 3; set zero_optimization.stage: 3, or remove it",
    ),
    Limit("zero_optimization.offload_optimizer.device", _nvme("offload_optimizer"), _NO_NVME),
    Limit("zero_optimization.offload_param.device", _nvme("offload_param"), _NO_NVME),
    Limit("zero_optimization.offload_optimizer.ratio", _set("zero_optimization.offload_optimizer.ratio", 1), _CPU_ADAM),
    Limit("fp16.fp16_master_weights_and_grads", _set("fp16.fp16_master_weights_and_grads", False), _CPU_ADAM),
    Limit("bf16.bf16_master_weights_and_grads", _low_masters, f"{_CPU_ADAM}, or set bf16_optimizer_states: true too"),
    Limit("bf16.bf16_optimizer_states", _states_alone, "needs bf16_master_weights_and_grads: true too"),
    Limit("bf16.bf16_optimizer_states", _below(1, _low_states_with(lambda section: True)), _STAGE_1),
    Limit("bf16.bf16_optimizer_states", _low_states_with(_offloads("offload_optimizer")), f"with offload: {_CPU_ADAM}"),
    Limit(
        "bf16.bf16_optimizer_states", _low_states_with(_keeps_average),
        "with FusedEmaAdam: the moving average would be in bf16, where an update of 1e-4 is rounded away; set "
        "optimizer.type: AdamW",
    ),
    Limit(
        "gradient_predivide_factor", _split(_set("gradient_predivide_factor", 1)),
        "has no effect when ZeRO splits the gradients (stage 2 and higher); remove it",
    ),
    Limit(
        "prescale_gradients", _split(_set("prescale_gradients", False)),
        "has no effect when ZeRO splits the gradients (stage 2 and higher); remove it",
    ),
    Limit(
        "zero_optimization.round_robin_gradients",
        _set("zero_optimization.round_robin_gradients", False),
        "DeepSpeed then reads master weights in the wrong order (stages 1 and 2), so the weights that a training writes would "
        "be mixed up; remove it",
    ),
    Limit(
        "data_types.grad_accum_dtype", _below(1, _other_accumulation),
        "must equal the training precision at ZeRO stage 0; set zero_optimization.stage to 1, 2 or 3, or remove it",
    ),
    Limit(
        "optimizer.params.adam_w_mode",
        _all(_is("AdamW"), lambda section: value_of(section, "optimizer.params.adam_w_mode") is False),
        "with type: AdamW, which always decouples the decay; set type: Adam for L2 decay",
    ),
    Limit(
        "optimizer.type", _all(_is(_8BIT), _no_package("bitsandbytes")),
        "needs the package bitsandbytes, which is not installed; `pip install bitsandbytes`, or set type: AdamW",
    ),
    Limit(
        "zero_optimization.offload_optimizer.device", _all(_is(_8BIT), _offloads("offload_optimizer")),
        "with AdamW8bit, whose step runs on GPUs only; remove one of the two",
    ),
    Limit(
        "bf16.bf16_optimizer_states", _low_states_with(_is(_8BIT)),
        "with AdamW8bit, which keeps its states in 8 bits; remove one of the two",
    ),
    Limit(
        "tensorboard.enabled", _lacks("tensorboard", "tensorboard"),
        "TensorBoard is not installed; `pip install tensorboard`, or set it to false",
    ),
    Limit(
        "wandb.enabled", _lacks("wandb", "wandb"),
        "Weights & Biases is not installed; `pip install wandb`, or set it to false",
    ),
)  # fmt: skip

ZERO_3_KEYS = frozenset({
    "sub_group_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold",
    "stage3_model_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
    "zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_gradients",
})  # fmt: skip
_NOT_OF_A_STAGE = {"stage", "load_from_fp32_weights", "offload_optimizer", "offload_param"}


def refused(section: Section) -> Iterator[tuple[str, str]]:
    """(key below `deepspeed`, message) of every row that applies."""
    for limit in LIMITS:
        if limit.applies(section):
            value = value_of(section, limit.key)
            value_text = value if isinstance(value, str) else str(0 if value is None else value).lower()
            yield limit.key, f"{value_text}; {limit.message}"
    if problem := _stages(section)[stage_of(section)]:
        yield "zero_optimization.stage", f"{stage_of(section)} {problem}"


def idle(section: Section) -> Iterator[str]:
    """One line for each group of keys that are set and have no effect in this section."""
    stage, zero = stage_of(section), section.get("zero_optimization") or {}
    zero_keys = [name for name in zero if name not in _NOT_OF_A_STAGE]
    if keys := [name for name in zero_keys if stage == 0 or (stage < 3 and name in ZERO_3_KEYS)]:
        yield f"deepspeed.zero_optimization: ignored at stage {stage}: {', '.join(keys)}"
    entry = _optimizer(section)
    if isinstance(entry, PluginEntry) and "weight_decay" not in fields_of(entry.schema):
        yield f"deepspeed.optimizer: {entry.name} does not take weight_decay, so weights do not decay"
    for name in ("bf16", "fp16"):
        node = section.get(name) or {}
        if not node.get("enabled") and (keys := [key for key in node if key != "enabled"]):
            yield f"deepspeed.{name}: ignored, because it is not enabled: {', '.join(keys)}"

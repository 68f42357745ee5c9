"""Bytes of one training rank: weights, gradients and optimizer, as split by DeepSpeed's ZeRO.

Sources: ZeRO (arXiv:1910.02054, section 3) and DeepSpeed 0.19, runtime/zero/{stage_1_and_2,stage3}.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cogtune.plan.cost.transformer import Network, Parameter

_FP32 = 4
_STEP = 4
"""Bytes of a step counter: one fp32 number for each tensor that the optimizer sees."""
_ALIGNED = 2
"""ZeRO 1 and 2 pad a flat group so that each rank's part is a multiple of this (nccl_start_alignment_factor)."""
_BUCKET = 500_000_000
_PERSISTENT = 100_000
_LIVE = 1_000_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. ``host``: what is kept in CPU memory instead, under offload."""

    weights: float
    masters: float
    optimizer: float
    gradients: float
    host: float

    @property
    def device(self) -> float:
        return self.weights + self.masters + self.optimizer + self.gradients


def element_bytes(deepspeed: Mapping[str, Any]) -> int:
    """Bytes of a number in forward and backward."""
    half = any((deepspeed.get(name) or {}).get("enabled") for name in ("bf16", "fp16"))
    return 2 if half else _FP32


def optimizer_states(deepspeed: Mapping[str, Any]) -> int:
    """fp32 numbers that the optimizer keeps for each trained weight: two moments, and a largest one, and an average."""
    node = deepspeed.get("optimizer") or {}
    kept = 2 + bool((node.get("params") or {}).get("amsgrad"))
    return kept + (node.get("type") == "FusedEmaAdam")


def groups(network: Network) -> list[list[Parameter]]:
    """Trained parameters as the optimizer groups them: those that decay, then norms and biases."""
    plain = [one for one in network.trained if one.name.endswith(".bias") or "norm" in one.name]
    names = {one.name for one in plain}
    decayed = [one for one in network.trained if one.name not in names]
    return [group for group in (decayed, plain) if group]


def partition(network: Network, stage: int, ranks: int) -> tuple[int, int]:
    """(trained weights, tensors) that one rank's optimizer holds, padding included."""
    if stage == 0:
        return network.trained_count, len(network.trained)
    if stage == 3:
        return sum(-(-one.count // ranks) for one in network.trained), len(groups(network))
    sizes = [sum(one.count for one in group) for group in groups(network)]
    return sum(-(-size // (_ALIGNED * ranks)) * _ALIGNED for size in sizes), len(sizes)


def memory(network: Network, deepspeed: Mapping[str, Any], ranks: int) -> Memory:
    """Bytes of one of ``ranks`` processes during a step, without activations."""
    zero = deepspeed.get("zero_optimization") or {}
    stage, width = zero.get("stage") or 0, element_bytes(deepspeed)
    own, tensors = partition(network, stage, ranks)
    weights = width * network.count
    if stage == 3:
        weights = width * _zero3_weights(network, zero, ranks)
    wide = _master_bytes(deepspeed)
    masters = 0.0 if stage == 0 and width == _FP32 else float(wide * own)
    optimizer = float(optimizer_states(deepspeed) * wide * own + _STEP * tensors)
    gradients = _gradients(network, zero, stage, width, own, wide)
    host = 0.0
    if _offloaded(zero, "offload_optimizer"):
        # The fp32 gradients that the step needs are on the CPU too.
        host, masters, optimizer = masters + optimizer + _FP32 * own, 0.0, 0.0
    if _offloaded(zero, "offload_param") and stage == 3:
        host, weights = host + weights, float(width * _live(network, zero))
    return Memory(weights, masters, optimizer, gradients, host)


def _master_bytes(deepspeed: Mapping[str, Any]) -> int:
    """Bytes of a number in masters and optimizer state."""
    return 2 if (deepspeed.get("bf16") or {}).get("bf16_optimizer_states") else _FP32


def _gradients(network: Network, zero: Mapping[str, Any], stage: int, width: int, own: int, wide: int) -> float:
    """Half-precision gradients, whole or the rank's part with the buckets on their way; ``wide`` bytes for the step."""
    step = 0.0 if width == _FP32 or _offloaded(zero, "offload_optimizer") else float(wide * own)
    if stage < 2:
        return float(width * network.trained_count) + step
    bucket = min(zero.get("reduce_bucket_size") or _BUCKET, network.trained_count)
    buckets = width * bucket * (2 if zero.get("overlap_comm") else 1)
    # Buckets are empty again when the step makes its fp32 copy.
    return float(width * own) + max(step, float(buckets))


def _zero3_weights(network: Network, zero: Mapping[str, Any], ranks: int) -> float:
    """A part of each tensor, small ones whole, and what is gathered for the moment."""
    small = _small(zero)
    kept = sum(one.count if one.count < small else -(-one.count // ranks) for one in network.parameters)
    return kept + _live(network, zero)


def _live(network: Network, zero: Mapping[str, Any]) -> int:
    """Weights that ZeRO 3 has gathered at a time: two layers, one at work and one on its way, or what it may."""
    large = sum(one.count for one in network.parameters if one.count >= _small(zero))
    return min(2 * large // max(1, network.layers), zero.get("stage3_max_live_parameters") or _LIVE)


def _small(zero: Mapping[str, Any]) -> int:
    return zero.get("stage3_param_persistence_threshold") or _PERSISTENT


def _offloaded(zero: Mapping[str, Any], name: str) -> bool:
    return ((zero.get(name) or {}).get("device") or "none") != "none"

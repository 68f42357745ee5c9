"""Bytes of one training rank: weights, gradients and optimizer, as split by DeepSpeed's ZeRO.

Sources: ZeRO (arXiv:1910.02054, section 3) and DeepSpeed 0.19, runtime/zero/{stage_1_and_2,stage3}.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cogtune.config.build import params_of
from cogtune.config.schema.deepspeed import (
    MAX_LIVE_PARAMETERS,
    PERSISTENCE_THRESHOLD,
    REDUCE_BUCKET_SIZE,
    AdamParams,
    AdamW8bitParams,
    DeepSpeedSection,
    FusedEmaAdamParams,
    Offload,
    ZeroOptimization,
)
from cogtune.plan.cost.transformer import Network, Parameter

_FP32 = 4
_STEP = 4
"""Bytes of a step counter: one fp32 number for each tensor of the optimizer."""
_BLOCK, _LEAST_8BIT, _TABLES_8BIT = 256, 4096, 2 * 256 * _FP32
"""bitsandbytes: moments that share a scale, weights below which a tensor's moments are in fp32, bytes of its two tables."""
_ALIGNED = 2
"""ZeRO 1 and 2 pad a flat group so that each rank's part is a multiple of this (nccl_start_alignment_factor)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. ``host``: bytes in CPU memory, with offload."""

    weights: float
    masters: float
    optimizer: float
    gradients: float
    host: float

    @property
    def device(self) -> float:
        return self.weights + self.masters + self.optimizer + self.gradients


def element_bytes(deepspeed: DeepSpeedSection) -> int:
    """Bytes of a number in forward and backward pass."""
    return 2 if deepspeed.bf16.enabled or deepspeed.fp16.enabled else _FP32


def zero_stage(deepspeed: DeepSpeedSection) -> int:
    """The stage as it runs (`deepspeed_limits.stage_of`), for one of cogtune's optimizers."""
    return deepspeed.zero_optimization.stage or int(element_bytes(deepspeed) < _FP32)


def optimizer_params(deepspeed: DeepSpeedSection) -> AdamParams:
    """The params of one of cogtune's optimizers."""
    return params_of({"target": deepspeed.optimizer.type, "params": deepspeed.optimizer.params})


def keeps_average(deepspeed: DeepSpeedSection) -> bool:
    """Whether the optimizer keeps a moving average of the weights."""
    return isinstance(optimizer_params(deepspeed), FusedEmaAdamParams)


def optimizer_states(deepspeed: DeepSpeedSection) -> int:
    """Numbers that the optimizer keeps for each trained weight: two moments, and the maximum of the second one (amsgrad),
    and the moving average."""
    return 2 + optimizer_params(deepspeed).amsgrad + keeps_average(deepspeed)


def optimizer_bytes(deepspeed: DeepSpeedSection, sizes: Sequence[int]) -> float:
    """Bytes of the optimizer's state for tensors of ``sizes`` weights. Its step makes no temporary tensors: it is fused and
    in place (`python -m bench.train` measures 0 bytes a weight)."""
    if isinstance(optimizer_params(deepspeed), AdamW8bitParams):
        small = sum(size for size in sizes if size < _LEAST_8BIT)
        large = [size for size in sizes if size >= _LEAST_8BIT]
        scales = sum(-(-size // _BLOCK) for size in large)
        return float(2 * (_FP32 * small + sum(large) + _FP32 * scales) + (_TABLES_8BIT if large else 0))
    return float(optimizer_states(deepspeed) * _master_bytes(deepspeed) * sum(sizes) + _STEP * len(sizes))


def groups(network: Network) -> list[list[Parameter]]:
    """The optimizer's groups of trained parameters: those with weight decay, then norms and biases."""
    plain = [one for one in network.trained if one.name.endswith(".bias") or "norm" in one.name]
    names = {one.name for one in plain}
    decayed = [one for one in network.trained if one.name not in names]
    return [group for group in (decayed, plain) if group]


def partition(network: Network, stage: int, ranks: int) -> list[int]:
    """Sizes of the tensors of one rank's optimizer, with padding."""
    if stage == 0:
        return [one.count for one in network.trained]
    if stage == 3:
        return [sum(-(-one.count // ranks) for one in group) for group in groups(network)]
    sizes = [sum(one.count for one in group) for group in groups(network)]
    return [-(-size // (_ALIGNED * ranks)) * _ALIGNED for size in sizes]


def checkpoint_bytes(network: Network, deepspeed: DeepSpeedSection) -> float:
    """Bytes of a checkpoint: masters and optimizer state of what trains."""
    masters = _master_bytes(deepspeed) * network.trained_count
    return masters + optimizer_bytes(deepspeed, partition(network, zero_stage(deepspeed), 1))


def memory(network: Network, deepspeed: DeepSpeedSection, ranks: int) -> Memory:
    """Bytes of one of ``ranks`` processes during a step, without activations."""
    zero = deepspeed.zero_optimization
    stage, width = zero_stage(deepspeed), element_bytes(deepspeed)
    sizes = partition(network, stage, ranks)
    own = sum(sizes)
    weights = width * network.count
    if stage == 3:
        weights = width * _zero3_weights(network, zero, ranks)
    wide = _master_bytes(deepspeed)
    masters = 0.0 if stage == 0 and width == _FP32 else float(wide * own)
    optimizer = optimizer_bytes(deepspeed, sizes)
    gradients = _gradients(network, zero, stage, width, own, wide)
    host = 0.0
    if _offloads(zero.offload_optimizer) and stage > 0:
        # The step's fp32 gradients are on the CPU too.
        host, masters, optimizer = masters + optimizer + _FP32 * own, 0.0, 0.0
    if _offloads(zero.offload_param) and stage == 3:
        host, weights = host + weights, float(width * _live(network, zero))
    return Memory(weights, masters, optimizer, gradients, host)


def _master_bytes(deepspeed: DeepSpeedSection) -> int:
    """Bytes of a number in masters and optimizer state."""
    return 2 if deepspeed.bf16.bf16_optimizer_states else _FP32


def _gradients(network: Network, zero: ZeroOptimization, stage: int, width: int, own: int, wide: int) -> float:
    """Gradients in the compute precision: all of them, or the rank's part and the buckets of the reduce. In addition,
    during the step, the rank's part with ``wide`` bytes per number."""
    offloaded = _offloads(zero.offload_optimizer) and stage > 0
    step = 0.0 if width == _FP32 or offloaded else float(wide * own)
    if stage < 2:
        return float(width * network.trained_count) + step
    bucket = min(zero.reduce_bucket_size or REDUCE_BUCKET_SIZE, network.trained_count)
    buckets = width * bucket * (2 if zero.overlap_comm else 1)
    # The buckets are free again when the step makes its fp32 copy.
    return float(width * own) + max(step, float(buckets))


def _zero3_weights(network: Network, zero: ZeroOptimization, ranks: int) -> float:
    """Weights of one rank: its part of each tensor, small tensors whole, and the gathered ones."""
    small = _small(zero)
    kept = sum(one.count if one.count < small else -(-one.count // ranks) for one in network.parameters)
    return kept + _live(network, zero)


def _live(network: Network, zero: ZeroOptimization) -> int:
    """Weights that ZeRO 3 has gathered at a time: two layers, the current and the prefetched one, within its limit."""
    large = sum(one.count for one in network.parameters if one.count >= _small(zero))
    limit = zero.stage3_max_live_parameters
    return min(2 * large // max(1, network.layers), MAX_LIVE_PARAMETERS if limit is None else limit)


def _small(zero: ZeroOptimization) -> int:
    """Tensors below this size are not split."""
    threshold = zero.stage3_param_persistence_threshold
    return PERSISTENCE_THRESHOLD if threshold is None else threshold


def _offloads(offload: Offload | None) -> bool:
    return offload is not None and offload.device != "none"

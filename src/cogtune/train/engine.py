"""The DeepSpeed engine: what it is told, how it is built, and how whole tensors come back out of its partitions."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.config.build import params_of
from cogtune.config.registry import PluginEntry, find
from cogtune.errors import UserError
from cogtune.runtime.devices import device_for
from cogtune.train.optim import AdamWEma, parameter_groups
from cogtune.work.batches import BatchPlan

NOT_FOR_DEEPSPEED = (
    "optimizer",  # made here, in PyTorch
    *("loss_scale", "loss_scale_window", "hysteresis", "min_loss_scale", "initial_scale_power"),  # belong into fp16
)
"""Keys of the section that are not passed on. Upstream's sft.yaml has the last five one level too high."""


@dataclass(frozen=True)
class RankInfo:
    """Which of the processes this one is."""

    rank: int
    ranks: int
    local_rank: int

    @property
    def device(self) -> torch.device:
        return device_for(self.local_rank)


def connect(here: RankInfo, init_method: str) -> None:
    """Join the process group: NCCL on GPUs, gloo on the CPU.

    On the CPU DeepSpeed would compile a shared-memory extension at this point; gloo does the same sums without a
    compiler. Raises UserError when there are more ranks than GPUs.
    """
    if here.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    elif here.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"rank {here.local_rank} has no GPU: this machine shows {torch.cuda.device_count()}; use fewer ranks"
        )
    else:
        torch.cuda.set_device(here.device)
    import deepspeed
    import deepspeed.ops

    if here.device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="gloo" if here.device.type == "cpu" else "nccl",
        auto_mpi_discovery=False,
        init_method=init_method,
        rank=here.rank,
        world_size=here.ranks,
    )


def deepspeed_config(section: dict[str, Any], plan: BatchPlan, device: torch.device) -> dict[str, Any]:
    """What DeepSpeed is told: the config's section, with the batch of ``plan`` and what exact resume needs.

    `load_from_fp32_weights` is true whatever the config says: false rebuilds the fp32 masters from rounded weights, and a
    resumed run would end elsewhere. Raises UserError for fp16 on the CPU.
    """
    if device.type == "cpu" and (section.get("fp16") or {}).get("enabled"):
        raise UserError("deepspeed.fp16.enabled: the CPU cannot train in fp16; set it to false, or use bf16")
    config = {name: value for name, value in section.items() if name not in NOT_FOR_DEEPSPEED and value is not None}
    zero = (config.get("zero_optimization") or {}) | {"load_from_fp32_weights": True, "elastic_checkpoint": False}
    # ZeRO-3 would put its own function in the place of F.linear, which adds the bias to the product in place. Activation
    # checkpointing that keeps products keeps them with their bias then, and adds it again in the backward pass.
    zero["memory_efficient_linear"] = False
    return config | {
        "train_batch_size": plan.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro,
        "gradient_accumulation_steps": plan.accumulation,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def make_optimizer(module: nn.Module, node: dict[str, Any], weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer of a config's `deepspeed.optimizer` node, in PyTorch: DeepSpeed's own would compile a kernel.

    The loop sets the rate of every step, and ``weight_decay`` is that of the config check, so the node's own are not read.
    A plugin gets the groups, each with its weight_decay, and the params that it takes.
    """
    entry, params = find(node["type"], "optimizer"), node.get("params") or {}
    groups = parameter_groups(module, weight_decay)
    if isinstance(entry, PluginEntry):
        return entry.optimizer(groups, params)
    given = params_of({"target": entry.name, "params": params})
    common = {"lr": 0.0, "betas": tuple(given.betas), "eps": given.eps, "amsgrad": given.amsgrad}
    if entry.name == "FusedEmaAdam":
        return AdamWEma(groups, ema_decay=given.ema_decay, ramp=given.use_num_upates, **common)
    decoupled = entry.name == "AdamW" or given.adam_w_mode
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(groups, **common)


def engine_dtype(section: Mapping[str, Any]) -> torch.dtype:
    """What the engine will cast the module to. A network that is made in it needs half the memory in every rank."""
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if (section.get(name) or {}).get("enabled"):
            return dtype
    return torch.float32


def build_engine(module: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> Any:
    """The engine around ``module``; ``config`` is from `deepspeed_config`. The module is cast to its precision.

    fp32 master weights start from the rounded weights, as upstream's do.
    """
    import deepspeed

    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    if not engine.zero_optimization():
        # The wrapper for bf16 without ZeRO steps on zero gradients to fill the state; that must not count as step 1.
        optimizer.state.clear()
    return engine


@dataclass(frozen=True)
class Taken:
    """``norm``: of the global gradient before clipping (L2). ``moved``: whether weights and optimizer state changed;
    ``overflowed``: they did not, because DeepSpeed looks for another scale of the fp16 loss."""

    norm: float
    moved: bool
    overflowed: bool = False


def take_step(engine: Any, rate: float, hold: bool = False) -> Taken:
    """One optimizer step at this learning rate. It moves nothing with ``hold``, or where the gradient norm is no finite
    number; gradients are dropped then, and DeepSpeed's counters go on. All ranks decide alike: the norm is global."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    plain, norm = _unpartitioned(engine), None
    if plain is not None and all(p is master for p, master in plain.items()):
        # fp32 without ZeRO: DeepSpeed keeps no norm; the gradients are whole and averaged here.
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in plain if p.grad is not None]))
        hold = hold or not math.isfinite(norm)
    scaler = getattr(engine.optimizer, "loss_scaler", None) if hold else None
    before, scale = engine.skipped_steps, dict(vars(scaler)) if scaler is not None else {}
    with _guarded(engine, hold) as held:
        engine.step()
    if scaler is not None:
        vars(scaler).update(scale)  # the scale of the loss is not what was wrong
    overflow = engine.skipped_steps > before
    if norm is None:
        found = engine.get_global_grad_norm()
        norm = math.nan if found is None else float(found)
    searching = overflow and not hold and engine.fp16_enabled() and engine.dynamic_loss_scale()
    return Taken(norm, moved=not (held or overflow), overflowed=searching)


@contextmanager
def _guarded(engine: Any, hold: bool) -> Iterator[list[bool]]:
    """Puts a condition before the optimizer's own step, which DeepSpeed calls once for each group of parameters, after
    it has the norm. What is yielded is filled where the step was held."""
    optimizer, held = engine.basic_optimizer, []
    step = optimizer.step

    def guarded(*given: Any, **named: Any) -> Any:
        norm = getattr(engine.optimizer, "_global_grad_norm", None)
        if hold or (norm is not None and not math.isfinite(norm)):
            held.append(True)
            return None
        return step(*given, **named)

    optimizer.step = guarded
    try:
        yield held
    finally:
        del optimizer.step  # the method of the class shows again


def whole_tensors(engine: Any, module: nn.Module, state: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, fp32 tensor on the CPU) of every trained parameter: its master weight, or the optimizer state named so.

    Collective: every rank iterates, and every rank gets every tensor.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        # ZeRO 1 and 2 link the state after the step of the first group, when the other groups have none yet.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    plain = _unpartitioned(engine)
    for name, p in module.named_parameters():
        if not p.requires_grad:
            continue
        if plain is not None:
            master = plain[p]
            whole = master if state is None else engine.basic_optimizer.state[master][state]
        else:
            whole = safe_get_full_fp32_param(p) if state is None else safe_get_full_optimizer_state(p, state)
            assert whole is not None, f"ZeRO does not know the trained parameter {name}"
        yield name, whole.detach().to("cpu", torch.float32, copy=True)


def _unpartitioned(engine: Any) -> dict[Tensor, Tensor] | None:
    """Parameter -> master weight where ZeRO is off, else None."""
    if engine.zero_optimization():
        return None
    optimizer = engine.optimizer
    if not hasattr(optimizer, "fp32_groups"):
        return {p: p for group in optimizer.param_groups for p in group["params"]}
    pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {p: master for low, high in pairs for p, master in zip(low, high, strict=True)}


def keeps_average(engine: Any) -> bool:
    """Whether the optimizer keeps a moving average of the weights, under `optim.SHADOW`."""
    return isinstance(engine.basic_optimizer, AdamWEma)

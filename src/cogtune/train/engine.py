"""The DeepSpeed engine: what it is told, how it is built, and how whole tensors come back out of its partitions."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.errors import UserError
from cogtune.train.batches import BatchPlan
from cogtune.train.optim import AdamWEma, parameter_groups

MISPLACED = ("loss_scale", "loss_scale_window", "hysteresis", "min_loss_scale", "initial_scale_power")
"""Keys of DeepSpeed's fp16 section that upstream's sft.yaml has one level too high, where DeepSpeed does not look."""

EMA_OPTIMIZERS = ("FusedEmaAdam", "sat.ops.FusedEmaAdam")
TORCH_OPTIMIZERS = ("AdamW", "Adam", *EMA_OPTIMIZERS)


@dataclass(frozen=True)
class RankInfo:
    """Which of the processes this one is."""

    rank: int
    ranks: int
    local_rank: int

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def connect(here: RankInfo, init_method: str) -> None:
    """Join the process group: NCCL on GPUs, gloo on the CPU.

    On the CPU DeepSpeed would compile a shared-memory extension at this point; gloo does the same sums without a
    compiler, and the same ones on every machine.
    """
    if here.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
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


def deepspeed_config(section: dict[str, Any], plan: BatchPlan, device: torch.device) -> tuple[dict[str, Any], list[str]]:
    """What DeepSpeed is told, and notices about where that is not what the config says."""
    config = {name: value for name, value in section.items() if name not in (*MISPLACED, "optimizer") and value is not None}
    notices = [f"deepspeed.{name}: no effect; DeepSpeed reads it in its fp16 section only" for name in MISPLACED if name in section]
    if config.pop("scheduler", None):
        raise UserError("deepspeed.scheduler: the learning rate follows args.lr_decay_style and args.warmup; remove this section")
    if device.type == "cpu" and (config.get("fp16") or {}).get("enabled"):
        raise UserError("deepspeed.fp16: the CPU cannot train in fp16; set fp16.enabled: false, and bf16.enabled: true if you like")
    zero = dict(config.get("zero_optimization") or {})
    if not zero.get("load_from_fp32_weights", True):
        notices.append(
            "deepspeed.zero_optimization.load_from_fp32_weights: set to true; false would rebuild the fp32 master weights "
            "from rounded ones on resume, and a resumed run would end elsewhere"
        )
    zero["load_from_fp32_weights"] = True
    batch = {
        "train_batch_size": plan.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro,
        "gradient_accumulation_steps": plan.accumulation,
    }
    fixed = {"zero_optimization": zero, "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    if not is_torch_optimizer(section):
        if device.type == "cpu":
            raise UserError(
                f"deepspeed.optimizer.type: {section['optimizer']['type']!r} needs a compiled kernel on the CPU; "
                f"expected one of {', '.join(TORCH_OPTIMIZERS)}"
            )
        fixed["optimizer"] = section["optimizer"]
    return config | batch | fixed, notices


def is_torch_optimizer(section: dict[str, Any]) -> bool:
    """Whether we make the optimizer ourselves (in PyTorch, no kernel to compile) instead of DeepSpeed."""
    return (section.get("optimizer") or {"type": "AdamW"}).get("type") in TORCH_OPTIMIZERS


def make_optimizer(module: nn.Module, section: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of a config's `deepspeed` section. Its rate is 0: the loop sets the rate of every step."""
    node = section.get("optimizer") or {"type": "AdamW", "params": {}}
    params = node.get("params") or {}
    groups = parameter_groups(module, params.get("weight_decay", 0.0))
    common = {"lr": 0.0, "betas": tuple(params.get("betas", (0.9, 0.999))), "eps": params.get("eps", 1e-8)}
    common["amsgrad"] = params.get("amsgrad", False)
    if not params.get("bias_correction", True):
        raise UserError("deepspeed.optimizer.params.bias_correction: false is not supported; remove it")
    if node["type"] in EMA_OPTIMIZERS:
        decay, ramp = params.get("ema_decay", 0.9999), params.get("use_num_upates", True)
        return AdamWEma(groups, ema_decay=decay, ramp=ramp, **common)
    # DeepSpeed's "Adam" is AdamW as well unless told otherwise.
    decoupled = node["type"] == "AdamW" or params.get("adam_w_mode", True)
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(groups, **common)


def build_engine(module: nn.Module, section: dict[str, Any], config: dict[str, Any]) -> Any:
    """The engine around ``module``; ``config`` is from `deepspeed_config`. The module is cast to its precision.

    fp32 master weights start from the rounded weights, as upstream's do.
    """
    import deepspeed

    optimizer = make_optimizer(module, section) if is_torch_optimizer(section) else None
    trainable = [p for p in module.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, model_parameters=trainable, config=config)
    if optimizer is not None and not engine.zero_optimization():
        # The wrapper for bf16 without ZeRO steps on zero gradients to fill the state; that must not count as step 1.
        optimizer.state.clear()
    return engine


def take_step(engine: Any, rate: float) -> float:
    """One optimizer step at this learning rate; returns the global gradient norm before clipping (L2)."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    plain = _unpartitioned(engine)
    if plain is not None and all(p is master for p, master in plain.items()):
        # fp32 without ZeRO: DeepSpeed keeps no norm; the gradients are whole and averaged here.
        norm = torch.nn.utils.get_total_norm([p.grad for p in plain if p.grad is not None])
        engine.step()
        return float(norm)
    engine.step()
    norm = engine.get_global_grad_norm()
    return float(norm) if norm is not None else math.nan


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



"""The DeepSpeed engine: its configuration, its construction, its steps, and full tensors from its partitions."""

import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]
from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]

from cogtune.config.deepspeed_limits import stage_of
from cogtune.errors import UserError
from cogtune.runtime.devices import device_for
from cogtune.train.optim import AdamWEma
from cogtune.train.pieces import unpartitioned
from cogtune.work.batches import BatchPlan

NOT_FOR_DEEPSPEED = (
    "optimizer",  # built in PyTorch, by `optimizers.py`
    *("tensorboard", "csv_monitor", "wandb"),  # written by trackers.py
    *("loss_scale", "loss_scale_window", "hysteresis", "min_loss_scale", "initial_scale_power"),  # keys of fp16
)
"""Keys of the section that are not passed to DeepSpeed. Upstream's sft.yaml has the last five one level too high."""


@dataclass(frozen=True)
class RankInfo:
    """Rank of this process, number of ranks, and rank within its machine."""

    rank: int
    ranks: int
    local_rank: int

    @property
    def device(self) -> torch.device:
        return device_for(self.local_rank)


def connect(rank_info: RankInfo, init_method: str, store: Store | None = None) -> None:
    """Join the process group: NCCL on GPUs, gloo on the CPU. The ranks connect through ``store`` if there is
    one, else by ``init_method``.

    On the CPU DeepSpeed would compile a shared-memory extension here; gloo computes the same sums without a compiler.
    Raises UserError if there are more ranks than GPUs.
    """
    if rank_info.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    elif rank_info.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"rank {rank_info.local_rank} has no GPU; PyTorch sees {torch.cuda.device_count()} on this machine. "
            f"Use fewer ranks"
        )
    else:
        torch.cuda.set_device(rank_info.device)
    import deepspeed
    import deepspeed.ops

    if rank_info.device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if rank_info.device.type == "cpu" else "nccl"
    if store is not None:  # DeepSpeed takes no store, and uses a process group that exists
        from deepspeed.constants import default_pg_timeout

        torch.distributed.init_process_group(
            backend, store=store, rank=rank_info.rank, world_size=rank_info.ranks, timeout=default_pg_timeout
        )
    deepspeed.init_distributed(
        dist_backend=backend,
        auto_mpi_discovery=False,
        init_method=init_method,
        rank=rank_info.rank,
        world_size=rank_info.ranks,
    )


def with_own_gpu(rank_info: RankInfo, visible: int, identity: Callable[[int], str], store: Store) -> RankInfo:
    """``rank_info`` with the index of its GPU among those that this process sees: Slurm may show each task only its own.

    ``visible``: number of GPUs that this process sees; ``identity(index)``: names one in the whole machine. Raises
    UserError if two ranks of a machine would use the same GPU: NCCL would end with a less clear error.
    """
    if visible == 0:
        return rank_info
    index = 0 if visible == 1 else rank_info.local_rank
    if index >= visible:
        raise UserError(
            f"rank {rank_info.rank} is number {rank_info.local_rank} on {socket.gethostname()}, which shows it {visible} GPUs: use "
            "fewer ranks per machine, or request as many GPUs as ranks"
        )
    owner = int(store.compare_set(f"gpu-{socket.gethostname()}-{identity(index)}", "", str(rank_info.rank)))
    if owner != rank_info.rank:
        raise UserError(
            f"ranks {owner} and {rank_info.rank} on {socket.gethostname()} see the same single GPU: request one GPU per rank "
            "(Slurm: --gres=gpu:<ranks per node>, or --gpus-per-task=1)"
        )
    os.environ["LOCAL_RANK"] = str(index)  # DeepSpeed selects its device by it
    return replace(rank_info, local_rank=index)


def deepspeed_config(section: dict[str, Any], plan: BatchPlan, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's configuration: the config's section, the batch sizes of ``plan``, and settings for exact resume.

    `load_from_fp32_weights` is always true: with false the fp32 masters are rebuilt from rounded weights, and a resumed
    run would give other weights. Raises UserError for fp16 on the CPU.
    """
    if device.type == "cpu" and (section.get("fp16") or {}).get("enabled"):
        raise UserError("deepspeed.fp16.enabled: a CPU cannot train in fp16; set it to false, or use bf16")
    config = {name: value for name, value in section.items() if name not in NOT_FOR_DEEPSPEED and value is not None}
    zero = (config.get("zero_optimization") or {}) | {"load_from_fp32_weights": True, "elastic_checkpoint": False}
    zero["stage"] = stage_of(section)
    # ZeRO-3 would replace F.linear by a function that adds the bias to the product in place. Activation checkpointing
    # that keeps products would then keep them with their bias, and add it again in the backward pass.
    zero["memory_efficient_linear"] = False
    return config | {
        "train_batch_size": plan.global_batch,
        "train_micro_batch_size_per_gpu": plan.micro,
        "gradient_accumulation_steps": plan.accumulation,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def engine_dtype(section: Mapping[str, Any]) -> torch.dtype:
    """The dtype to which the engine casts the module. Building the network in bf16 or fp16 halves every rank's memory."""
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if (section.get(name) or {}).get("enabled"):
            return dtype
    return torch.float32


def build_engine(module: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> Any:
    """The engine around ``module``, which it casts to the precision of ``config``, the result of `deepspeed_config`.

    fp32 master weights start from the rounded weights, as upstream's do.
    """
    import deepspeed

    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    if not engine.zero_optimization():
        # To fill the state, the wrapper for bf16 without ZeRO does a step on zero gradients, which must not count.
        optimizer.state.clear()
    if engine.zero_optimization_partition_weights():
        _hide_transfers(engine)
    return engine


_TRANSFERS = [f"{when}_sub_module_{way}_function" for when in ("pre", "post") for way in ("forward", "backward")]


def _hide_transfers(engine: Any) -> None:
    """Let ZeRO-3 gather and release weights where selective activation checkpointing does not see it.

    That requires equal operations in a layer's forward pass and in its recomputation, and ends the training otherwise. Which
    weights are gathered within a layer depends on prefetching, on `stage3_max_live_parameters`, and on what is gathered
    already.
    """

    def hidden(transfer: Callable[[nn.Module], None]) -> Callable[[nn.Module], None]:
        def run(module: nn.Module) -> None:
            with _disable_current_modes():
                transfer(module)

        return run

    parameter_offload = engine.optimizer.parameter_offload
    for name in _TRANSFERS:
        setattr(parameter_offload, name, hidden(getattr(parameter_offload, name)))


@dataclass(frozen=True)
class Update:
    """``norm``: of the global gradient before clipping (L2). ``applied``: whether weights and optimizer state changed.
    ``overflowed``: they did not change, because DeepSpeed is searching for a scale of the fp16 loss."""

    norm: float
    applied: bool
    overflowed: bool = False


def take_step(engine: Any, rate: float, hold: bool = False) -> Update:
    """One optimizer step at learning rate ``rate``. With ``hold``, or if the gradient norm is not finite, nothing is
    updated: the gradients are discarded, but DeepSpeed's counters advance. The norm is global, so all ranks decide alike.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    masters, norm = _masters(engine), None
    if masters is not None and all(p is master for p, master in masters.items()):
        # fp32 without ZeRO: DeepSpeed computes no norm; every rank has the full averaged gradients.
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in masters if p.grad is not None]))
        hold = hold or not math.isfinite(norm)
    scaler = getattr(engine.optimizer, "loss_scaler", None) if hold else None
    before, scale = engine.skipped_steps, dict(vars(scaler)) if scaler is not None else {}
    with _skipping_optimizer(engine, hold) as skipped:
        engine.step()
    if scaler is not None:
        vars(scaler).update(scale)  # the loss scale did not cause the problem, so it stays
    overflow = engine.skipped_steps > before
    if norm is None:
        global_norm = engine.get_global_grad_norm()
        norm = math.nan if global_norm is None else float(global_norm)
    searching = overflow and not hold and engine.fp16_enabled() and engine.dynamic_loss_scale()
    return Update(norm, applied=not (skipped or overflow), overflowed=searching)


@contextmanager
def _skipping_optimizer(engine: Any, hold: bool) -> Iterator[list[bool]]:
    """Within the context, the optimizer's step does nothing with ``hold`` or if the gradient norm is not finite.
    DeepSpeed calls it once per parameter group, after it has computed the norm. The yielded list is empty unless a step
    was skipped."""
    optimizer, skipped = engine.basic_optimizer, []
    step = optimizer.step

    def step_if_finite(*args: Any, **kwargs: Any) -> Any:
        norm = getattr(engine.optimizer, "_global_grad_norm", None)
        if hold or (norm is not None and not math.isfinite(norm)):
            skipped.append(True)
            return None
        return step(*args, **kwargs)

    optimizer.step = step_if_finite
    try:
        yield skipped
    finally:
        del optimizer.step  # restores the method of the class


def trained_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Trained parameter -> its full shape, sorted by name. (ZeRO-3 leaves a part of it on each rank.)"""
    trained = ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in sorted(trained, key=lambda pair: pair[0])}


def full_tensors(engine: Any, module: nn.Module, state: str | None = None) -> Iterator[Tensor]:
    """The fp32 tensor, on the engine's device, of every trained parameter in the order of `trained_shapes`: its master
    weight, or its optimizer state ``state``.

    Collective: all ranks must iterate to the end. Each tensor may be one that the optimizer uses: read it only.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        # ZeRO 1 and 2 link the state after the first group's step, when the other groups have no state yet.
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    masters, parameters = _masters(engine), dict(module.named_parameters())
    for name in trained_shapes(module):
        p = parameters[name]
        if masters is not None:
            master = masters[p]
            full = master if state is None else engine.basic_optimizer.state[master][state]
        else:
            full = safe_get_full_fp32_param(p) if state is None else safe_get_full_optimizer_state(p, state)
            assert full is not None, f"ZeRO has no trained parameter {name}"
        yield full.detach().float()


def _masters(engine: Any) -> dict[Tensor, Tensor] | None:
    """Parameter -> master weight; None with ZeRO."""
    return None if engine.zero_optimization() else unpartitioned(engine)


def keeps_average(engine: Any) -> bool:
    """Whether the optimizer keeps a moving average of the weights, in its state `optim.SHADOW`."""
    return isinstance(engine.basic_optimizer, AdamWEma)

"""The optimizer of a training: PyTorch's, for the node `deepspeed.optimizer` of a config."""

from typing import Any

import torch
from torch import nn

from cogtune.config.build import params_of
from cogtune.config.registry import PluginEntry, find
from cogtune.config.schema.deepspeed import AdamW8bitParams
from cogtune.errors import UserError
from cogtune.train.optim import AdamWEma, parameter_groups


def make_optimizer(
    module: nn.Module, node: dict[str, Any], weight_decay: float, device: torch.device
) -> torch.optim.Optimizer:
    """The PyTorch optimizer for a config's `deepspeed.optimizer` node; DeepSpeed's own would compile a kernel.

    The node's lr and weight_decay are not read: the loop sets the rate of every step, and ``weight_decay`` is an argument.
    A plugin gets the parameter groups, each with its weight_decay, and its params. Raises UserError for AdamW8bit if
    ``device`` is a CPU, or without its package.
    """
    entry, params = find(node["type"], "optimizer"), node.get("params") or {}
    groups = parameter_groups(module, weight_decay)
    if isinstance(entry, PluginEntry):
        return entry.optimizer(groups, params)
    checked = params_of({"target": entry.name, "params": params})
    if entry.name == "AdamW8bit":
        if device.type == "cpu":
            raise UserError("deepspeed.optimizer.type: AdamW8bit needs a GPU; set it to AdamW")
        return adamw_8bit(groups, checked)
    common = {"lr": 0.0, "betas": tuple(checked.betas), "eps": checked.eps, "amsgrad": checked.amsgrad, "fused": True}
    if entry.name == "FusedEmaAdam":
        return AdamWEma(groups, ema_decay=checked.ema_decay, ramp=checked.use_num_upates, **common)
    decoupled = entry.name == "AdamW" or checked.adam_w_mode
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(groups, **common)


def adamw_8bit(groups: list[dict[str, Any]], params: AdamW8bitParams) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW with moments in 8 bits, one scale for 256 of them. torchao's would not do: it keeps a tensor in fp32
    unless its size is a multiple of the block, which ZeRO's flat parts rarely are, and compiles its step."""
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "deepspeed.optimizer.type: AdamW8bit needs the package bitsandbytes; `pip install bitsandbytes`, or set it "
            f"to AdamW ({error})"
        ) from None
    return AdamW8bit(groups, lr=0.0, betas=tuple(params.betas), eps=params.eps)

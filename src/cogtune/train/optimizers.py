"""The optimizer of a training: PyTorch's, for the node `deepspeed.optimizer` of a config."""

from typing import Any

import torch
from torch import nn

from cogtune.config.build import params_of
from cogtune.config.registry import PluginEntry, find
from cogtune.train.optim import AdamWEma, parameter_groups


def make_optimizer(module: nn.Module, node: dict[str, Any], weight_decay: float) -> torch.optim.Optimizer:
    """The PyTorch optimizer for a config's `deepspeed.optimizer` node; DeepSpeed's own would compile a kernel.

    The node's lr and weight_decay are not read: the loop sets the rate of every step, and ``weight_decay`` is an argument.
    A plugin gets the parameter groups, each with its weight_decay, and its params.
    """
    entry, params = find(node["type"], "optimizer"), node.get("params") or {}
    groups = parameter_groups(module, weight_decay)
    if isinstance(entry, PluginEntry):
        return entry.optimizer(groups, params)
    checked = params_of({"target": entry.name, "params": params})
    common = {"lr": 0.0, "betas": tuple(checked.betas), "eps": checked.eps, "amsgrad": checked.amsgrad, "fused": True}
    if entry.name == "FusedEmaAdam":
        return AdamWEma(groups, ema_decay=checked.ema_decay, ramp=checked.use_num_upates, **common)
    decoupled = entry.name == "AdamW" or checked.adam_w_mode
    return (torch.optim.AdamW if decoupled else torch.optim.Adam)(groups, **common)

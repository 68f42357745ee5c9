"""What DeepSpeed is told, and which optimizer is made."""

import sys
from typing import Any

import pytest
import torch
from torch import nn

from cogtune.errors import UserError
from cogtune.train.engine import deepspeed_config
from cogtune.train.optim import AdamWEma
from cogtune.train.optimizers import make_optimizer
from cogtune.work.batches import BatchPlan

CPU = torch.device("cpu")
# The section of upstream's sft.yaml, where the last four keys stand one level too high.
SFT = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 0.1,
    "zero_optimization": {
        "stage": 2,
        "overlap_comm": True,
        "reduce_bucket_size": 10**9,
        "load_from_fp32_weights": False,
    },
    "bf16": {"enabled": True},
    "optimizer": {"type": "sat.ops.FusedEmaAdam", "params": {"lr": 1e-5, "betas": [0.9, 0.95], "weight_decay": 1e-4}},
    "loss_scale": 0,
    "loss_scale_window": 400,
    "hysteresis": 2,
    "min_loss_scale": 1,
}


def test_upstreams_section_is_passed_on_except_where_resume_would_suffer() -> None:
    config = deepspeed_config(SFT, BatchPlan(2, 3, 4), CPU)
    assert config["train_batch_size"] == 24
    assert config["gradient_accumulation_steps"] == 3
    assert config["gradient_clipping"] == 0.1
    assert config["zero_optimization"]["overlap_comm"] is True
    assert config["zero_optimization"]["reduce_bucket_size"] == 10**9
    assert config["zero_optimization"]["load_from_fp32_weights"] is True
    assert not {"optimizer", "loss_scale", "loss_scale_window", "hysteresis", "min_loss_scale"} & set(config)


def test_fp16_on_the_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"deepspeed\.fp16"):
        deepspeed_config({"fp16": {"enabled": True}}, BatchPlan(1, 1, 1), CPU)
    deepspeed_config({"fp16": {"enabled": True}}, BatchPlan(1, 1, 1), torch.device("cuda"))


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (SFT["optimizer"], AdamWEma),
        ({"type": "AdamW", "params": {}}, torch.optim.AdamW),
        ({"type": "Adam", "params": {}}, torch.optim.AdamW),  # as DeepSpeed takes it, unless:
        ({"type": "Adam", "params": {"adam_w_mode": False}}, torch.optim.Adam),
    ],
)
def test_optimizers_are_made_in_torch(node: dict[str, Any], kind: type) -> None:
    optimizer = make_optimizer(nn.Linear(3, 3), node, 0.01, CPU)
    assert type(optimizer) is kind
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == [0.01, 0.0], "what the config check made of args.weight_decay and the node's own"
    assert all(group["lr"] == 0.0 for group in optimizer.param_groups)


def test_adamw_8bit_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="AdamW8bit needs a GPU"):
        make_optimizer(nn.Linear(3, 3), {"type": "AdamW8bit", "params": {}}, 0.01, CPU)


def test_adamw_8bit_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        make_optimizer(nn.Linear(3, 3), {"type": "AdamW8bit", "params": {}}, 0.01, torch.device("cuda"))

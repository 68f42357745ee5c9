"""`python -m tests.unit.train.deepspeed_steps RENDEZVOUS < SECTIONS`: one real step under each `deepspeed` section of a JSON
list, and the gradient norm that the optimizer then saw, as JSON lines. fp16 runs on the CPU here, where the train stage
refuses it: the arithmetic is slow, and DeepSpeed's code the same as on a GPU."""

import json
import os
import sys
from typing import Any

import torch
from torch import nn

from cogtune.train.engine import RankInfo, build_engine, connect, deepspeed_config, take_step
from cogtune.train.optimizers import make_optimizer
from cogtune.work.batches import BatchPlan

GPU_ONLY = torch.device("cuda")
"""What `deepspeed_config` is told, so that it lets fp16 pass."""


def norm_seen(section: dict[str, Any]) -> float:
    """L2 norm, fp32, of all gradients that the optimizer was given; ZeRO steps once for each group of parameters."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
    optimizer = make_optimizer(module, section.get("optimizer") or {"type": "AdamW"}, 0.0, torch.device("cpu"))
    seen: list[torch.Tensor] = []

    def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        stepped = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        seen.extend(grad.float().square().sum() for grad in stepped)

    engine = build_engine(module, optimizer, deepspeed_config(section, BatchPlan(1, 1, 1), GPU_ONLY))
    optimizer.register_step_pre_hook(look)
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)).to(next(module.parameters()).dtype)
    engine.backward(engine(x).float().square().mean() * 30)
    take_step(engine, 1e-3)
    return float(torch.stack(seen).sum().sqrt())


def main() -> None:
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    connect(RankInfo(0, 1, 0), f"file://{sys.argv[1]}")
    from deepspeed.accelerator import get_accelerator

    setattr(get_accelerator(), "is_fp16_supported", lambda: True)  # noqa: B010
    for section in json.load(sys.stdin):
        try:
            found: dict[str, Any] = {"norm": norm_seen(section)}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        print("RESULT " + json.dumps(found), flush=True)
    os._exit(0)  # threads of the communication library abort now and then when the interpreter cleans up


if __name__ == "__main__":
    main()

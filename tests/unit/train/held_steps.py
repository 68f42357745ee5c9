"""`python -m tests.unit.train.held_steps RENDEZVOUS < CASES`: for each [section, kind, at] of a JSON list three real steps,
of which step ``at`` meets a loss or a gradient that is no number; what that step moved, as JSON lines."""

import json
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.train.engine import (
    RankInfo,
    build_engine,
    connect,
    deepspeed_config,
    full_tensors,
    take_step,
)
from cogtune.train.optimizers import make_optimizer
from cogtune.work.batches import BatchPlan
from tests.unit.train.deepspeed_steps import GPU_ONLY


def state(engine: Any, module: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Copies of all that a step may move: masters, weights, moments, average, counters, the loss scale."""
    tensors = list(full_tensors(engine, module)) + [p.detach() for p in module.parameters()]
    for held in optimizer.state.values():
        tensors += [value for value in held.values() if torch.is_tensor(value)]
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    tensors.append(torch.tensor(float(getattr(scaler, "cur_scale", 1.0))))
    return [tensor.detach().clone().float() for tensor in tensors]


def moved(section: dict[str, Any], kind: str, at: int) -> dict[str, Any]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
    optimizer = make_optimizer(module, section["optimizer"], 0.01, torch.device("cpu"))
    engine = build_engine(module, optimizer, deepspeed_config(section, BatchPlan(1, 1, 1), GPU_ONLY))
    seen = []
    for step in range(3):
        x = torch.randn(4, 16, generator=torch.Generator().manual_seed(step)).to(next(module.parameters()).dtype)
        bad = step == at
        x = x * torch.nan if bad and kind == "loss" else x
        y = engine(x).float()
        # The root of 0 has the slope infinity, times 0: the gradient is no number, the loss is.
        loss = (y * 0).sqrt().sum() if bad and kind == "gradient" else y.square().mean()
        before = state(engine, module, optimizer) if step == at == 1 else None
        engine.backward(loss)
        update = take_step(engine, 1e-3, hold=bad and kind == "loss")
        after = state(engine, module, optimizer)
        # ZeRO 3 has let go of the weights after an overflow, and has them whole after a step; the masters are there always.
        pairs = [pair for pair in zip(before, after, strict=True) if pair[1].numel()] if before else []
        same = bool(pairs) and all(torch.equal(*pair) for pair in pairs)
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in after)
        seen.append({"applied": update.applied, "overflowed": update.overflowed, "same": same, "finite": finite})
    return {"steps": seen}


def main() -> None:
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    connect(RankInfo(0, 1, 0), f"file://{sys.argv[1]}")
    from deepspeed.accelerator import get_accelerator

    setattr(get_accelerator(), "is_fp16_supported", lambda: True)  # noqa: B010
    for case in json.load(sys.stdin):
        print("RESULT " + json.dumps(moved(*case)), flush=True)
    os._exit(0)  # threads of the communication library abort now and then when the interpreter cleans up


if __name__ == "__main__":
    main()

"""`python -m tests.unit.train.optimizer_steps RENDEZVOUS RANK RANKS RESULT < CASES`: five steps of a small network in fp32
for each [optimizer, stage] of a JSON list, on the same global batch at any number of ranks. The first rank writes the
weights, one flat tensor per case, to RESULT."""

import json
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.config.build import params_of
from cogtune.train.engine import RankInfo, build_engine, connect, deepspeed_config, full_tensors, take_step
from cogtune.train.optim import parameter_groups
from cogtune.train.optimizers import adamw_8bit, make_optimizer
from cogtune.work.batches import BatchPlan

CPU = torch.device("cpu")
BATCH, STEPS = 4, 5
PARAMS = {"AdamW": {"amsgrad": True}, "Adam": {"adam_w_mode": False}}


class Lamb(torch.optim.Optimizer):
    """A plugin that scales the step of each tensor by norms of this tensor: what a test of the others must notice."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.0})

    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.sub_(p.grad, alpha=float(group["lr"] * p.data.norm() / (p.grad.norm() + 1e-6)))


def optimizer_for(name: str, module: nn.Module) -> torch.optim.Optimizer:
    """AdamW8bit on the CPU, where bitsandbytes can step too, but the train stage refuses it."""
    if name == "Lamb":
        return Lamb(parameter_groups(module, 0.01))
    if name == "AdamW8bit":
        return adamw_8bit(parameter_groups(module, 0.01), params_of({"target": name, "params": {}}))
    return make_optimizer(module, {"type": name, "params": PARAMS.get(name, {})}, 0.01, CPU)


def weights(name: str, stage: int, rank: int, ranks: int) -> Tensor:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 130), nn.LayerNorm(130), nn.GELU(), nn.Linear(130, 64))
    section = {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0}, "gradient_clipping": 0.5}
    micro = BATCH // ranks
    config = deepspeed_config(section, BatchPlan(micro, 1, ranks), CPU)
    engine = build_engine(module, optimizer_for(name, module), config)
    for step in range(STEPS):
        x = torch.randn(BATCH, 64, generator=torch.Generator().manual_seed(step))[rank * micro : (rank + 1) * micro]
        engine.backward((engine(x) - x.flip(1)).square().mean())
        take_step(engine, 2e-3)
    return torch.cat([tensor.flatten() for tensor in full_tensors(engine, module)])


def main() -> None:
    rendezvous, rank, ranks, result = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    connect(RankInfo(rank, ranks, rank), f"file://{rendezvous}")
    found = [weights(name, stage, rank, ranks) for name, stage in json.load(sys.stdin)]
    if rank == 0:
        torch.save(found, result)
    sys.stdout.flush()
    os._exit(0)  # threads of the communication library abort now and then when the interpreter cleans up


if __name__ == "__main__":
    main()

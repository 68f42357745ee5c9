"""`python -m tests.unit.train.average_steps RENDEZVOUS RANK RANKS < SECTIONS`: for each `deepspeed` section of a JSON list
four real steps, once with and once without a look at the moving average after each; what they differ in, as JSON lines."""

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cogtune.train.average import average_weights, has_average
from cogtune.train.engine import RankInfo, build_engine, connect, deepspeed_config, full_tensors, take_step
from cogtune.train.optim import SHADOW
from cogtune.train.optimizers import make_optimizer
from cogtune.train.result import AVERAGE, MODEL, write_weights
from cogtune.work.batches import BatchPlan
from tests.unit.train.deepspeed_steps import GPU_ONLY
from tests.unit.train.held_steps import state


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 8))


def trained(section: dict[str, Any], ranks: int, rank: int, look: bool) -> tuple[list[Tensor], list[float], list[str]]:
    """The whole state after four steps, the losses, and what was wrong inside `average_weights`."""
    module = network()
    module.get_parameter("3.bias").requires_grad_(False)
    optimizer = make_optimizer(module, section["optimizer"], 0.01, torch.device("cpu"))
    engine = build_engine(module, optimizer, deepspeed_config(section, BatchPlan(1, 1, ranks), GPU_ONLY))
    dtype, losses, wrong = next(module.parameters()).dtype, list[float](), list[str]()
    probe = torch.randn(3, 16, generator=torch.Generator().manual_seed(9)).to(dtype)
    if look:
        wrong += written_before_the_first_step(engine, module, rank)
    for step in range(4):
        x = torch.randn(4, 16, generator=torch.Generator().manual_seed(100 * step + rank)).to(dtype)
        loss = engine(x).float().square().mean()
        engine.backward(loss)
        losses.append(float(loss))
        take_step(engine, 0.05)
        if look:
            wrong += looked_at(engine, module, probe)
    return state(engine, module, optimizer), losses, wrong


def written_before_the_first_step(engine: Any, module: nn.Module, rank: int) -> list[str]:
    """A snapshot before the first update: the average is the weights."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_weights(engine, module, folder, {}, first=rank == 0)
        weights, average = (load_file(folder / name) if rank == 0 else {} for name in (MODEL, AVERAGE))
    same = all(torch.equal(weights[name], average[name]) for name in weights | average)
    return [] if same else ["before the first step the average is not the weights"]


@torch.no_grad()
def looked_at(engine: Any, module: nn.Module, probe: Tensor) -> list[str]:
    """Compare the network inside `average_weights` with one that is built from the whole average."""
    if not has_average(engine):
        return ["no average"]
    expected = network().to(probe.dtype)
    names = sorted(name for name, p in module.named_parameters() if p.requires_grad)
    averages = [tensor.clone() for tensor in full_tensors(engine, module, SHADOW)]
    expected.load_state_dict(dict(zip(names, averages, strict=True)), strict=False)
    engine.eval()
    before = engine(probe).clone()
    with average_weights(engine):
        inside = engine(probe).clone()
    after = engine(probe)
    engine.train()
    wrong = [] if torch.equal(inside, expected(probe)) else ["the network does not compute with the average"]
    wrong += ["the weights did not come back"] if not torch.equal(before, after) else []
    return wrong + (["the average is no other than the weights"] if torch.equal(before, inside) else [])


def main() -> None:
    meeting, rank, ranks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    connect(RankInfo(rank, ranks, rank), f"file://{meeting}")
    from deepspeed.accelerator import get_accelerator

    setattr(get_accelerator(), "is_fp16_supported", lambda: True)  # noqa: B010
    for section in json.load(sys.stdin):
        with_look, losses, wrong = trained(section, ranks, rank, look=True)
        without, same_losses, _ = trained(section, ranks, rank, look=False)
        pairs = [pair for pair in zip(with_look, without, strict=True) if pair[0].numel() == pair[1].numel() > 0]
        if losses != same_losses or not all(torch.equal(*pair) for pair in pairs):
            wrong.append("the training is another one")
        print("RESULT " + json.dumps({"wrong": sorted(set(wrong)), "compared": len(pairs)}), flush=True)
    os._exit(0)  # threads of the communication library abort now and then when the interpreter cleans up


if __name__ == "__main__":
    main()

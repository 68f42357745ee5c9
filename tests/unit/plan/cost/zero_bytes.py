"""One rank of `python -m tests.unit.plan.cost.zero_bytes RANK RANKS RENDEZVOUS`: one real step under each setting, and what
the optimizer then holds, as JSON lines. A process of its own, since DeepSpeed has one process group in each."""

import json
import os
import sys
from typing import Any

import torch

from cogtune.config.build import build
from cogtune.model.lora import set_trainable
from cogtune.train.engine import RankInfo, build_engine, connect, deepspeed_config, take_step
from cogtune.train.optimizers import make_optimizer
from cogtune.work.batches import BatchPlan
from tests.families import inputs, network_config

# (ZeRO stage, bf16, optimizer, LoRA); "low" is bf16 with masters and optimizer states in bf16 too
SETTINGS: list[tuple[int, bool | str, str, bool]] = [
    (0, True, "FusedEmaAdam", False),
    (0, False, "AdamW", True),
    (1, True, "AdamW", False),
    (2, True, "FusedEmaAdam", False),
    (2, False, "FusedEmaAdam", True),
    (3, True, "FusedEmaAdam", False),
    (2, "low", "AdamW", False),
]


def node(lora: bool) -> dict[str, Any]:
    """A network of an odd number of weights, so that partitions are padded."""
    return network_config("5b", {"r": 5} if lora else None, hidden_size=32, num_attention_heads=2, time_embed_dim=21)


def section(stage: int, bf16: bool | str, kind: str) -> dict[str, Any]:
    low = {"bf16_master_weights_and_grads": True, "bf16_optimizer_states": True} if bf16 == "low" else {}
    node = {"enabled": bool(bf16)} | low
    return {"zero_optimization": {"stage": stage}, "bf16": node, "optimizer": {"type": kind}}


def measure(here: RankInfo, stage: int, bf16: bool | str, kind: str, lora: bool) -> dict[str, int]:
    """Bytes of optimizer state, of fp32 masters, of the module's weights."""
    module = build(node(lora)).train()
    set_trainable(module, ["all"] if lora else [])
    settings = section(stage, bf16, kind)
    optimizer = make_optimizer(module, settings["optimizer"], 0.01, torch.device("cpu"))
    engine = build_engine(module, optimizer, deepspeed_config(settings, BatchPlan(1, 1, here.ranks), here.device))
    engine.backward(engine(*inputs(node(lora), 3, 8, 12)).float().pow(2).mean())
    take_step(engine, 1e-3)
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    own = {id(p) for p in module.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]
    masters = getattr(engine.optimizer, "fp32_partitioned_groups_flat", held)
    return {
        "optimizer": sum(tensor.nbytes for tensor in tensors),
        "masters": sum(tensor.nbytes for tensor in masters),
        "weights": sum(p.nbytes for p in module.parameters()),
    }


def main() -> None:
    rank, ranks, rendezvous = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    here = RankInfo(rank, ranks, rank)
    connect(here, f"file://{rendezvous}")
    for setting in SETTINGS:
        print("RESULT " + json.dumps(measure(here, *setting)), flush=True)
    os._exit(0)  # threads of the communication library abort now and then when the interpreter cleans up


if __name__ == "__main__":
    main()

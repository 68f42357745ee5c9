"""Group `steps`: a training step as `cogtune train` makes it: loss, backward pass, clipping, optimizer, average.

One rank, one clip, DeepSpeed with the section of config/sft.yaml; LoRA with each policy, and 2B with all weights.
"""

import os
import tempfile
from pathlib import Path

import torch

from bench.gpu.bench import Bench
from bench.gpu.results import Row
from bench.gpu.setting import Setting
from cogtune.config.build import build
from cogtune.config.schema.checkpointing import Policy
from cogtune.diffusion.loss import VideoDiffusionLoss
from cogtune.plan.stage_costs import TrainCost
from cogtune.train.engine import RankInfo, build_engine, connect, deepspeed_config, take_step
from cogtune.train.optimizers import make_optimizer
from cogtune.work.batches import plan_batches


def run(bench: Bench) -> None:
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # DeepSpeed asks for them
    with tempfile.TemporaryDirectory() as folder:
        connect(RankInfo(0, 1, 0), f"file://{Path(folder) / 'rendezvous'}")
        for model in bench.models:
            settings = [Setting(model, policy=policy, tiny=bench.tiny) for policy in Policy]
            if model == "2b":
                settings += [Setting(model, 0, policy, bench.tiny) for policy in (Policy.FULL, Policy.SELECTIVE)]
            for setting in settings:
                with bench.fresh():
                    _step(bench, setting)
        torch.distributed.destroy_process_group()


def _step(bench: Bench, setting: Setting) -> None:
    if bench.late:
        bench.time(_row(bench, setting), lambda: None)
        return
    section = setting.values["deepspeed"]
    module = setting.network(bench.device)
    optimizer = make_optimizer(module, section["optimizer"], 1e-4, bench.device)
    engine = build_engine(module, optimizer, deepspeed_config(section, plan_batches(1, 1, 1), bench.device))
    loss: VideoDiffusionLoss = build(setting.values["model"]["loss_fn_config"])
    x0_BTCHW, _, context_BLD = setting.inputs(bench.device)
    noise_BTCHW, index_B = torch.randn_like(x0_BTCHW), torch.tensor([500], device=bench.device)

    def step() -> None:
        engine.backward(loss(engine, x0_BTCHW, context_BLD, index_B, noise_BTCHW).mean())
        take_step(engine, 1e-5)

    bench.time(_row(bench, setting), step, setting.costs.network.training_flops(setting.costs.grid))
    engine.destroy()


def _row(bench: Bench, setting: Setting) -> Row:
    seconds, peak = setting.planned(TrainCost, bench.rate)
    tokens = setting.costs.grid.tokens
    return Row(
        "steps",
        setting.model,
        setting.case,
        "cogtune",
        None,
        "tokens",
        tokens,
        planned_seconds=seconds,
        planned_peak=peak,
    )

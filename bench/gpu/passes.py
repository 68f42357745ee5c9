"""Group `passes`: the DiT alone. A forward pass, and a forward and a backward pass for each policy, beside diffusers.

Both eager and compiled: ours layer by layer with torch.compile(fullgraph=True), diffusers' as it compiles itself
(`compile_repeated_blocks`). diffusers has two ways, with its checkpointing (keeps a block's input, as `full`) and without.
"""

from typing import Any

import torch
from torch import Tensor

from bench.gpu.bench import Bench
from bench.gpu.results import Row
from bench.gpu.setting import Setting
from cogtune.config.schema.checkpointing import Policy
from cogtune.plan.cost.activations import activations
from cogtune.plan.stage_costs import TrainCost

_COMPILED = {"2b": [Policy.FULL], "5b": [Policy.FULL, Policy.SELECTIVE], "1.5": []}
"""A compilation takes a minute."""


def run(bench: Bench) -> None:
    for model in bench.models:
        setting = Setting(model, tiny=bench.tiny)
        for compiled in (False, True) if bench.compiled else (False,):
            with bench.fresh():
                _ours(bench, setting, compiled)
            if bench.peer:
                with bench.fresh():
                    _peer(bench, setting, compiled)


def _ours(bench: Bench, setting: Setting, compiled: bool) -> None:
    torch._dynamo.reset()
    network, inputs = setting.network(bench.device), setting.inputs(bench.device)
    side = "cogtune, compiled" if compiled else "cogtune"
    if compiled:
        for layer in network.transformer.layers:
            layer.compile(fullgraph=True)

    def forward() -> Tensor:
        return network(*inputs)

    _rows(bench, setting, side, network, forward, _COMPILED[setting.model] if compiled else list(Policy))


def _peer(bench: Bench, setting: Setting, compiled: bool) -> None:
    from bench.sides import rotary_of

    torch._dynamo.reset()
    network = setting.diffusers(bench.device)
    x_BTCHW, timesteps_B, context_BLD = setting.inputs(bench.device)
    rotary = rotary_of(network, *setting.costs.grid.latent, bench.device)
    ofs = torch.full((1,), 2.0, device=bench.device) if network.config.ofs_embed_dim else None
    if compiled:
        network.compile_repeated_blocks(fullgraph=True)

    def forward() -> Tensor:
        return network(x_BTCHW, context_BLD, timesteps_B, ofs=ofs, image_rotary_emb=rotary, return_dict=False)[0]

    side = "diffusers, compiled" if compiled else "diffusers"
    policies = [policy for policy in (Policy.FULL, Policy.NONE) if not compiled or policy in _COMPILED[setting.model]]
    _rows(bench, setting, side, network, forward, policies)


def _rows(bench: Bench, setting: Setting, side: str, network: Any, forward: Any, policies: list[Policy]) -> None:
    """The rows of one network: its forward pass, then forward and backward pass with each policy."""
    flops = setting.costs.network.flops(setting.costs.grid)

    def inference() -> None:
        with torch.no_grad():
            forward()

    allocated = _Allocated(bench.device)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        allocated.before()
        output = forward()
        allocated.after(output)
        output.float().square().mean().backward()

    bench.time(Row("passes", setting.model, "forward", side, None, "clips"), inference, flops)
    for policy in policies:
        case = Setting(setting.model, setting.lora, policy, setting.tiny)
        row, flops = _planned(bench, case, side)
        _set_policy(network, policy)
        bench.time(row, step, flops, kept=lambda: allocated.kept)


class _Allocated:
    """Bytes that a forward pass leaves allocated, without its output; ``kept`` is None on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu, self._before = device.type == "cuda", 0
        self.kept: float | None = None

    def before(self) -> None:
        self._before = torch.cuda.memory_allocated() if self._on_gpu else 0

    def after(self, output: Tensor) -> None:
        if self._on_gpu:
            self.kept = torch.cuda.memory_allocated() - self._before - output.nbytes


def _set_policy(network: Any, policy: Policy) -> None:
    if hasattr(network, "checkpoint_activations"):
        network.checkpoint_activations = policy
    elif policy is Policy.FULL:
        network.enable_gradient_checkpointing()
    else:
        network.disable_gradient_checkpointing()


def _planned(bench: Bench, case: Setting, side: str) -> tuple[Row, float | None]:
    """The row of a forward and a backward pass with what the plan expects, and its FLOPs. The plan knows eager cogtune."""
    network, grid = case.costs.network, case.costs.grid
    name = f"forward + backward, {case.case}"
    if side != "cogtune":
        return Row("passes", case.model, name, side, None, "clips"), None
    flops = network.training_flops(grid)
    peak = activations(network, grid, 1, 2, case.policy).peak + 2 * network.count
    seconds = flops / (bench.rate * TrainCost.gpu) if bench.rate else None
    return Row("passes", case.model, name, side, None, "clips", planned_seconds=seconds, planned_peak=peak), flops

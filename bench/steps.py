"""A training step of the published models at full size on a GPU: `python -m bench.steps [--only 5b --compile]`.

One clip, bf16, random weights, at the size each family was published for (tests/families.py), with a LoRA of rank 128 on
all layers and everything else frozen: what `config/*_lora.yaml` trains, without the optimizer. For each policy of
args.checkpoint_activations it prints the seconds of forward and backward pass, the share of the card's peak that this
is by the FLOPs of `cogtune plan`, and the bytes that the step keeps and needs at its highest point, beside the plan's
estimate. diffusers with the same adapters (peft) is the peer, in the same process. With --rank 0 all
weights train, and the peak includes their gradients, which the plan counts apart. --compile adds rows in which each
layer is compiled by torch.compile(fullgraph=True). A row that does not fit the card says so. Nothing fails.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from cogtune.config.build import build, params_of
from cogtune.config.schema.checkpointing import Policy
from cogtune.model.lora import set_trainable
from cogtune.model.weights.diffusers import config_json
from cogtune.plan.cost.activations import Activations, activations
from cogtune.plan.cost.transformer import Network
from cogtune.runtime.machines import find
from tests.families import FAMILIES, full_size

GIB = 2**30
DEVICE = torch.device("cuda")
Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Measured:
    """Seconds of a step; bytes between forward and backward pass, and at the peak, without the weights."""

    seconds: float
    kept: int
    peak: int


def measure(forward: Step, zero_grad: Callable[[], None], runs: int) -> Measured | None:
    """The median of ``runs`` steps after one that warms up; None if memory does not suffice."""
    seconds: list[float] = []
    kept = peak = 0
    try:
        for _ in range(runs + 1):
            zero_grad()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, started = torch.cuda.memory_allocated(), time.perf_counter()
            output = forward()
            kept = torch.cuda.memory_allocated() - before - output.nbytes
            output.float().square().mean().backward()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
            peak = torch.cuda.max_memory_allocated() - before
            del output
    except torch.cuda.OutOfMemoryError:
        return None
    return Measured(statistics.median(seconds[1:]), kept, peak)


@dataclass(frozen=True)
class Case:
    """A published model with adapters of rank ``rank``; without one, all of its weights train."""

    family: str
    rank: int | None

    @cached_property
    def node(self) -> dict[str, Any]:
        node = full_size(self.family)
        if self.rank:
            lora = {"r": self.rank, "lora_alpha": self.rank}
            node["params"]["modules"]["lora_config"] = {"target": "sat.model.finetune.lora2.LoraMixin", "params": lora}
        return node

    @property
    def frozen(self) -> list[str]:
        return ["all"] if self.rank else []

    @cached_property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        T, H, W = FAMILIES[self.family].latent
        bf16 = {"dtype": torch.bfloat16, "device": DEVICE}
        x_BTCHW = torch.randn(1, T, self.node["params"]["in_channels"], H, W, **bf16)
        return x_BTCHW, torch.tensor([500], device=DEVICE), torch.randn(1, self.text_length, 4096, **bf16)

    @property
    def text_length(self) -> int:
        return FAMILIES[self.family].text_length

    def planned(self, policy: Policy) -> tuple[Activations, float]:
        """The plan's bytes, and its FLOPs of a step."""
        node = deepcopy(self.node)
        node["params"]["transformer_args"]["checkpoint_activations"] = policy.value
        (T, H, W), network = FAMILIES[self.family].latent, Network(node, self.frozen)
        grid = network.grid(8 * H, 8 * W, 4 * (T - 1) + 1, self.text_length)
        return activations(network, grid, 1, 2, policy), network.training_flops(grid)

    def cogtune(self) -> Any:
        with torch.device("meta"):
            network = build(self.node).to(torch.bfloat16)
        set_trainable(network, self.frozen)
        return filled(network)

    def diffusers(self) -> nn.Module:
        """The same model, with adapters on the same projections."""
        from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel

        config = {name: value for name, value in config_json(params_of(self.node)).items() if name != "_class_name"}
        with torch.device("meta"):
            twin = CogVideoXTransformer3DModel(**config)
            if self.rank:
                from peft import LoraConfig

                twin.requires_grad_(False)
                targets = ["to_q", "to_k", "to_v", "to_out.0"]
                twin.add_adapter(LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=targets))
        return filled(twin.to(torch.bfloat16))


def filled(network: nn.Module) -> Any:
    """On the GPU, with random weights; norms are 1."""
    network.to_empty(device=DEVICE)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if "norm" in name and name.endswith("weight"):
                tensor.fill_(1)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.02)
    return network.train()


def cogtune_rows(case: Case, policies: list[Policy], compiled: bool, runs: int) -> Iterator[list[str]]:
    network = case.cogtune()
    torch._dynamo.reset()
    if compiled:
        for layer in network.transformer.layers:
            layer.compile(fullgraph=True)
    for policy in policies:
        network.checkpoint_activations = policy
        step = measure(lambda: network(*case.inputs), lambda: network.zero_grad(set_to_none=True), runs)
        yield row(case, f"cogtune{', compiled' if compiled else ''}", policy, step, case.planned(policy))


def diffusers_rows(case: Case, runs: int) -> Iterator[list[str]]:
    """With its checkpointing, which keeps a block's input, and without."""
    from bench.sides import rotary_of

    network: Any = case.diffusers()
    x_BTCHW, timesteps_B, context_BLD = case.inputs
    rotary = rotary_of(network, *FAMILIES[case.family].latent, DEVICE)
    ofs = torch.full((1,), 2.0, device=DEVICE) if network.config.ofs_embed_dim else None

    def forward() -> Tensor:
        return network(x_BTCHW, context_BLD, timesteps_B, ofs=ofs, image_rotary_emb=rotary, return_dict=False)[0]

    for policy in (Policy.FULL, Policy.NONE):
        (network.enable_gradient_checkpointing if policy is Policy.FULL else network.disable_gradient_checkpointing)()
        step = measure(forward, lambda: network.zero_grad(set_to_none=True), runs)
        yield row(case, "diffusers", policy, step, None)


def row(
    case: Case, side: str, policy: Policy, step: Measured | None, planned: tuple[Activations, float] | None
) -> list[str]:
    method = f"LoRA {case.rank}" if case.rank else "all weights"
    bytes_planned = [f"{value / GIB:.1f}" for value in (planned[0].kept, planned[0].peak)] if planned else ["", ""]
    if step is None:
        return [case.family, method, side, policy, "out of memory", "", "", bytes_planned[0], "", bytes_planned[1]]
    device = find(torch.cuda.get_device_name())
    share = f"{planned[1] / step.seconds / device.half:.0%}" if planned and device else ""
    kept, peak = f"{step.kept / GIB:.1f}", f"{step.peak / GIB:.1f}"
    return [
        case.family,
        method,
        side,
        policy,
        f"{step.seconds:.2f}",
        share,
        kept,
        bytes_planned[0],
        peak,
        bytes_planned[1],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(FAMILIES), choices=FAMILIES, help="families")
    parser.add_argument("--policies", nargs="+", default=list(Policy), type=Policy, choices=list(Policy))
    parser.add_argument("--rank", type=int, default=128, help="of the LoRA; 0: all weights train")
    parser.add_argument("--compile", action="store_true", help="also with compiled layers")
    parser.add_argument("--no-peer", action="store_true", help="without diffusers")
    parser.add_argument("--runs", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, one clip, bf16")
    heading = ("family", "trains", "side", "policy", "s/step", "of peak", "kept GiB", "plan", "peak GiB", "plan")
    print(("{:12} {:12} {:18} {:10}" + 6 * " {:>9}").format(*heading))
    for family in arguments.only:
        case = Case(family, arguments.rank or None)
        sources = [cogtune_rows(case, arguments.policies, compiled, arguments.runs) for compiled in (False, True)]
        for rows in (
            sources[0],
            *(sources[1:] * arguments.compile),
            *([diffusers_rows(case, arguments.runs)] * (not arguments.no_peer)),
        ):
            for cells in rows:
                print(("{:12} {:12} {:18} {:10}" + 6 * " {:>9}").format(*cells), flush=True)
            del rows
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

"""Bytes kept for the backward pass, against what autograd really saves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cogtune.config.build import build
from cogtune.config.schema.checkpointing import Policy
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.lora import set_trainable
from cogtune.plan.cost.activations import Activations, activations
from cogtune.plan.cost.transformer import Network
from tests.families import full_size, inputs, network_config
from tests.kernels import needs_bf16_attention
from tests.pretend import Step

TOLERANCE = 0.15


@dataclass(frozen=True)
class Case:
    family: str
    shape: tuple[int, int, int]
    batch: int = 1
    dtype: torch.dtype = torch.float32
    lora: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> dict[str, Any]:
        return network_config(self.family, self.lora, **self.more)

    @property
    def frozen(self) -> list[str]:
        return ["all"] if self.lora else []

    def modelled(self, policy: Policy) -> Activations:
        network, (T, H, W) = Network(self.node, self.frozen), self.shape
        grid = network.grid(8 * H, 8 * W, 4 * (T - 1) + 1, 7)
        return activations(network, grid, self.batch, 4 if self.dtype == torch.float32 else 2, policy)

    def model(self) -> DiffusionTransformer:
        model = build(self.node).to(self.dtype)
        set_trainable(model, self.frozen)
        return model


WIDE = {"hidden_size": 192, "num_attention_heads": 12}
CASES = {
    "sincos": Case("2b", (3, 8, 12), batch=2),
    "rotary": Case("5b", (3, 8, 12)),
    "rotary bf16": Case("5b", (5, 16, 16), dtype=torch.bfloat16),
    "wide bf16": Case("5b", (3, 16, 16), dtype=torch.bfloat16, more=WIDE),
    "temporal patch": Case("1.5_5b", (6, 16, 16), dtype=torch.bfloat16),
    "learned table": Case("5b_i2v", (3, 8, 12)),
    "lora sincos": Case("2b", (3, 8, 12), batch=2, lora={"r": 8}),
    "lora rotary bf16": Case("5b", (5, 16, 16), dtype=torch.bfloat16, lora={"r": 16}, more={"num_layers": 4}),
    "lora on one layer": Case("5b", (3, 8, 12), lora={"r": 4, "layer_range": [2]}, more={"num_layers": 4}),
}


def allocated(run: Callable[[], Tensor]) -> int:
    """Bytes that ``run`` leaves allocated, beside its result."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        output = run()
    return sum(event.self_cpu_memory_usage for event in measured.key_averages()) - output.nbytes


def named(*names: str) -> list[Any]:
    return [
        pytest.param(name, marks=needs_bf16_attention if CASES[name].dtype == torch.bfloat16 else ()) for name in names
    ]


@pytest.mark.heavy
@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("name", named(*CASES))
def test_kept_bytes(name: str, policy: Policy) -> None:
    case = CASES[name]
    model = case.model()
    model.checkpoint_activations = policy
    arguments = inputs(case.node, *case.shape, B=case.batch)
    assert case.modelled(policy).kept == pytest.approx(allocated(lambda: model(*arguments)), rel=TOLERANCE)


@pytest.mark.heavy
@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("lora", [None, {"r": 128}], ids=["full", "lora"])
def test_bytes_of_5b_at_full_width(lora: dict[str, Any] | None, policy: Policy) -> None:
    """Four of 42 layers, where the gradients of the weights do not count for much."""
    node, frozen = full_size("5b"), ["all"] if lora else []
    node["params"]["num_layers"] = 4
    if lora:
        node["params"]["modules"]["lora_config"] = {"target": "Lora", "params": lora}
    network = Network(node, frozen)
    modelled = activations(network, network.grid(480, 720, 49, 226), 1, 2, policy)
    used = Step(node, (13, 60, 90), policy, frozen).bytes()
    assert modelled.kept == pytest.approx(used.kept, rel=0.02)
    assert modelled.peak == pytest.approx(used.peak, rel=0.2)


def test_nothing_is_kept_before_the_first_trained_weight() -> None:
    case = CASES["lora on one layer"]
    late = Case(case.family, case.shape, lora={"r": 4, "layer_range": [3]}, more=case.more)
    early = Case(case.family, case.shape, lora={"r": 4, "layer_range": [0]}, more=case.more)
    for policy in Policy:
        assert late.modelled(policy).kept < 0.6 * early.modelled(policy).kept

"""Recomputed tensors: the same gradients to the bit, and less memory between forward and backward."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from tests.families import FAMILIES, inputs, network_config, randomised

WIDE: dict[str, Any] = {"hidden_size": 96, "num_attention_heads": 6, "latent_width": 24, "latent_height": 16}


def model(family: str, recompute: bool, lora: dict | None = None, **more: object) -> nn.Module:
    dit = randomised(network_config(family, lora, **more))
    if not recompute:
        layer = dit._layer
        dit._layer = lambda *arguments: _without(dit, layer, arguments)  # type: ignore[method-assign]
    return dit


def _without(dit: nn.Module, layer, arguments: tuple) -> Tensor:
    """A layer as it is inside activation checkpointing: everything kept."""
    dit.checkpoint_activations = True  # type: ignore[assignment]
    try:
        return layer(*arguments)
    finally:
        dit.checkpoint_activations = False  # type: ignore[assignment]


def gradients(dit: nn.Module, family: str) -> dict[str, Tensor]:
    x, timesteps, context = inputs(network_config(family), 4 if family.startswith("1.5") else 3, 8, 12, B=2)
    dit(x, timesteps, context).square().mean().backward()
    return {name: p.grad for name, p in dit.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_to_the_bit(family: str, lora: dict | None) -> None:
    with_, without = (gradients(model(family, recompute, lora), family) for recompute in (True, False))
    assert with_.keys() == without.keys()
    assert all(torch.equal(with_[name], without[name]) for name in with_)


def kept_bytes(dit: nn.Module, x: Tensor, timesteps: Tensor, context: Tensor) -> int:
    """What a forward pass allocates and does not free again, counted by the allocator."""
    dit(x, timesteps, context)  # tables are made once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        output = dit(x, timesteps, context)
    assert output.requires_grad
    return sum(event.self_cpu_memory_usage for event in measured.key_averages())


@pytest.mark.parametrize("family", ["2b", "5b"])
def test_a_third_less_is_kept(family: str) -> None:
    args = inputs(network_config(family, **WIDE), 3, 16, 24)
    with_, without = (kept_bytes(model(family, recompute, **WIDE), *args) for recompute in (True, False))
    assert with_ < 0.67 * without

"""The network on a GPU: same results as on the CPU, no synchronisation, one graph a layer, equal gradients."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cogtune.config.schema.checkpointing import Policy
from cogtune.model.dit import DiffusionTransformer
from cogtune.runtime.devices import prepare_torch
from tests.families import FAMILIES, inputs, network_config, randomised

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LORA = {"r": 4}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Full fp32 products, and kernels that give the same bits at each call."""
    torch._dynamo.reset()
    torch.use_deterministic_algorithms(True)
    prepare_torch()
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(node: dict[str, Any], dtype: torch.dtype, policy: Policy = Policy.NONE) -> DiffusionTransformer:
    network = randomised(node).to("cuda", dtype)
    network.checkpoint_activations = policy
    return network


def tensors(node: dict[str, Any], dtype: torch.dtype, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    x, timesteps, context = inputs(node, 4, 8, 12, B=batch)
    return x.to("cuda", dtype), timesteps.to("cuda"), context.to("cuda", dtype)


def gradients(network: DiffusionTransformer, arguments: tuple[Tensor, ...]) -> dict[str, Tensor]:
    network.zero_grad(set_to_none=True)
    network(*arguments).float().square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def largest_error(given: Tensor, expected: Tensor) -> float:
    return float((given.float().cpu() - expected.float().cpu()).abs().max() / expected.float().abs().max())


def assert_close(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Errors are shares of the tensor's largest value, or of a thousandth of the largest of all: the gradient of a key's
    bias is 0 but for rounding."""
    assert given.keys() == expected.keys()
    floor = 1e-3 * max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        error = float((given[name].cpu() - value.cpu()).abs().max())
        assert error < 1e-4 * max(floor, float(value.abs().max())), name


@pytest.mark.parametrize("family", FAMILIES)
def test_output_and_gradients_equal_those_of_the_cpu(family: str) -> None:
    node = network_config(family, num_frames=21)
    cpu, gpu = randomised(node), on_gpu(node, torch.float32)
    arguments = inputs(node, 4, 8, 12, B=2)
    with torch.no_grad():
        assert largest_error(gpu(*tensors(node, torch.float32)), cpu(*arguments)) < 1e-5
    assert_close(gradients(gpu, tensors(node, torch.float32)), gradients(cpu, arguments))


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_policies_give_the_same_gradients(family: str, lora: dict[str, Any] | None) -> None:
    node = network_config(family, lora, num_frames=21)
    arguments = tensors(node, torch.bfloat16)
    expected = gradients(on_gpu(node, torch.bfloat16), arguments)
    for policy in Policy:
        given = gradients(on_gpu(node, torch.bfloat16, policy), arguments)
        assert all(torch.equal(given[name], expected[name]) for name in expected), policy


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_does_not_synchronise(family: str, policy: Policy) -> None:
    node = network_config(family, LORA, num_frames=21)
    network, arguments = on_gpu(node, torch.bfloat16, policy), tensors(node, torch.bfloat16)
    gradients(network, arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(network, arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_compiled_layers_equal_eager_ones(lora: dict[str, Any] | None, policy: Policy) -> None:
    node = network_config("5b", lora, num_layers=1, num_frames=21)
    network, arguments = on_gpu(node, torch.float32, policy), tensors(node, torch.float32)
    expected = gradients(network, arguments)
    for layer in network.transformer.layers:
        layer.compile(fullgraph=True)
    assert_close(gradients(network, arguments), expected)

"""What is kept for the backward pass changes memory and time, and not a bit of the gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cogtune.config.schema.checkpointing import Policy
from tests.families import FAMILIES, inputs, network_config, randomised
from tests.kernels import needs_bf16_attention
from tests.pretend import LiveBytes

ADAPTERS = {"full": None, "lora": {"r": 4}, "dropout": {"r": 2, "lora_dropout": 0.5}}


def gradients(node: dict[str, Any], policy: Policy, dtype: torch.dtype) -> dict[str, Tensor]:
    dit = randomised(node).to(dtype)
    dit.checkpoint_activations = policy
    x, timesteps, context = inputs(node, 4, 8, 12, B=2)
    torch.manual_seed(3)  # of the dropout
    dit(x, timesteps, context).float().square().mean().backward()
    return {name: p.grad for name, p in dit.named_parameters() if p.grad is not None}


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16_attention)], ids=str)
@pytest.mark.parametrize("adapters", ADAPTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_to_the_bit(family: str, adapters: str, dtype: torch.dtype) -> None:
    node = network_config(family, ADAPTERS[adapters], num_frames=21)
    everything = gradients(node, Policy.NONE, dtype)
    assert any(name.endswith("query_key_value.weight") or "matrix_A" in name for name in everything)
    for policy in Policy:
        found = gradients(node, policy, dtype)
        assert found.keys() == everything.keys()
        assert all(torch.equal(found[name], everything[name]) for name in found), policy


def kept(node: dict[str, Any], policy: Policy) -> int:
    """Bytes that live after a forward pass, the output left out."""
    dit, arguments = randomised(node), inputs(node, 3, 16, 24)
    dit.checkpoint_activations = policy
    with LiveBytes() as live:
        output = dit(*arguments)
    assert output.requires_grad
    return live.now - output.nbytes


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["2b", "5b"])
def test_policies_go_from_the_least_memory_to_the_most(family: str) -> None:
    wide: dict[str, Any] = {"hidden_size": 96, "num_attention_heads": 6, "latent_width": 24, "latent_height": 16}
    found = [kept(network_config(family, **wide), policy) for policy in Policy]
    assert found == sorted(set(found))


def test_products_of_adapters_are_not_kept() -> None:
    plain, adapted = (kept(network_config("5b", lora), Policy.SELECTIVE) for lora in (None, {"r": 4}))
    assert adapted == pytest.approx(plain, rel=0.01)


def test_a_network_takes_the_values_of_the_config() -> None:
    dit = randomised(network_config("5b"))
    for value, policy in ((True, Policy.FULL), (False, Policy.SELECTIVE), ("attention", Policy.ATTENTION)):
        dit.checkpoint_activations = value
        assert dit.checkpoint_activations is policy
    with pytest.raises(ValueError, match="'some' is not a valid Policy"):
        dit.checkpoint_activations = "some"


def test_nothing_is_kept_without_gradients() -> None:
    node = network_config("5b")
    dit = randomised(node)
    for policy in Policy:
        dit.checkpoint_activations = policy
        with torch.no_grad(), LiveBytes() as live:
            output = dit(*inputs(node, 2, 8, 12))
        assert live.now <= output.nbytes + 2**16

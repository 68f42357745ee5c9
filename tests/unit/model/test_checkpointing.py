"""What is kept for the backward pass changes memory and time, and not a bit of the gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cogtune.config.schema.checkpointing import Policy
from tests.families import FAMILIES, diffusers_twin, inputs, network_config, randomised, run_diffusers
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


@pytest.mark.parametrize("family", ["2b", "5b"])
def test_policies_go_from_the_least_memory_to_the_most(family: str) -> None:
    wide: dict[str, Any] = {"hidden_size": 96, "num_attention_heads": 6, "latent_width": 24, "latent_height": 16}
    found = [kept(network_config(family, **wide), policy) for policy in Policy]
    assert found == sorted(set(found))


@pytest.mark.parametrize("family", ["2b", "5b"])
def test_a_layer_keeps_half_of_what_diffusers_keeps(family: str) -> None:
    """Two layers more, so that what is kept once a network is left out."""
    wide: dict[str, Any] = {"hidden_size": 96, "num_attention_heads": 6, "latent_width": 24, "latent_height": 16}
    ours, theirs = [], []
    for layers in (1, 3):
        node = network_config(family, num_layers=layers, **wide)
        ours.append(kept(node, Policy.SELECTIVE))
        twin = diffusers_twin(node, randomised(node).state_dict()).train()
        with LiveBytes() as live:
            output = run_diffusers(twin, *inputs(node, 3, 16, 24))
        assert output.requires_grad
        theirs.append(live.now - output.nbytes)
    assert ours[1] - ours[0] <= 0.5 * (theirs[1] - theirs[0])


def test_no_gradient_of_a_slice_is_added_in_a_layer() -> None:
    """It would be as large as the whole sequence, and a layer had eight of them."""
    node = network_config("2b", num_layers=1)
    dit = randomised(node)
    dit.checkpoint_activations = Policy.NONE
    adaln, h_BND = dit.mixins.adaln_layer, torch.randn(1, 12, dit.params.hidden_size, requires_grad=True)
    emb_BE = torch.randn(1, dit.params.time_embed_dim or dit.params.hidden_size)
    output = dit.transformer.layers[0](h_BND, 4, adaln.modulation(0, emb_BE), adaln.norms(0), None)
    pending, visited = [output.grad_fn], set()
    while pending:
        step = pending.pop()
        if step is not None and step not in visited:
            visited.add(step)
            pending += [before for before, _ in step.next_functions]
    names = {type(step).__name__ for step in visited}
    assert "SplitWithSizesBackward0" in names
    assert not {name for name in names if name.startswith("Slice")}


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

"""Networks at their published size, on devices without memory: a tensor that stays on the CPU, or a value that the CPU
would have to wait for, is an error there."""

from typing import Any

import pytest
import torch

from cogtune.config.build import build
from cogtune.config.schema.checkpointing import Policy
from tests.families import FAMILIES, full_size
from tests.pretend import Step

LORA = {"target": "Lora", "params": {"r": 128}}


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_on_a_pretend_device(family: str) -> None:
    node = full_size(family)
    node["params"]["num_layers"] = 3
    assert Step(node, FAMILIES[family].latent, Policy.SELECTIVE).bytes().kept > 0
    assert Step(node, FAMILIES[family].latent, None).bytes().kept < 2**30


@pytest.mark.heavy
def test_lora_of_5b_fits_an_80_gb_card_without_full_recomputation() -> None:
    node: dict[str, Any] = full_size("5b")
    node["params"]["modules"]["lora_config"] = LORA
    used = Step(node, FAMILIES["5b"].latent, Policy.SELECTIVE, frozen=["all"]).bytes()
    assert used.kept <= 48.6 * 2**30
    assert used.peak <= 50 * 2**30


@pytest.mark.heavy
@pytest.mark.parametrize("policy", [None, *Policy])
@pytest.mark.parametrize("family", FAMILIES)
def test_on_meta(family: str, policy: Policy | None) -> None:
    node = full_size(family)
    node["params"]["num_layers"] = 2
    T, H, W = FAMILIES[family].latent
    with torch.device("meta"), torch.set_grad_enabled(policy is not None):
        dit = build(node)
        dit.checkpoint_activations = policy or Policy.NONE
        text = node["params"]["modules"]["pos_embed_config"]["params"]["text_length"]
        x = torch.empty(1, T, node["params"]["in_channels"], H, W)
        output = dit(x, torch.zeros(1, dtype=torch.long), torch.empty(1, text, 4096))
        assert output.is_meta
        if policy is not None:
            output.mean().backward()

from typing import Any

import pytest
import torch

from cogtune.config.build import build
from cogtune.errors import UserError
from cogtune.model.lora import AdaptedLinear, merge_lora, set_strength, set_trainable
from tests.families import FAMILIES, inputs, network_config, randomised

ATTENTION = "transformer.layers.0.attention"


def test_names_and_shapes_are_upstreams() -> None:
    state = build(network_config("5b", lora={"r": 4})).state_dict()
    shapes = {
        name.removeprefix(ATTENTION + "."): tuple(t.shape) for name, t in state.items() if name.startswith(ATTENTION)
    }
    expected = {"query_key_value.original.weight": (144, 48), "query_key_value.original.bias": (144,)}
    expected |= {"dense.original.weight": (48, 48), "dense.original.bias": (48,)}
    expected |= {f"query_key_value.matrix_A.{j}": (4, 48) for j in range(3)} | {"dense.matrix_A.0": (4, 48)}
    expected |= {f"query_key_value.matrix_B.{j}": (48, 4) for j in range(3)} | {"dense.matrix_B.0": (48, 4)}
    assert shapes == expected


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_merging_equals_the_adapter(family: str) -> None:
    node = network_config(family, lora={"r": 4, "lora_alpha": 2})
    adapted, plain = randomised(node), build(network_config(family))
    plain.load_state_dict(merge_lora(adapted.state_dict(), scale=2 / 4))
    x = inputs(node, 2, 8, 12, B=2)
    given, expected = adapted(*x), plain(*x)
    assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_strength_scales_the_update(family: str) -> None:
    """0 and 1 are the base and the tuned model to the bit; in between, the model whose update is scaled."""
    node = network_config(family, lora={"r": 4, "lora_alpha": 2})
    tuned, base = randomised(node), randomised(node)
    for name, parameter in base.named_parameters():
        if "matrix_B" in name:
            parameter.zero_()
    x = inputs(node, 2, 8, 12, B=2)
    whole, nothing = tuned(*x), base(*x)
    assert not torch.equal(whole, nothing)
    for strength, expected in ((0.0, nothing), (1.0, whole)):
        set_strength(tuned, strength)
        assert torch.equal(tuned(*x), expected)
    half = build(network_config(family))
    half.load_state_dict(merge_lora(tuned.state_dict(), scale=2 / 4 / 2))
    set_strength(tuned, 0.5)
    expected = half(*x)
    assert (tuned(*x) - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_half_the_strength_is_half_the_update() -> None:
    """Of one layer, to the bit: 0.5 is a power of two."""
    layer = randomised(network_config("5b", lora={"r": 4})).get_submodule("transformer.layers.0.attention.dense")
    assert isinstance(layer, AdaptedLinear)
    x_BND = torch.randn(2, 5, 48)
    update: dict[float, torch.Tensor] = {}
    layer.original.weight.zero_()
    layer.original.bias.zero_()
    for strength in (1.0, 0.5):
        set_strength(layer, strength)
        update[strength] = layer(x_BND)
    assert torch.equal(update[0.5], update[1.0] / 2)


def test_a_model_without_lora_has_no_strength() -> None:
    with pytest.raises(UserError, match="no LoRA"):
        set_strength(build(network_config("5b")), 0.5)


@torch.no_grad()
def test_fresh_adapters_change_nothing() -> None:
    node = network_config("5b", lora={"r": 4})
    adapted, plain = build(node), build(network_config("5b"))
    plain.load_state_dict(merge_lora(adapted.state_dict(), scale=1.0))
    x = inputs(node, 2, 8, 12)
    torch.testing.assert_close(adapted(*x), plain(*x), rtol=0, atol=1e-6)


@torch.no_grad()
def test_upstreams_default_strength_is_one_over_r() -> None:
    one = randomised(network_config("5b", lora={"r": 4}))
    explicit = randomised(network_config("5b", lora={"r": 4, "lora_alpha": 1}))
    assert one.get_submodule("transformer.layers.0.attention.dense").scale == 0.25
    x = inputs(network_config("5b"), 2, 8, 12)
    assert torch.equal(one(*x), explicit(*x))


def test_layer_range() -> None:
    names = build(network_config("5b", lora={"r": 4, "layer_range": [1]})).state_dict()
    assert not any("layers.0" in name and "matrix" in name for name in names)
    assert sum("matrix" in name for name in names) == 8
    with pytest.raises(UserError, match="no layer 2"):
        build(network_config("5b", lora={"r": 4, "layer_range": [2]}))


@pytest.mark.parametrize("params", [{"r": 0}, {"r": 4, "qlora": True}])
def test_refusals(params: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=list(params)[-1]):
        build(network_config("5b", lora=params))


def test_all_but_adapters_freeze() -> None:
    dit = build(network_config("2b", lora={"r": 4}))
    names = set_trainable(dit, ["all"])
    assert names == [name for name, _ in dit.named_parameters() if "matrix_" in name]


def test_full_training_leaves_out_tables_that_cannot_learn() -> None:
    for family, frozen in (("2b", "mixins.pos_embed.pos_embedding"), ("5b", "transformer.position_embeddings.weight")):
        dit = build(network_config(family))
        trainable = set_trainable(dit, ["first_stage_model", "conditioner"])
        assert {name for name, _ in dit.named_parameters()} - set(trainable) == {frozen}


def test_prefixes() -> None:
    dit = build(network_config("2b"))
    trainable = set_trainable(dit, ["model.diffusion_model.transformer.layers.0"])
    assert not any(name.startswith("transformer.layers.0") for name in trainable)
    assert any(name.startswith("transformer.layers.1") for name in trainable)


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        (["all"], "nothing is trainable"),
        (["model.diffusion_model.transfomer"], "matches no weight"),
    ],
)
def test_what_cannot_train_is_refused(prefixes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        set_trainable(build(network_config("2b")), prefixes)

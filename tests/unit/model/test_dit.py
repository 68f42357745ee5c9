import re
from typing import Any

import pytest
import torch

from cogtune.checkpoints.names import POSITIONS
from cogtune.config.build import build
from cogtune.errors import UserError
from tests.families import FAMILIES, TEXT, TEXT_WIDTH, full_size, inputs, network_config, randomised

# Keys of upstream checkpoints, without the layer number
COMMON = {
    *(f"time_embed.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
    *(f"transformer.layers.#.{name}.{kind}" for kind in ("weight", "bias") for name in (
        "input_layernorm", "post_attention_layernorm", "attention.query_key_value", "attention.dense",
        "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
    )),
    *(f"{name}.{kind}" for kind in ("weight", "bias") for name in (
        "transformer.final_layernorm", "mixins.patch_embed.proj", "mixins.patch_embed.text_proj",
        "mixins.adaln_layer.adaLN_modulations.#.1", "mixins.adaln_layer.query_layernorm_list.#",
        "mixins.adaln_layer.key_layernorm_list.#", "mixins.final_layer.norm_final", "mixins.final_layer.linear",
        "mixins.final_layer.adaLN_modulation.1",
    )),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_parameter_names_are_upstreams(family: str) -> None:
    names = build(network_config(family)).state_dict()
    assert {re.sub(r"(layers|modulations|list)\.\d+", r"\1.#", name) for name in names} == COMMON | FAMILIES[
        family
    ].tensors


@pytest.mark.heavy
@pytest.mark.parametrize(("family", "billions"), [("2b", 1.69), ("5b", 5.57), ("1.5_5b_i2v", 5.57)])
def test_full_size_on_meta(family: str, billions: float) -> None:
    """The published sizes build without memory, and have the published number of weights."""
    with torch.device("meta"):
        dit = build(full_size(family))
    count = sum(p.numel() for p in dit.parameters() if p.requires_grad)
    assert count / 1e9 == pytest.approx(billions, abs=0.01)


def test_initial_values() -> None:
    torch.manual_seed(0)
    dit = build(network_config("5b", num_layers=8, hidden_size=192, num_attention_heads=12))
    state = dit.state_dict()
    layer = "transformer.layers.3"
    for name, std in {
        f"{layer}.attention.query_key_value": 0.02, f"{layer}.mlp.dense_h_to_4h": 0.02,
        f"{layer}.attention.dense": 0.005, f"{layer}.mlp.dense_4h_to_h": 0.005,
    }.items():  # fmt: skip
        assert float(state[f"{name}.weight"].std()) == pytest.approx(std, rel=0.05)
        assert not state[f"{name}.bias"].any()
    for name in ("mixins.patch_embed.proj", "mixins.final_layer.linear"):
        weight = state[f"{name}.weight"]
        assert float(weight.abs().max()) == pytest.approx((6 / sum(weight.shape)) ** 0.5, rel=0.05)
        assert not state[f"{name}.bias"].any()
    assert state["mixins.adaln_layer.adaLN_modulations.0.1.weight"].abs().max() > 0


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(family: str) -> None:
    node = network_config(family)
    dit = randomised(node)
    x, timesteps, context = inputs(node, 2, 8, 12, B=3)
    whole = dit(x, timesteps, context)
    one = dit(x[1:2], timesteps[1:2], context[1:2])
    torch.testing.assert_close(whole[1:2], one, rtol=1e-4, atol=1e-5)
    assert whole.shape == (3, 2, 4, 8, 12)


@pytest.mark.parametrize("family", ["2b", "5b_i2v"])
@torch.no_grad()
def test_smaller_sizes_take_a_prefix_of_the_table(family: str) -> None:
    """Upstream adds the first rows, whatever the size; the same model with its table cut there gives the same."""
    node = network_config(family)
    dit = randomised(node)
    for T, H, W in ((2, 8, 12), (3, 4, 6), (1, 8, 12)):
        rows = TEXT + T * H * W // 4
        cut = build(network_config(family, num_frames=4 * T - 3, latent_height=H, latent_width=W))
        state = dict(dit.state_dict())
        state[POSITIONS] = state[POSITIONS][:, :rows]
        cut.load_state_dict(state)
        x, timesteps, context = inputs(node, T, H, W)
        assert torch.equal(dit(x, timesteps, context), cut(x, timesteps, context))


@torch.no_grad()
def test_ofs_is_two_unless_given() -> None:
    node = network_config("1.5_5b_i2v")
    dit, x = randomised(node), inputs(node, 2, 8, 12, B=2)
    assert torch.equal(dit(*x), dit(*x, ofs=2.0))
    assert torch.equal(dit(*x), dit(*x, ofs=torch.tensor([2.0])))
    assert not torch.equal(dit(*x), dit(*x, ofs=torch.tensor([2.0, 1.0])))


@pytest.mark.parametrize(
    ("family", "shape", "message"),
    [
        ("1.5_5b", (1, 3, 4, 8, 12), "T .* is 3; expected a multiple of 2"),
        ("2b", (1, 3, 4, 7, 12), "H is 7; expected a multiple of 2"),
        ("2b", (1, 3, 4, 8, 13), "W is 13"),
        ("2b", (1, 3, 5, 8, 12), "in_channels = 4"),
        ("2b", (3, 4, 8, 12), "expected .B, T, C, H, W"),
        ("2b", (1, 4, 4, 8, 12), "position table"),
    ],
)
def test_sizes_that_do_not_fit(family: str, shape: tuple[int, ...], message: str) -> None:
    dit = build(network_config(family))
    with pytest.raises(UserError, match=message):
        dit(torch.zeros(shape), torch.zeros(1), torch.zeros(1, TEXT, TEXT_WIDTH))


def test_contexts_and_timesteps_that_do_not_fit() -> None:
    dit, x = build(network_config("2b")), torch.zeros(1, 3, 4, 8, 12)
    with pytest.raises(UserError, match="text_hidden_size = 24"):
        dit(x, torch.zeros(1), torch.zeros(1, TEXT, 23))
    with pytest.raises(UserError, match="text_length is 7"):
        dit(x, torch.zeros(1), torch.zeros(1, 6, TEXT_WIDTH))
    with pytest.raises(UserError, match="one per sample"):
        dit(x, torch.zeros(2), torch.zeros(1, TEXT, TEXT_WIDTH))


@pytest.mark.parametrize(
    "params",
    [
        {"use_SwiGLU": True},
        {"use_RMSNorm": True},
        {"num_classes": 10},
        {"num_attention_heads": 5},
        {"input_time": "add"},
    ],
)
def test_switches_that_no_published_model_has(params: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=next(iter(params))):
        build(network_config("2b", **params))

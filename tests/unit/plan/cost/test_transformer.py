"""The network in numbers, against the network itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cogtune.config.merge import load_config
from cogtune.config.registry import build
from cogtune.model.lora import set_trainable
from cogtune.plan.cost.transformer import Network
from tests.families import FAMILIES, inputs, network_config

CONFIG = Path(__file__).parents[4] / "config"
FILES = [
    path for path in sorted(CONFIG.rglob("*.yaml")) if "network_config" in path.read_text() or "_lora" in path.name
]
FILES = [path for path in FILES if path.name not in ("cogvideox_common.yaml", "lora.yaml")]
# Published counts (the model cards say 2B and 5B), without adapters and without what 1.0 keeps as a fixed table.
KNOWN = {"cogvideox_2b.yaml": 1_693_783_872, "cogvideox_5b.yaml": 5_570_283_072}


def real(model: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], bool]]:
    with torch.device("meta"):
        network = build(model["network_config"])
    set_trainable(network, model.get("not_trainable_prefixes") or [], model.get("lora_train") or False)
    return {name: (tuple(p.shape), p.requires_grad) for name, p in network.named_parameters()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_parameter_of_every_shipped_file(path: Path) -> None:
    model = load_config([path], check_files=False, partial=True).values["model"]
    network = Network(model["network_config"], model.get("not_trainable_prefixes") or [], model.get("lora_train"))
    assert {one.name: (one.shape, network.trains(one)) for one in network.parameters} == real(model)
    if path.name in KNOWN:
        assert network.trained_count == KNOWN[path.name]


@pytest.mark.parametrize(
    ("prefixes", "changes"),
    [
        (["model.diffusion_model.transformer"], {}),
        (
            ["model.diffusion_model.mixins.adaln_layer", "model.diffusion_model.time_embed"],
            {"elementwise_affine": False},
        ),
        (["all"], {"lora": {"r": 4, "layer_range": [1]}}),
    ],
)
def test_what_a_config_freezes(prefixes: list[str], changes: dict[str, Any]) -> None:
    node = network_config("5b", **changes)
    network = Network(node, prefixes)
    found = {one.name: (one.shape, network.trains(one)) for one in network.parameters}
    assert found == real({"network_config": node, "not_trainable_prefixes": prefixes})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_flops_are_those_that_torch_counts(family: str, lora: dict[str, Any] | None) -> None:
    node = network_config(family, lora)
    T, H, W = (6, 8, 12) if family.startswith("1.5") else (3, 8, 12)
    grid = Network(node).grid(H * 8, W * 8, 4 * (T - 1) + 1, 7)
    assert grid.latent == (T, H, W)
    with torch.device("meta"):
        network, (x, timesteps, context) = build(node), inputs(node, T, H, W)
        with FlopCounterMode(display=False) as counter:
            network(x, timesteps, context)
    # Left out: the embedding of the timestep and the final modulation, once a clip.
    assert Network(node).flops(grid) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("lora", [None, {"r": 4}])
@pytest.mark.parametrize("recomputed", [False, True])
def test_training_flops_are_those_that_torch_counts(lora: dict[str, Any] | None, recomputed: bool) -> None:
    node, frozen = network_config("5b", lora), ["all"] if lora else []
    network = build(node)
    set_trainable(network, frozen)
    network.checkpoint_activations = recomputed
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*inputs(node, 3, 16, 16)).sum().backward()
    modelled = Network(node, frozen)
    grid = modelled.grid(128, 128, 9, 7)
    # Plain attention keeps its scores, so its backward has four products; flash attention has five.
    plain = modelled.training_flops(grid, recomputed) - modelled.layers * 2 * grid.tokens**2 * modelled.width
    assert plain == pytest.approx(counter.get_total_flops(), rel=0.04)


@pytest.mark.parametrize(
    ("family", "frames", "latent", "video"),
    [("5b", 49, 13, 17550), ("1.5_5b", 81, 22, 44880), ("1.5_5b", 77, 20, 40800)],
)
def test_tokens_of_a_clip(family: str, frames: int, latent: int, video: int) -> None:
    """1.5 with 81 frames has 21 latents, and one more in front."""
    size = (480, 720) if family == "5b" else (768, 1360)
    grid = Network(network_config(family)).grid(*size, frames, 226)
    assert (grid.latent[0], grid.video) == (latent, video)
    assert grid.tokens == video + 226

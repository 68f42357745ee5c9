"""The network in numbers, against the network itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cogtune.checkpoints.shapes import derived_names
from cogtune.config.build import build
from cogtune.config.schema.checkpointing import Policy
from cogtune.model.lora import set_trainable
from cogtune.plan.cost.transformer import Network
from cogtune.work.load import load_config
from tests.families import FAMILIES, inputs, network_config
from tests.pretend import Step

CONFIG = Path(__file__).parents[4] / "config"
FILES = [
    path for path in sorted(CONFIG.rglob("*.yaml")) if "network_config" in path.read_text() or "_lora" in path.name
]
FILES = [path for path in FILES if path.name not in ("cogvideox_common.yaml", "lora.yaml")]
UPSTREAM = sorted((Path(__file__).parents[3] / "upstream_configs").glob("cogvideox*.yaml"))


def published_count(
    num_layers: int,
    num_attention_heads: int,
    sample_frames: int,
    sample_height: int,
    sample_width: int,
    max_text_seq_length: int,
    in_channels: int = 16,
    patch_size_t: int = 1,
    ofs_embed_dim: int = 0,
    use_learned_positional_embeddings: bool = False,
    **_: Any,
) -> int:
    """Weights that train in full tuning, from the structure of the paper's figure 3 and the published config.json."""
    D, E, patch = 64 * num_attention_heads, 512, 4 * patch_size_t
    norms = 2 * 2 * D + 2 * 2 * 64
    block = 12 * D * D + 9 * D + norms + 12 * D * (E + 1)
    embedding = (in_channels * patch + 1) * D + (4096 + 1) * D
    scalars = (D + 1) * E + (E + 1) * E + bool(ofs_embed_dim) * 2 * (E + 1) * E
    final = 2 * D + 2 * D + 2 * D * (E + 1) + (D + 1) * 16 * patch
    video = (sample_frames // 4 + 1) * (sample_height // 2) * (sample_width // 2)
    table = (max_text_seq_length + video) * use_learned_positional_embeddings
    return num_layers * block + embedding + scalars + final + table * D


def real(model: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], bool]]:
    with torch.device("meta"):
        network = build(model["network_config"])
    set_trainable(network, model["not_trainable_prefixes"])
    return {name: (tuple(p.shape), p.requires_grad) for name, p in network.named_parameters()}


@pytest.mark.heavy
@pytest.mark.parametrize("path", [*FILES, *UPSTREAM], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_parameter_of_every_file(path: Path) -> None:
    """Ours and upstream's own; at full size, on the meta device."""
    model = load_config([path], check_files=False, partial=True).values["model"]
    network = Network(model["network_config"], model["not_trainable_prefixes"])
    assert {one.name: (one.shape, network.trains(one)) for one in network.parameters} == real(model)
    published = [row for row in FAMILIES.values() if row.file == path.stem.removesuffix("_lora") and row.diffusers]
    if published and path.parent.name != "tiny":
        # Tables that a checkpoint holds and nobody trains: sine-cosine positions, and one that no forward pass reads.
        untrained = derived_names(model["network_config"])
        whole = network.count - sum(p.count for p in network.parameters if p.adapter or p.name in untrained)
        print(f"{path}: {whole:,} parameters")
        assert whole == published_count(**(published[0].diffusers or {}))


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
    T, H, W = 3 * FAMILIES[family].patch_frames, 8, 12
    grid = Network(node).grid(H * 8, W * 8, 4 * (T - 1) + 1, 7)
    assert grid.latent == (T, H, W)
    with torch.device("meta"):
        network, (x, timesteps, context) = build(node), inputs(node, T, H, W)
        with FlopCounterMode(display=False) as counter:
            network(x, timesteps, context)
    # Left out: the embedding of the timestep and the final modulation, once a clip.
    assert Network(node).flops(grid) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.heavy
@pytest.mark.parametrize("lora", [None, {"r": 4}])
@pytest.mark.parametrize("policy", Policy)
def test_training_flops_are_those_that_torch_counts(lora: dict[str, Any] | None, policy: Policy) -> None:
    node, frozen = network_config("5b", lora), ["all"] if lora else []
    node["params"]["transformer_args"]["checkpoint_activations"] = str(policy)
    modelled = Network(node, frozen)
    counted = Step(node, (3, 16, 16), policy, frozen).flops()
    assert modelled.training_flops(modelled.grid(128, 128, 9, 7)) == pytest.approx(counted, rel=0.04)


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

"""Folders that the foreign libraries wrote themselves, read here; and ours, which they read, in test_lora and export."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cogtune.checkpoints import fit, kinds, read_header
from cogtune.checkpoints.names import vae_from_diffusers, vae_in_diffusers
from cogtune.checkpoints.shapes import shapes_of
from cogtune.commands.weights_convert import convert
from cogtune.config.build import build
from cogtune.model.lora import merge_lora
from cogtune.model.weights import load_weights
from cogtune.work.load import load_config
from tests.families import IN_DIFFUSERS, diffusers_twin, inputs, network_config, randomised, run_diffusers
from tests.parity import limits

CONFIGS = Path(__file__).resolve().parents[2] / "config"
UNUSED = "transformer.position_embeddings.weight"


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("family", IN_DIFFUSERS)
@torch.no_grad()
def test_a_transformer_that_diffusers_saved_in_shards(family: str, ending: str, tmp_path: Path) -> None:
    node = network_config(family)
    source = randomised(node, seed=1)
    twin: Any = diffusers_twin(node, source.state_dict())
    twin.save_pretrained(tmp_path, safe_serialization=ending == "safetensors", max_shard_size="100KB")
    assert len(list(tmp_path.glob(f"*.{ending}"))) > 1
    header = read_header(tmp_path)
    assert not fit.fit(node, header)
    assert kinds.spelling(header) == "diffusers"
    target = build(node)
    load_weights(target, tmp_path)
    state = source.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in target.state_dict().items() if name != UNUSED)


def test_vae_names_go_there_and_back() -> None:
    model = load_config([CONFIGS / "cogvideox_2b.yaml"], check_files=False, partial=True).values["model"]
    ours = list(shapes_of(model["first_stage_config"]) or {})
    theirs = [vae_in_diffusers(name, levels=4) for name in ours]
    assert vae_from_diffusers(theirs) == dict(zip(theirs, ours, strict=True))
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    published: Any = AutoencoderKLCogVideoX
    with torch.device("meta"):
        twin = published(
            down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(128, 256, 256, 512), latent_channels=16, layers_per_block=3,
        )  # fmt: skip
    shapes = shapes_of(model["first_stage_config"]) or {}
    named = {vae_in_diffusers(name, levels=4): shape for name, shape in shapes.items()}
    assert named == {name: tuple(tensor.shape) for name, tensor in twin.state_dict().items()}


@torch.no_grad()
def test_a_vae_that_diffusers_saved(tmp_path: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX

    coder = {"ch": 32, "ch_mult": [1, 2, 2, 3], "num_res_blocks": 1, "z_channels": 4, "num_groups": 32}
    coders = {
        f"{part}_config": {"target": name, "params": coder}
        for part, name in (("encoder", "Encoder3D"), ("decoder", "Decoder3D"))
    }
    torch.manual_seed(3)
    published: Any = AutoencoderKLCogVideoX
    theirs = published(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(32, 64, 64, 96), latent_channels=4, layers_per_block=1, norm_num_groups=32,
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    video_BCTHW = torch.randn(1, 3, 5, 16, 24)
    expected = theirs.encode(video_BCTHW).latent_dist.parameters
    for path in (tmp_path, tmp_path / "vae"):
        ours = build({"target": "VideoAutoencoder", "params": coders | {"ckpt_path": str(path)}})
        assert (ours.encode(video_BCTHW) - expected).abs().max() <= 5e-6 * expected.abs().max()


@pytest.mark.parametrize("writer", ["peft", "pipeline", "adapter"])
@torch.no_grad()
def test_a_lora_that_the_library_saved(writer: str, tmp_path: Path) -> None:
    """Recognised with rank, alpha and strength; loaded over our base it gives their output."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    base = randomised(network_config("5b")).state_dict()
    twin: Any = diffusers_twin(network_config("5b"), base)
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    if writer == "peft":
        adapted: Any = get_peft_model(twin, config)
        adapted.save_pretrained(tmp_path)
        twin = adapted.get_base_model()
    else:
        twin.add_adapter(config)
        if writer == "adapter":
            twin.save_lora_adapter(str(tmp_path))
        else:
            from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin

            saver: Any = CogVideoXLoraLoaderMixin
            saver.save_lora_weights(
                str(tmp_path),
                transformer_lora_layers=get_peft_model_state_dict(twin),
                transformer_lora_adapter_metadata=twin.peft_config["default"].to_dict(),
            )
    header = read_header(tmp_path)
    assert kinds.roles(header) == ["lora"]
    dit: Any = build(network_config("5b", lora={"r": 4}))  # strength 1/4 here, 6/4 in the file
    wrapped = {name.replace(".original.", "."): name for name in dit.state_dict()}
    dit.load_state_dict({wrapped[name]: tensor for name, tensor in base.items()}, strict=False)
    load_weights(dit, tmp_path)
    x = inputs(network_config("5b"), 3, 8, 12)
    expected = run_diffusers(twin, *x)
    assert (dit(*x) - expected).abs().max() <= limits.NETWORK * expected.abs().max()


@torch.no_grad()
def test_a_peft_folder_of_ours_through_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    node = network_config("1.5_5b", lora={"r": 4, "lora_alpha": 6})
    dit = randomised(node)
    torch.save({"module": {n: t for n, t in dit.state_dict().items() if "matrix_" in n}}, tmp_path / "lora.pt")
    folder = convert(tmp_path / "lora.pt", "peft", tmp_path / "peft", alpha=6)
    twin: Any = diffusers_twin(network_config("1.5_5b"), merge_lora(dit.state_dict(), scale=0.0))
    adapted = PeftModel.from_pretrained(twin, str(folder)).get_base_model()
    x = inputs(node, 4, 8, 12)
    expected = run_diffusers(adapted, *x)
    assert (dit(*x) - expected).abs().max() <= limits.NETWORK * expected.abs().max()

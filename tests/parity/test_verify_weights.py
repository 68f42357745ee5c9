"""The comparison of real weights, on random ones of two layers in the published layout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.sides import diffusers_vae
from tests.families import TEXT_WIDTH, diffusers_twin, network_config, randomised
from tests.verify_weights import FILES, PSNR, compare, main, smooth_clip
from tests.workflow.weights import make_t5

CONFIG = Path(__file__).parents[2] / "config/cogvideox_5b.yaml"
NETWORK, VAE = "model.network_config.params", "model.first_stage_config.params"
CHANGES = [
    *(f"{NETWORK}.{name}={value}" for name, value in {
        "num_layers": 2, "hidden_size": 48, "num_attention_heads": 3, "time_embed_dim": 32, "latent_height": 8,
        "latent_width": 12, "num_frames": 9,
    }.items()),
    f"{NETWORK}.modules.pos_embed_config.params.hidden_size_head=16",
    f"{NETWORK}.modules.pos_embed_config.params.text_length=7",
    f"{NETWORK}.modules.patch_embed_config.params.text_hidden_size={TEXT_WIDTH}",
    *(f"{VAE}.{coder}_config.params.ch=32" for coder in ("encoder", "decoder")),
    *(f"{VAE}.{coder}_config.params.num_res_blocks=1" for coder in ("encoder", "decoder")),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformer, VAE, T5 and tokenizer, as diffusers and transformers save them."""
    root = tmp_path_factory.mktemp("model")
    node = network_config("5b", in_channels=16, out_channels=16)
    twin: Any = diffusers_twin(node, randomised(node).state_dict())
    twin.save_pretrained(root / "transformer")
    coder = {"ch": 32, "ch_mult": [1, 2, 2, 4], "num_res_blocks": 1}
    torch.manual_seed(0)
    diffusers_vae({"params": {"encoder_config": {"params": coder}}}).save_pretrained(root / "vae")
    (root / "model_index.json").write_text("{}")
    make_t5(root / "t5", seed=1)
    for part in ("text_encoder", "tokenizer"):
        (root / part).symlink_to("t5")
    return root


def verify(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, list[str]]:
    code = main([str(folder), "--device", "cpu", "--base", str(CONFIG), "--set", *CHANGES, *more])
    return code, capsys.readouterr().out.splitlines()


def test_the_same_weights_agree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = verify(folder, capsys)
    assert code == 0, "\n".join(lines)
    names = [line.removeprefix("OK").strip().partition(":")[0].partition(",")[0] for line in lines]
    assert names == ["transformer", "vae", "transformer (custom)", *["VAE"] * 3, *["T5"] * 2]
    assert all(line.startswith("OK") for line in lines)


def test_another_model_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = verify(folder, capsys, f"{NETWORK}.num_layers=3")
    assert code == 1
    assert lines[0].startswith("FAIL  transformer, names and shapes")
    assert "transformer.layers.2" in "\n".join(lines)


def test_another_computation_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same names and shapes, but another rotary base, which no header shows."""
    code, lines = verify(folder, capsys, f"{NETWORK}.modules.pos_embed_config.params.theta=2")
    assert code == 1
    (failed,) = [line for line in lines if line.startswith("FAIL")]
    assert "forward pass" in failed


def test_unpublished_weights_need_a_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--device", "cpu"]) == 1
    assert "--base" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "good"), [(0.0, True), (0.029, True), (0.031, False)])
def test_the_limit(error: float, good: bool) -> None:
    expected = torch.tensor([1.0, -2.0, 0.5])
    assert compare("x", expected + torch.tensor([0.0, 0.0, 2 * error]), expected).good is good
    assert not compare("x", expected[:2], expected).good


def test_every_family_has_a_file() -> None:
    from cogtune.checkpoints.kinds import FAMILIES

    assert FILES.keys() == FAMILIES.keys()
    assert all((CONFIG.parent / f"{file}.yaml").exists() for file in FILES.values())
    assert PSNR > 20
    assert smooth_clip(9, 96, 160).abs().max() <= 1

"""`import cogtune` in a notebook: every full-size file gives its model, its loss and its sampler."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cogtune

CONFIG = Path(__file__).parents[2] / "config"
MODELS = sorted(file for file in CONFIG.glob("cogvideox*.yaml") if file.stem != "cogvideox_common")


@pytest.mark.heavy
@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_every_full_size_file_builds(file: Path) -> None:
    config = cogtune.load_config([file, CONFIG / "sft.yaml"], check_files=False)
    with torch.device("meta"):
        dit = cogtune.build(config.model.network_config)
    params = dit.params
    assert len(dit.transformer.layers) == params.num_layers
    assert dit.checkpoint_activations == "full"
    assert any("matrix_A" in name for name in dit.state_dict()) == file.stem.endswith("_lora")
    sampler = cogtune.build(config.model.sampler_config)
    assert sampler.timesteps[0] == 999
    assert sampler.guider.scale(0, 999, sampler.steps) == pytest.approx(2.2915, abs=1e-4)
    loss, denoiser = cogtune.build(config.model.loss_fn_config), cogtune.build(config.model.denoiser_config)
    assert torch.equal(loss.sampling.alphas_N, denoiser.alphas_N)


def test_importing_it_imports_no_torch() -> None:
    code = "import cogtune, sys; cogtune.UserError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_no_node_is_refused() -> None:
    with pytest.raises(cogtune.UserError, match="expected a mapping with `target` and `params`"):
        cogtune.build("VanillaCFG")  # type: ignore[arg-type]


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = cogtune.biuld  # type: ignore[attr-defined]

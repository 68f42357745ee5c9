"""`cogtune weights inspect`, on every layout, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cogtune.__main__ import main
from cogtune.config.build import params_of
from cogtune.model.weights.diffusers import config_json, to_diffusers
from cogtune.model.weights.lora_formats import pairs_of, to_comfyui
from tests.families import network_config, randomised
from tests.layouts import PREFIX, diffusers_folder, one_safetensors, sat_folder, tensor_parallel
from tests.workflow.weights import make_vae

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)


def described(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    main(["weights", "inspect", str(path), "--json", *more])
    return json.loads(capsys.readouterr().out)


def test_a_training_checkpoint_holds_three_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sat_folder(tmp_path, randomised(network_config("5b_i2v", lora={"r": 4})).state_dict())
    found = described(tmp_path, capsys)
    assert found["layout"] == "SAT folder, iteration 1000"
    assert [part["component"] for part in found["holds"]] == ["transformer", "VAE", "T5"]
    transformer = found["holds"][0]
    assert (transformer["names"], transformer["family"], transformer["dtypes"]) == ("SAT", "custom", ["F32"])
    assert transformer["adapters"] == {"rank": [4], "alpha": "not in the file"}
    assert transformer["sizes"]["num_layers"] == 2


def test_ranks_are_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = randomised(network_config("5b")).state_dict()
    found = described(tensor_parallel(tmp_path, state, 2), capsys)
    assert found["layout"] == "SAT iteration folder, 2 tensor-parallel ranks merged"
    assert found["holds"][0]["parameters"] == sum(tensor.numel() for tensor in state.values())


def test_a_pipeline_is_looked_at_part_by_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = params_of(network_config("2b"))
    tensors = to_diffusers(randomised(network_config("2b")).state_dict(), params)
    diffusers_folder(tmp_path / "transformer", tensors, shards=2, **config_json(params))
    (tmp_path / "vae").mkdir()
    make_vae(tmp_path / "vae" / "a.pt", seed=1)
    (tmp_path / "text_encoder").mkdir()
    save_file({"shared.weight": torch.zeros(3, 2).half()}, tmp_path / "text_encoder" / "model.safetensors")
    (tmp_path / "model_index.json").write_text("{}")
    found = described(tmp_path, capsys)
    assert found["layout"] == "diffusers pipeline"
    assert [(part["component"], part["names"]) for part in found["holds"]] == [
        ("transformer", "diffusers"), ("VAE", "SAT"), ("T5", "transformers"),
    ]  # fmt: skip
    assert found["holds"][2]["dtypes"] == ["F16"]


def test_a_lora_tells_rank_alpha_and_strength(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = pairs_of(randomised(network_config("5b", lora={"r": 4, "layer_range": [1]})).state_dict(), alpha=3)
    save_file(to_comfyui(pairs), tmp_path / "x.safetensors")
    (part,) = described(tmp_path / "x.safetensors", capsys)["holds"]
    assert (part["names"], part["rank"], part["alpha"], part["strength"]) == ("ComfyUI", 4, 3.0, 0.75)
    assert part["layers"] == [1]
    assert main(["weights", "inspect", str(tmp_path / "x.safetensors")]) == 0
    assert "rank 4, alpha 3.0, strength 0.75" in capsys.readouterr().out


def test_which_yaml_it_fits_and_why_another_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vae = "demo/assets/vae.pt"
    found = described(Path(vae), capsys)
    assert found["configs"]["config/tiny/model.yaml"] == {"VAE": "fits"}
    assert len(found["configs"]["config/cogvideox_2b.yaml"]["VAE"]["missing"]) > 100
    assert main(["weights", "inspect", vae, "--base", "config/tiny/model.yaml"]) == 0
    assert "VAE fits config/tiny/model.yaml" in capsys.readouterr().out
    assert main(["weights", "inspect", vae, "--base", "config/cogvideox_2b.yaml", "--full"]) == 1
    full = capsys.readouterr().out
    assert all(name in full for name in found["configs"]["config/cogvideox_2b.yaml"]["VAE"]["missing"])


def test_the_configs_name_of_a_published_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {PREFIX + name: tensor for name, tensor in randomised(network_config("2b")).state_dict().items()}
    found = described(one_safetensors(tmp_path, state), capsys)
    assert all("fits" not in parts.values() for parts in found["configs"].values())
    assert {"config/cogvideox_2b.yaml", "config/cogvideox1.5_5b_i2v_lora.yaml"} <= found["configs"].keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"hello", "is not a torch file"), (b"", "a.pt"), (None, "no such file or folder")],
)
def test_what_is_no_weights_is_one_line(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "a.pt").write_bytes(content)
    assert main(["weights", "inspect", str(tmp_path / "a.pt")]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_tensors_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"lm_head.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert main(["weights", "inspect", str(tmp_path / "a.safetensors")]) == 1
    assert "contains 1 tensors, but no known component" in capsys.readouterr().err

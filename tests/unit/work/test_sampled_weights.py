"""A path to weights: the weights themselves, or a folder with one set of weights that can be sampled."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogtune.errors import UserError
from cogtune.work.sampled_weights import weights_at

LORA = {
    f"transformer.transformer_blocks.0.attn1.to_q.lora_{half}.weight": torch.zeros(shape)
    for half, shape in (("A", (4, 8)), ("B", (8, 4)))
}


def write(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        save_file(LORA, folder / name)
    (folder / "index.json").write_text("{}")
    return folder


def test_the_only_weights_of_a_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "export", "lora.safetensors")
    vae = {"encoder.conv_in.weight": torch.zeros(1), "decoder.conv_in.weight": torch.zeros(1)}
    save_file(vae, folder / "vae.safetensors")
    path, header = weights_at(folder)
    assert path == folder / "lora.safetensors"
    assert header.tensors
    assert weights_at(path)[0] == path


def test_several_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "export", "a.safetensors", "b.safetensors")
    with pytest.raises(UserError) as refusal:
        weights_at(folder)
    assert str(refusal.value).splitlines() == [
        f"{folder}: contains several weights; give the path of one:",
        f"  {folder}/a.safetensors",
        f"  {folder}/b.safetensors",
    ]


def test_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights found"):
        weights_at(write(tmp_path / "export"))

"""Formats x ways to name them: folder, file, index, shard, rank, link, cache of Hugging Face, relative path. One result."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogtune.checkpoints import kinds, read_header
from cogtune.checkpoints.locations import place_of
from cogtune.commands import weights_inspect
from cogtune.commands.weights_convert import convert
from cogtune.config.errors import ConfigError
from cogtune.errors import UserError
from cogtune.model.weights.formats import FORMATS, NetworkWeights, Settings, write
from cogtune.model.weights.lora_formats import pairs_of, read_pairs
from cogtune.model.weights.read import read
from cogtune.work.load import load_config
from tests.families import network_config, randomised
from tests.layouts import diffusers_folder, one_safetensors, sat_folder, tensor_parallel
from tests.unit.commands.test_weights_convert import TINY, tiny

pytestmark = pytest.mark.heavy

ALPHA, RANK = 1.0, 4


def lora_of(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        node = network_config("5b", lora={"r": RANK, "lora_alpha": ALPHA})
        pairs = pairs_of(randomised(node).state_dict(), ALPHA)
        target = folder / FORMATS[name].path
        target.parent.mkdir(parents=True, exist_ok=True)
        write(name, target, pairs, Settings(None, sat_alpha=ALPHA))
        return target

    return make


def whole(folder: Path) -> NetworkWeights:
    return NetworkWeights(randomised(tiny()).state_dict(), tiny(), 1.0)


def diffusers(shards: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write("diffusers", folder / "one", whole(folder), Settings(None))
        (file,) = (folder / "one").glob("*.safetensors")
        config = json.loads((folder / "one/config.json").read_text())
        target = folder / "pipeline/transformer"
        diffusers_folder(target, load_file(file), shards=shards)
        (target / "config.json").write_text(json.dumps(config))
        (folder / "pipeline/model_index.json").write_text("{}")
        shutil.rmtree(folder / "one")
        return target

    return make


def sat(folder: Path) -> Path:
    (folder / "sat").mkdir()
    return sat_folder(folder / "sat", randomised(tiny()).state_dict())


def ranks(folder: Path) -> Path:
    (folder / "sat/1000").mkdir(parents=True)
    tensor_parallel(folder / "sat/1000", randomised(tiny()).state_dict(), 2)
    (folder / "sat/latest").write_text("1000")
    return folder / "sat"


MAKERS: dict[str, Callable[[Path], Path]] = {
    **{name: lora_of(name) for name, form in FORMATS.items() if form.adapters is not None},
    "diffusers": diffusers(1),
    "diffusers, 2 shards": diffusers(2),
    "sat": sat,
    "sat, 2 ranks": ranks,
    "safetensors": lambda folder: one_safetensors(folder, randomised(tiny()).state_dict()),
}


def ways(made: Path, elsewhere: Path) -> dict[str, Path]:
    """Every path that stands for what ``made`` is."""
    found = {"as made": made, "relative": Path(os.path.relpath(made))}
    inside = [path for path in made.rglob("*") if path.is_file()] if made.is_dir() else [made]
    for file in inside:
        if file.name not in ("config.json", "adapter_config.json") or file.parent == made:
            found[f"{file.name} in it"] = file
    if made.parent.joinpath("model_index.json").is_file():
        found |= {"the pipeline": made.parent, "its model_index.json": made.parent / "model_index.json"}
    for name, path in list(found.items()):
        link = elsewhere / f"link {len(found)}"
        link.symlink_to(path.resolve() if name == "relative" else path.absolute())
        found[f"link to {name}"] = link
    cache = as_hugging_face_has_it(made, elsewhere / "hub")
    found["hub"] = cache
    if cache.is_dir():
        found |= {f"hub, {file.name}": file for file in cache.rglob("*") if file.is_symlink()}
    return found


def as_hugging_face_has_it(made: Path, hub: Path) -> Path:
    """snapshots/<revision>/… are links to blobs/<digest>."""
    blobs, snapshot = hub / "blobs", hub / "snapshots/0123"
    blobs.mkdir(parents=True)
    files = [made] if made.is_file() else [path for path in made.rglob("*") if path.is_file()]
    for i, file in enumerate(files):
        shutil.copy(file, blobs / f"{i:040x}")
        link = snapshot / (file.name if made.is_file() else file.relative_to(made))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / f"{i:040x}", link.parent))
    return snapshot / made.name if made.is_file() else snapshot


def content(path: Path) -> dict[str, Any]:
    """All that decides what is loaded: tensors in our names, strength, and what config.json contradicts."""
    header = read_header(path)
    if kinds.roles(header) == ["lora"]:
        pairs = read_pairs(header, ALPHA)
        return {
            f"{place} {side}": t
            for place, pair in pairs.items()
            for side, t in (("A", pair.A), ("B", pair.B * pair.alpha))
        }
    tensors: dict[str, Any] = {
        name: read(one) for name, one in kinds.component(header, "model.diffusion_model.").items()
    }
    return tensors | {"config": header.config}


@pytest.mark.parametrize("form", MAKERS)
def test_every_way_to_name_weights_gives_the_same(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    made = MAKERS[form](tmp_path / "here")
    named = ways(made, tmp_path / "there")
    expected = content(made)
    assert len(named) >= 5
    for way, path in named.items():
        found = content(path)
        assert found.keys() == expected.keys(), way
        for name, value in expected.items():
            assert torch.equal(found[name], value) if torch.is_tensor(value) else found[name] == value, (way, name)


def test_a_peft_file_without_its_config_has_no_strength(tmp_path: Path) -> None:
    made = MAKERS["peft"](tmp_path)
    alone = tmp_path / "alone.safetensors"
    shutil.copy(made / "adapter_model.safetensors", alone)
    with pytest.raises(UserError, match=r"a PEFT file without adapter_config\.json"):
        read_pairs(read_header(alone))
    assert "a PEFT file without adapter_config.json" in told(alone)
    (made / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 1}')
    with pytest.raises(UserError, match="has rank 4, but the metadata says r 8"):
        read_pairs(read_header(made))
    (made / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match="has no r or lora_alpha"):
        read_pairs(read_header(made / "adapter_model.safetensors"))


def test_a_shard_alone_names_the_others(tmp_path: Path) -> None:
    made = MAKERS["diffusers, 2 shards"](tmp_path)
    (made / "diffusion_pytorch_model.safetensors.index.json").unlink()
    assert content(made).keys() == content(next(made.glob("*-00001-*"))).keys()
    next(made.glob("*-00002-*")).unlink()
    for path in (made, next(made.glob("*-00001-*"))):
        with pytest.raises(UserError, match=r"one of 2 shards; missing: .*-00002-of-00002\.safetensors"):
            read_header(path)


def test_a_part_of_one_of_several_sets_is_refused(tmp_path: Path) -> None:
    made = MAKERS["diffusers, 2 shards"](tmp_path)
    shutil.copy(made / "diffusion_pytorch_model.safetensors.index.json", made / "other.safetensors.index.json")
    with pytest.raises(UserError, match="contains several sets of weights"):
        place_of(made / "other.safetensors.index.json")


def test_a_config_hashes_all_of_the_weights_however_they_are_named(tmp_path: Path) -> None:
    made = MAKERS["diffusers, 2 shards"](tmp_path)
    files = [load_config(TINY, [f"args.load={path}", "args.train_data=[/]"], partial=True, check_files=False).files["args.load"]
             for path in (made, *made.glob("*00001*"), *made.glob("*.index.json"))]  # fmt: skip
    assert set(files) == {str(made)}
    shutil.copytree(made, tmp_path / "two")
    for file in (tmp_path / "two").glob("*.index.json"):
        shutil.copy(file, tmp_path / "two/other.safetensors.index.json")
        with pytest.raises(ConfigError, match="contains several sets"):
            load_config(TINY, [f"args.load={file}"], partial=True, check_files=False)


def told(path: Path) -> str:
    return "\n".join(
        weights_inspect._lines(weights_inspect.describe(path, {"tiny": {"network_config": tiny()}}), False)
    )


def test_whole_weights_are_no_lora(tmp_path: Path) -> None:
    base = MAKERS["safetensors"](tmp_path)
    with pytest.raises(UserError, match="contains a full transformer, not a LoRA; --lora takes adapters"):
        convert(base, "sat", tmp_path / "out", lora=base, base=TINY)


def test_a_lora_beyond_the_attention_is_described(tmp_path: Path) -> None:
    names = (
        "transformer_blocks.0.attn1.to_q",
        "transformer_blocks.0.ff.net.0.proj",
        "transformer_blocks.0.norm1.linear",
    )
    tensors = {f"{name}.lora_{side}.weight": torch.zeros(4, 4) for name in names for side in "AB"}
    save_file(tensors, tmp_path / "lora.safetensors")
    said = told(tmp_path / "lora.safetensors")
    assert "adapts attn1.to_q, ff.net.0.proj, norm1.linear" in said
    assert "not supported: " in said


def test_another_rank_says_what_to_set(tmp_path: Path) -> None:
    pairs = pairs_of(randomised(tiny({"r": 8})).state_dict(), 1.0)
    write("diffusers_lora", tmp_path / "lora.safetensors", pairs, Settings(None))
    found = weights_inspect.describe(tmp_path / "lora.safetensors", {"tiny": {"network_config": tiny({"r": 2})}})
    assert found["advice"] == "The LoRA has rank 8, the YAML r: 2. Set modules.lora_config.params.r: 8"


def test_inspect_says_of_a_checkpoint_with_adapters_what_the_check_says(tmp_path: Path) -> None:
    path = one_safetensors(tmp_path, randomised(tiny({"r": 2})).state_dict())
    assert "They contain LoRA adapters: add modules.lora_config with their rank to the YAML" in told(path)

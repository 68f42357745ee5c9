"""From every format to every other and back; strength and numbers stay what they were."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cogtune.__main__ import main
from cogtune.checkpoints import read_header
from cogtune.commands.weights_convert import convert
from cogtune.config.build import build
from cogtune.config.schema.args import EXPORT_FORMATS, WHOLE_FORMATS
from cogtune.errors import UserError
from cogtune.model.lora import merge_lora
from cogtune.model.weights import load_weights
from cogtune.model.weights.formats import FORMATS
from cogtune.model.weights.lora_formats import Adapters, pairs_of, read_pairs, to_diffusers_lora
from cogtune.work.load import load_config
from tests.families import inputs, network_config, randomised
from tests.layouts import one_safetensors, sat_folder, tensor_parallel

CONFIGS = Path(__file__).resolve().parents[3] / "config"
TINY = [str(CONFIGS / "tiny" / "model.yaml")]
LORA = [name for name, form in FORMATS.items() if form.adapters is not None]


def tiny(lora: dict[str, Any] | None = None) -> dict[str, Any]:
    node = load_config(TINY, check_files=False, partial=True).values["model"]["network_config"]
    if lora is None:
        return node
    modules = node["params"]["modules"] | {"lora_config": {"target": "Lora", "params": lora}}
    return {**node, "params": {**node["params"], "modules": modules}}


def lora_file(folder: Path, alpha: float, **more: Any) -> tuple[Path, Adapters]:
    pairs = pairs_of(randomised(network_config("5b", lora={"r": 4, "lora_alpha": alpha, **more})).state_dict(), alpha)
    tensors, metadata = to_diffusers_lora(pairs)
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata)
    return folder / "pytorch_lora_weights.safetensors", pairs


def same(given: Adapters, expected: Adapters) -> None:
    assert given.keys() == expected.keys()
    for place, pair in expected.items():
        assert torch.equal(given[place].A, pair.A)
        assert torch.equal(given[place].B * (given[place].alpha / 4), pair.B * (pair.alpha / 4))


def test_every_format_is_listed_with_what_it_is_for() -> None:
    assert EXPORT_FORMATS.keys() == FORMATS.keys()
    assert set(WHOLE_FORMATS) == FORMATS.keys() - set(LORA)


@pytest.mark.heavy
@pytest.mark.parametrize("alpha", [1, 8])
@pytest.mark.parametrize("first", LORA)
def test_lora_there_and_back_is_the_identity(first: str, alpha: float, tmp_path: Path) -> None:
    """Bit for bit: with alpha / r a power of two, multiplying it in rounds nothing."""
    source, pairs = lora_file(tmp_path, alpha)
    there = convert(source, first, tmp_path / "a", alpha=alpha if first == "sat_lora" else None)
    same(read_pairs(read_header(there), alpha), pairs)
    for second in LORA:
        between = alpha if "sat_lora" in (first, second) else None
        other = convert(there, second, tmp_path / second, alpha=between)
        back = convert(other, first, tmp_path / f"{second}-back", alpha=between)
        same(read_pairs(read_header(back), alpha), pairs)


@pytest.mark.heavy
def test_another_strength_survives_within_rounding(tmp_path: Path) -> None:
    source, pairs = lora_file(tmp_path, 3, layer_range=[1])
    for name in LORA:
        back = read_pairs(read_header(convert(source, name, tmp_path / name)))  # SAT's YAML: alpha 1
        for place, pair in pairs.items():
            torch.testing.assert_close(back[place].B * (back[place].alpha / 4), pair.B * (pair.alpha / 4))


def test_names_and_strength_are_those_that_each_reader_looks_for(tmp_path: Path) -> None:
    source, pairs = lora_file(tmp_path, 3)
    kohya = load_file(convert(source, "kohya", tmp_path / "k.safetensors"))
    comfy = load_file(convert(source, "comfyui_lora", tmp_path / "c.safetensors"))
    for (layer, projection), pair in pairs.items():
        update = pair.B @ pair.A * (3 / 4)
        theirs = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "attn_out"}[projection]
        for tensors, name in (
            (kohya, f"lora_unet_transformer_blocks_{layer}_attn1_{projection.replace('.', '_')}"),
            (comfy, f"diffusion_model.blocks.{layer}.{theirs}"),
        ):
            down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
            torch.testing.assert_close(up @ down * (tensors[f"{name}.alpha"].item() / down.shape[0]), update)
    folded = convert(source, "folded_lora", tmp_path / "f")
    with safe_open(folded, framework="pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
        assert said["transformer.r"] == said["transformer.lora_alpha"] == 4
        A, B = (file.get_tensor(f"transformer.transformer_blocks.0.attn1.to_q.lora_{side}.weight") for side in "AB")
    torch.testing.assert_close(B @ A, pairs[0, "to_q"].B @ pairs[0, "to_q"].A * (3 / 4))


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("lora_unet_", "lora_unet__"),  # VideoX-Fun's own trainer
        lambda name: (
            name.replace("lora_unet_transformer_blocks_", "diffusion_model.transformer_blocks.")
            .replace("_attn1_", ".attn1.")
            .replace("to_out_0", "to_out.0")
        ),
    ],
)
def test_other_spellings_of_the_same(rename: Any, tmp_path: Path) -> None:
    source, pairs = lora_file(tmp_path, 3)
    kohya = load_file(convert(source, "kohya", tmp_path / "k.safetensors"))
    save_file({rename(name): tensor for name, tensor in kohya.items()}, tmp_path / "other.safetensors")
    same(read_pairs(read_header(tmp_path / "other.safetensors")), pairs)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["sat", "diffusers", "tensor_parallel"])
def test_whole_networks_there_and_back(kind: str, tmp_path: Path) -> None:
    node = tiny()
    state = randomised(node, seed=1).state_dict()
    (tmp_path / "in").mkdir()
    source = (
        tensor_parallel(tmp_path / "in", state, 2) if kind == "tensor_parallel" else sat_folder(tmp_path / "in", state)
    )
    theirs = convert(source, "diffusers", tmp_path / "theirs", base=TINY)
    if kind == "diffusers":
        source = theirs
        theirs = convert(source, "diffusers", tmp_path / "again", base=TINY)
    ours = convert(theirs, "sat", tmp_path / "ours", base=TINY)
    target = build(node)
    load_weights(target, ours)
    unused = "transformer.position_embeddings.weight"
    assert all(torch.equal(t, state[name]) for name, t in target.state_dict().items() if name != unused)


@pytest.mark.heavy
def test_merged_is_base_and_lora(tmp_path: Path) -> None:
    base = randomised(tiny(), seed=1)
    adapted = randomised(tiny({"r": 2, "lora_alpha": 3}), seed=2)
    wrapped = {name.replace(".original.", "."): name for name in adapted.state_dict() if ".original." in name}
    adapted.load_state_dict({wrapped.get(n, n): t for n, t in base.state_dict().items()}, strict=False)
    tensors, metadata = to_diffusers_lora(pairs_of(adapted.state_dict(), 3))
    save_file(tensors, tmp_path / "lora.safetensors", metadata)
    source = one_safetensors(tmp_path, base.state_dict())
    expected = merge_lora(adapted.state_dict(), 3 / 2)
    for form in ("merged", "diffusers"):
        result = convert(source, form, tmp_path / form, lora=tmp_path / "lora.safetensors", base=TINY)
        merged = build(tiny())
        load_weights(merged, result)
        assert all(torch.allclose(t, expected[name], atol=1e-6) for name, t in merged.state_dict().items())
    together = convert(source, "sat", tmp_path / "sat", lora=tmp_path / "lora.safetensors")
    both = build(tiny({"r": 2, "lora_alpha": 1}))  # upstream's alpha: B was scaled to it
    load_weights(both, together)
    x = inputs_of(tiny())
    torch.testing.assert_close(both(*x), adapted(*x), rtol=1e-5, atol=1e-5)
    taken_out = read_pairs(read_header(convert(together, "diffusers_lora", tmp_path / "out")))
    for place, pair in pairs_of(adapted.state_dict(), 3).items():
        torch.testing.assert_close(taken_out[place].B * taken_out[place].alpha, pair.B * 3)


def inputs_of(node: dict[str, Any]) -> tuple[Any, ...]:
    x, timesteps, _ = inputs(node, 1, node["params"]["latent_height"], node["params"]["latent_width"])
    modules = node["params"]["modules"]
    width, length = modules["patch_embed_config"]["params"]["text_hidden_size"], modules["pos_embed_config"]["params"]
    return x, timesteps, torch.randn(1, length["text_length"], width)


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, _ = lora_file(tmp_path, 1)
    (tmp_path / "k.safetensors").write_text("mine")
    with pytest.raises(UserError, match="already exists; will not overwrite"):
        convert(source, "kohya", tmp_path / "k.safetensors")
    assert (tmp_path / "k.safetensors").read_text() == "mine"
    with pytest.raises(UserError, match="the weights are a LoRA"):
        convert(source, "merged", tmp_path / "m")
    with pytest.raises(UserError, match="fits no file"):
        convert(one_safetensors(tmp_path, randomised(tiny()).state_dict()), "diffusers", tmp_path / "m")
    (tmp_path / "model.safetensors").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.safetensors", "pytorch_lora_weights.safetensors"]


def test_the_network_is_found_among_the_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = one_safetensors(tmp_path, randomised(network_config("2b")).state_dict())
    monkeypatch.chdir(CONFIGS.parent)
    with pytest.raises(UserError, match=r"fits no file in \./config; give the YAML"):
        convert(source, "diffusers", tmp_path / "d")
    (tmp_path / "t").mkdir()
    source = one_safetensors(tmp_path / "t", randomised(tiny()).state_dict())
    assert (convert(source, "diffusers", tmp_path / "d") / "config.json").is_file()
    with pytest.raises(UserError, match="do not fit the configured model"):
        convert(source, "diffusers", tmp_path / "e", base=[str(CONFIGS / "cogvideox_2b.yaml")])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = lora_file(tmp_path, 3)
    monkeypatch.chdir(tmp_path)
    assert main(["weights", "convert", str(source), "--to", "peft", "--precision", "bf16", "--license", "mit"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == Path("pytorch_lora_weights-peft")
    assert main(["weights", "inspect", str(folder), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["holds"]
    assert (found["names"], found["rank"], found["alpha"], found["dtypes"]) == ("PEFT", 4, 3.0, ["BF16"])
    assert found["cogtune"] == {"converted_from": "pytorch_lora_weights.safetensors", "license": "mit"}
    assert main(["weights", "convert", str(source), "--to", "peft"]) == 1
    assert "already exists; will not overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("to", LORA)
@pytest.mark.parametrize("strength", [0.5, -1.5])
def test_strength_multiplies_the_update(to: str, strength: float, tmp_path: Path) -> None:
    """Bit for bit: alpha / r x strength is exact in fp32 for these numbers."""
    source, pairs = lora_file(tmp_path, 8)
    back = read_pairs(read_header(convert(source, to, tmp_path / "a", strength=strength)))
    for place, pair in pairs.items():
        assert torch.equal(back[place].A, pair.A)
        torch.testing.assert_close(
            back[place].B * (back[place].alpha / 4), pair.B * (8 / 4) * strength, rtol=1e-6, atol=0
        )
    metadata = read_header(next((tmp_path / "a").rglob("*.safetensors"))).metadata if to != "sat_lora" else None
    assert metadata is None or json.loads(metadata["cogtune"])["strength"] == strength


@pytest.mark.parametrize("to", ["merged", "sat"])
def test_strength_of_a_lora_that_is_added(to: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half of the difference between base and tuned network; a factor of 2 rounds nothing."""
    node = network_config("5b", lora={"r": 4, "lora_alpha": 4})
    tuned = randomised(node).state_dict()
    base = {name.replace(".original.", "."): t for name, t in tuned.items() if "matrix_" not in name}
    save_file(base, tmp_path / "base.safetensors")
    tensors, metadata = to_diffusers_lora(pairs_of(tuned, 4))
    save_file(tensors, tmp_path / "lora.safetensors", metadata)
    with caplog.at_level("INFO"):
        path = convert(
            tmp_path / "base.safetensors", to, tmp_path / "out", lora=tmp_path / "lora.safetensors", strength=0.5
        )
    assert "strength 0.5" in caplog.text
    written = torch.load(next(path.rglob("*.pt")), weights_only=True)["module"]
    state = {name.removeprefix("model.diffusion_model."): t for name, t in written.items()}
    half = merge_lora(tuned, 0.5)
    given = merge_lora(state, 0.25) if to == "sat" else state  # alpha 1 of a YAML that sets none
    assert all(torch.equal(given[name], half[name]) for name in half)


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("comfyui_lora", {"alpha": 16}, r"--alpha 16 would have no effect: .*contains its own alpha.*use --strength"),
        ("merged", {"alpha": 16}, "no effect"),
        ("sat_lora", {"alpha": 0}, "--alpha 0: expected a number above 0"),
        ("sat_lora", {"alpha": float("nan")}, "--alpha nan: expected a number above 0"),
        ("peft", {"strength": 0}, "not 0, which leaves the LoRA out"),
        ("peft", {"strength": float("inf")}, "--strength inf: expected a number from -10 to 10"),
    ],
)
def test_numbers_without_effect_are_refused(to: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    source, _ = lora_file(tmp_path, 8)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        convert(source, to, tmp_path / "a", **options)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("option", ["alpha", "strength"])
def test_numbers_of_a_lora_need_a_lora(option: str, tmp_path: Path) -> None:
    save_file(build(network_config("5b")).state_dict(), tmp_path / "full.safetensors")
    options: dict[str, Any] = {option: 2.0}
    with pytest.raises(UserError, match=rf"--{option}: there is no LoRA in .*full\.safetensors"):
        convert(tmp_path / "full.safetensors", "merged", tmp_path / "a", **options)

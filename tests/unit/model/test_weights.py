import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cogtune.config.build import build, params_of
from cogtune.errors import UserError
from cogtune.model.weights import load_weights
from cogtune.model.weights.diffusers import config_json, from_diffusers, to_diffusers
from cogtune.model.weights.lora_formats import LORA_FILE, pairs_of, to_diffusers_lora
from tests.families import IN_DIFFUSERS, network_config, randomised
from tests.layouts import (
    WRAPPINGS,
    diffusers_folder,
    legacy_pickle,
    one_safetensors,
    sat_folder,
    state_dict_file,
    tensor_parallel,
)

State = dict[str, Tensor]
TABLES = ("mixins.pos_embed.pos_embedding", "transformer.position_embeddings.weight")


def equal(given: nn.Module, state: State, ignoring: tuple[str, ...] = ()) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in given.state_dict().items() if name not in ignoring)


@pytest.mark.parametrize("write", WRAPPINGS)
@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_our_names_in_every_wrapping(write: Callable[..., Any], lora: dict[str, Any] | None, tmp_path: Path) -> None:
    node = network_config("5b_i2v", lora=lora)
    source, target = randomised(node, seed=1), build(node)
    load_weights(target, write(tmp_path, source.state_dict()))
    assert equal(target, source.state_dict())


@pytest.mark.heavy
@pytest.mark.parametrize("family", IN_DIFFUSERS)
@pytest.mark.parametrize(("shards", "ending"), [(1, "safetensors"), (3, "safetensors"), (1, "bin"), (3, "bin")])
def test_diffusers_folder_and_pipeline(family: str, shards: int, ending: str, tmp_path: Path) -> None:
    node = network_config(family)
    source = randomised(node, seed=1)
    (tmp_path / "model_index.json").write_text("{}")
    tensors = to_diffusers(source.state_dict(), params_of(node))
    folder = diffusers_folder(tmp_path / "transformer", tensors, shards, ending)
    for path in (tmp_path, folder):
        target = build(node)
        load_weights(target, path)
        assert equal(target, source.state_dict(), ignoring=("transformer.position_embeddings.weight",))


@pytest.mark.parametrize("family", IN_DIFFUSERS)
def test_there_and_back(family: str) -> None:
    node = network_config(family)
    state = randomised(node).state_dict()
    there = to_diffusers(state, params_of(node))
    back = from_diffusers(there)
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.items())
    assert set(state) - set(back) <= set(TABLES)
    again = to_diffusers(back, params_of(node))
    assert set(again) == set(there)
    assert all(torch.equal(again[name], tensor) for name, tensor in there.items())


def test_a_base_checkpoint_goes_under_adapters_and_leaves_them_fresh(tmp_path: Path) -> None:
    base, target = randomised(network_config("5b"), seed=1), build(network_config("5b", lora={"r": 4}))
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items() if "matrix_" in name}
    load_weights(target, sat_folder(tmp_path, base.state_dict()))
    state = target.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in fresh.items())
    under = {name.replace(".original.", "."): tensor for name, tensor in state.items() if "matrix_" not in name}
    assert all(torch.equal(under[name], tensor) for name, tensor in base.state_dict().items())


def test_the_convolution_of_published_checkpoints(tmp_path: Path) -> None:
    source, target = randomised(network_config("2b"), seed=1), build(network_config("2b"))
    state = source.state_dict()
    key = "mixins.patch_embed.proj.weight"
    load_weights(target, one_safetensors(tmp_path, state | {key: state[key].view(48, 4, 2, 2)}))
    assert equal(target, state)


def test_each_takes_its_own_part_of_a_training_checkpoint(tmp_path: Path) -> None:
    coder = {"ch": 8, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_channels": 4, "num_groups": 4}
    coders = {f"{part.lower()}_config": {"target": f"{part}3D", "params": coder} for part in ("Encoder", "Decoder")}
    torch.manual_seed(1)
    vae, dit = build({"target": "VideoAutoencoder", "params": coders}), randomised(network_config("5b"), seed=1)
    engine = {f"first_stage_model.{name}": tensor for name, tensor in vae.state_dict().items()}
    engine |= {f"model.diffusion_model.{name}": tensor for name, tensor in dit.state_dict().items()}
    engine |= {"conditioner.embedders.0.transformer.shared.weight": torch.zeros(3, 2)}
    torch.save({"module": engine}, tmp_path / "all.pt")
    network = build(network_config("5b"))
    load_weights(network, tmp_path / "all.pt")
    assert equal(network, dit.state_dict())
    loaded = build({"target": "VideoAutoencoder", "params": coders | {"ckpt_path": str(tmp_path / "all.pt")}})
    assert equal(loaded, vae.state_dict())


def test_half_precision_checkpoints_are_cast(tmp_path: Path) -> None:
    source, target = randomised(network_config("2b"), seed=1).half(), build(network_config("2b"))
    load_weights(target, one_safetensors(tmp_path, source.state_dict()))
    assert equal(target, {name: tensor.float() for name, tensor in source.state_dict().items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_on_meta_gets_memory_in_its_own_type(dtype: torch.dtype, tmp_path: Path) -> None:
    node = network_config("5b")
    source = randomised(node, seed=1)
    folder = one_safetensors(tmp_path, to_diffusers(source.state_dict(), params_of(node)))
    with torch.device("meta"):
        target = build(node).to(dtype)
    load_weights(target, folder)
    assert equal(target, source.to(dtype).state_dict(), ignoring=TABLES)
    assert not any(parameter.is_meta for parameter in target.parameters())
    assert not target.transformer.position_embeddings.weight.requires_grad


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_tensor_parallel_ranks_are_merged(lora: dict[str, Any] | None, tmp_path: Path) -> None:
    node = network_config("5b", lora=lora)
    state = randomised(node, seed=1).state_dict()
    target = build(node)
    load_weights(target, tensor_parallel(tmp_path, state, 3))
    assert equal(target, state)


def test_a_lost_rank_is_named(tmp_path: Path) -> None:
    tensor_parallel(tmp_path, randomised(network_config("5b")).state_dict(), 3)
    (tmp_path / "mp_rank_01_model_states.pt").unlink()
    with pytest.raises(UserError, match=r"mp_rank_01_model_states\.pt is missing"):
        load_weights(build(network_config("5b")), tmp_path)


def test_a_lora_file_keeps_its_strength(tmp_path: Path) -> None:
    node = network_config("5b", lora={"r": 4, "lora_alpha": 8, "layer_range": [1]})
    source = randomised(node, seed=1)
    tensors, metadata = to_diffusers_lora(pairs_of(source.state_dict(), alpha=8))
    save_file(tensors, tmp_path / LORA_FILE, metadata)
    target = build(network_config("5b", lora={"r": 4, "lora_alpha": 1, "layer_range": [1]}))  # a quarter, not 2
    load_weights(target, tmp_path)
    name = "transformer.layers.1.attention.dense.matrix_B.0"
    torch.testing.assert_close(target.state_dict()[name] * 0.25, source.state_dict()[name] * 2)


def test_a_lora_of_strength_zero_changes_nothing(tmp_path: Path) -> None:
    source = randomised(network_config("5b", lora={"r": 4}), seed=1)
    tensors, metadata = to_diffusers_lora(pairs_of(source.state_dict(), alpha=0))
    save_file(tensors, tmp_path / LORA_FILE, metadata)
    target = build(network_config("5b", lora={"r": 4}))
    load_weights(target, tmp_path)
    assert not any(tensor.any() for name, tensor in target.state_dict().items() if "matrix_B" in name)


@pytest.mark.parametrize("kind", ["alpha_pattern", "use_rslora", "use_dora"])
def test_other_kinds_of_lora_are_refused(kind: str, tmp_path: Path) -> None:
    adapted = randomised(network_config("5b", lora={"r": 4}))
    tensors, _ = to_diffusers_lora(pairs_of(adapted.state_dict(), 1))
    said = json.dumps({f"transformer.{kind}": {"to_q": 1}})
    save_file(tensors, tmp_path / LORA_FILE, {"lora_adapter_metadata": said})
    with pytest.raises(UserError, match=kind):
        load_weights(adapted, tmp_path)


def malicious(root: Path) -> Path:
    class Shell:
        def __reduce__(self):
            return os.system, ("true",)

    torch.save({"module": {"w": torch.zeros(1)}, "x": Shell()}, root / "evil.pt")
    return root / "evil.pt"


def truncated(write: Callable[..., Any]) -> Callable[[Path], Path]:
    def cut(root: Path) -> Path:
        file = write(root, {"w": torch.zeros(1000)})
        file.write_bytes(file.read_bytes()[:2000])
        return file

    return cut


def text(root: Path) -> Path:
    (root / "a.safetensors").write_text("not weights at all")
    return root / "a.safetensors"


def empty(root: Path) -> Path:
    torch.save({"epoch": 3}, root / "a.pt")
    return root / "a.pt"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (malicious, "uses posix.system, which can run code"),
        (truncated(one_safetensors), "incomplete or damaged"),
        (truncated(state_dict_file), "incomplete or damaged"),
        (truncated(legacy_pickle), "incomplete or damaged|is not a torch file"),
        (text, "incomplete or damaged|is not a torch file"),
        (empty, "contains no tensors"),
        (lambda root: root, "no weights found"),
        (lambda root: root / "absent", "no such file"),
    ],
)
def test_files_that_are_not_weights(write: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_weights(build(network_config("2b")), write(tmp_path))


@pytest.mark.parametrize(
    ("given", "model", "message"),
    [
        ("5b", "2b", r"unexpected \(1\): transformer.position_emb"),
        (
            "5b_i2v",
            "5b",
            r"shape mismatch \(1\): mixins.patch_embed.proj.weight: \(48, 32\) in the file, expected \(48, 16\)",
        ),
        ("1.5_5b_i2v", "1.5_5b", r"unexpected \(4\): ofs_embed.0.bias, "),
    ],
)
def test_the_wrong_family_is_refused_with_the_list(given: str, model: str, message: str, tmp_path: Path) -> None:
    target = build(network_config(model))
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    path = one_safetensors(tmp_path, randomised(network_config(given)).state_dict())
    with pytest.raises(UserError, match=message):
        load_weights(target, path)
    assert equal(target, before)


def test_adapters_without_a_place_are_refused(tmp_path: Path) -> None:
    adapted = randomised(network_config("5b", lora={"r": 4}))
    with pytest.raises(UserError, match=r"matrix_A(.|\n)*They contain LoRA adapters(.|\n)* --to merged"):
        load_weights(build(network_config("5b")), one_safetensors(tmp_path, adapted.state_dict()))
    with pytest.raises(UserError, match="merge them"):
        to_diffusers(adapted.state_dict(), params_of(network_config("5b")))
    tensors, metadata = to_diffusers_lora(pairs_of(adapted.state_dict(), 1))
    save_file(tensors, tmp_path / "lora.safetensors", metadata)
    with pytest.raises(UserError, match="lora_config"):
        load_weights(build(network_config("5b")), tmp_path / "lora.safetensors")


def test_config_json_is_json_and_refuses_what_diffusers_lacks() -> None:
    node = network_config("1.5_5b", latent_height=300, latent_width=300)
    config = json.loads(json.dumps(config_json(params_of(node))))
    assert (config["sample_height"], config["sample_width"]) == (96, 170)
    with pytest.raises(UserError, match="square"):
        config_json(params_of(network_config("5b", patch_size=[1, 2, 4])))
    node = network_config("5b")
    node["params"]["modules"]["pos_embed_config"]["params"]["theta"] = 500
    with pytest.raises(UserError, match="theta: 500; diffusers always uses 10000; write format sat instead"):
        config_json(params_of(node))

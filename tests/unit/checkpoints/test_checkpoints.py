"""Headers: what a file holds, from its first bytes, without torch; and what is refused before anything is loaded."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cogtune.checkpoints import fit, kinds, read_header
from cogtune.checkpoints.shapes import derived_names, shapes_of
from cogtune.config.build import build, params_of
from cogtune.config.errors import ConfigErrors
from cogtune.errors import UserError
from cogtune.model.weights.diffusers import config_json, to_diffusers
from cogtune.work.load import load_config
from tests.families import FAMILIES, IN_DIFFUSERS, full_size, network_config, randomised
from tests.layouts import diffusers_folder, empty_t5, legacy_pickle, one_safetensors, sat_folder, state_dict_file
from tests.workflow.weights import make_t5, make_vae

CONFIGS = Path(__file__).resolve().parents[3] / "config"
MODELS = sorted(path.name for path in CONFIGS.glob("cogvideox*_*b*.yaml"))
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_those_of_the_network(family: str) -> None:
    for node in (full_size(family), network_config(family), network_config(family, lora={"r": 4, "layer_range": [1]})):
        with torch.device("meta"):
            network = build(node)
        assert shapes_of(node) == {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        assert derived_names(node) == set(network.derived_state())


@pytest.mark.heavy
@pytest.mark.parametrize("file", MODELS)
def test_shapes_of_every_shipped_model(file: str) -> None:
    model = load_config([CONFIGS / file], check_files=False, partial=True).values["model"]
    for part in ("network_config", "first_stage_config"):
        node = model[part]
        if part == "first_stage_config":
            node = node | {"params": node["params"] | {"ckpt_path": None}}
        with torch.device("meta"):
            module = build(node)
        assert shapes_of(node) == {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert kinds.family(shapes_of(model["network_config"]) or {}) in {family.identified for family in FAMILIES.values()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_is_in_the_shapes(family: str) -> None:
    shapes = shapes_of(full_size(family)) or {}
    assert kinds.family(shapes) == FAMILIES[family].identified
    assert kinds.family(shapes_of(network_config(family)) or {}) == "custom"
    assert kinds.sizes(shapes)["num_attention_heads"] == full_size(family)["params"]["num_attention_heads"]


def evil(folder: Path, legacy: bool) -> Path:
    class Shell:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {folder}/ran",)

    file = folder / "evil.pt"
    torch.save({"module": {"w": torch.zeros(1)}, "x": Shell()}, file, _use_new_zipfile_serialization=not legacy)
    return file


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_named_and_never_runs(legacy: bool, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"refused: it uses posix\.system, which can run code"):
        read_header(evil(tmp_path, legacy))
    assert not (tmp_path / "ran").exists()


GADGETS = {
    "builtins.eval": b"cbuiltins\neval\n(Vopen('ran','w')\ntR.",
    "builtins.getattr": b"cbuiltins\ngetattr\n(ctorch\nfloat16\nV__class__\ntR.",
    "torch.hub.load": b"ctorch.hub\nload\n(Va\nVb\ntR.",
    "numpy.load": b"cnumpy\nload\n(Va\ntR.",
    "_codecs.lookup": b"c_codecs\nlookup\n(Va\ntR.",
}


@pytest.mark.parametrize("asked", GADGETS)
def test_no_other_global_is_known(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("w.pt", "w") as archive:
        archive.writestr("w/data.pkl", GADGETS[asked])
    with pytest.raises(UserError, match=asked.replace(".", r"\.")):
        read_header("w.pt")
    assert not Path("ran").exists()


def test_a_pickle_cannot_change_its_reader(tmp_path: Path) -> None:
    """BUILD with a slot state calls setattr on what find_class gave."""
    program = b"ctorch._utils\n_rebuild_tensor_v2\n(N}(V_does\nctorch\nSize\nutb."
    assert pickle.loads(b"(N}(Va\nVb\nut.") == (None, {"a": "b"})
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/data.pkl", program)
    with pytest.raises(UserError, match="is not a torch file of tensors"):
        read_header(tmp_path / "w.pt")


def test_what_deepspeed_puts_beside_the_weights_is_passed_over(tmp_path: Path) -> None:
    header = read_header(sat_folder(tmp_path, {"w": torch.zeros(2, 3)}))
    assert header.layout == "SAT folder, iteration 1000"
    assert header.tensors["model.diffusion_model.w"].shape == (2, 3)


def test_no_tensor_data_is_read(tmp_path: Path) -> None:
    """A file whose data were never written: a hole of a terabyte, as long as the header says."""
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    raw = (tmp_path / "w.safetensors").read_bytes()
    size = 1 << 40
    head = raw[8:-4].replace(b"[1]", f"[{size // 4}]".encode()).replace(b"[0,4]", f"[0,{size}]".encode()).rstrip()
    with (tmp_path / "big.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + size)
    assert read_header(tmp_path / "big.safetensors").tensors["w"].shape == (size // 4,)


def test_reading_headers_needs_no_torch(tmp_path: Path) -> None:
    path = state_dict_file(tmp_path, {"w": torch.zeros(2, 3)})
    code = (
        "import sys; from cogtune.checkpoints import read_header, fit, kinds\n"
        f"assert read_header({str(path)!r}).tensors['w'].shape == (2, 3); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def flipped(path: Path, at: int) -> Path:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(bytes(raw))
    return path


@pytest.mark.parametrize("write", [one_safetensors, state_dict_file, legacy_pickle])
def test_every_cut_is_refused_in_words(write: Any, tmp_path: Path) -> None:
    file = write(tmp_path, {"w": torch.arange(5000.0), "v": torch.ones(3)})
    raw = file.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(raw) - 1, 997), len(raw) - 1]:
        file.write_bytes(raw[:length])
        with pytest.raises(UserError, match=str(file)):
            read_header(file)


@pytest.mark.parametrize("write", [one_safetensors, state_dict_file, legacy_pickle])
def test_flipped_bytes_never_escape_as_anything_but_words(write: Any, tmp_path: Path) -> None:
    """Wherever it is hit, the header reads, or is refused with one message; a changed pickle runs nothing."""
    file = write(tmp_path, {"w": torch.arange(50.0), "v": torch.ones(3, 2).half()})
    raw = file.read_bytes()
    refused = 0
    for at in range(0, min(len(raw), 1500), 3):
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
        try:
            read_header(file)
        except UserError:
            refused += 1
    assert refused > 10


def test_a_byte_that_flipped_in_the_data_of_a_zip_is_found_by_its_checksum(tmp_path: Path) -> None:
    from cogtune.model.weights.read import read

    file = state_dict_file(tmp_path, {"w": torch.arange(50.0)})
    place = read_header(file).tensors["w"]
    assert torch.equal(read(place), torch.arange(50.0))
    flipped(file, place.offset + 9)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match="checksum mismatch"):
        read(read_header(file).tensors["w"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_no_numbers_are_refused(bad: float, dtype: torch.dtype, tmp_path: Path) -> None:
    from cogtune.model.weights.read import read

    weights = torch.ones(1000, dtype=dtype)
    weights[777] = bad
    file = one_safetensors(tmp_path, {"w": weights, "empty": torch.zeros(0, dtype=dtype)})
    with pytest.raises(UserError, match="infinite or NaN"):
        read(read_header(file).tensors["w"])
    assert read(read_header(file).tensors["empty"]).shape == (0,)


@pytest.mark.parametrize("family", FAMILIES)
def test_fit_of_every_family_against_every_other(family: str, tmp_path: Path) -> None:
    """Families of the same shapes cannot be told apart in SAT's files; diffusers states more in config.json."""
    network = network_config(family)
    params, state = params_of(network), randomised(network).state_dict()
    (tmp_path / "sat").mkdir()
    headers = [read_header(one_safetensors(tmp_path / "sat", state))]
    if family in IN_DIFFUSERS:
        theirs = diffusers_folder(tmp_path / "diffusers", to_diffusers(state, params), **config_json(params))
        headers.append(read_header(theirs))
    for other in FAMILIES:
        for lora in (None, {"r": 4}):
            node = network_config(other, lora=lora)
            for header in headers:
                other_shapes = shapes_of(network_config(other)) != shapes_of(network)
                assert bool(fit.fit(node, header)) == other_shapes, (other, header.layout)


def test_problems_of_a_config_name_key_family_and_command(tmp_path: Path) -> None:
    """A full-size header costs nothing: the data are a hole."""
    shapes = shapes_of(full_size("5b")) or {}
    offset, entries = 0, {}
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(entries).encode()
    with (tmp_path / "5b.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + offset)
    make_vae(tmp_path / "3d-vae.pt", seed=1)
    values = load_config([CONFIGS / "cogvideox_2b.yaml"], check_files=False, partial=True).values
    files = {
        "args.load": str(tmp_path / "5b.safetensors"),
        "model.first_stage_config.params.ckpt_path": str(tmp_path / "3d-vae.pt"),
    }
    (load, first), (vae, second) = fit.weight_problems(values, files)
    assert (load, vae) == tuple(files)
    assert "The weights are 5B, the YAML describes 2B" in first
    assert f"cogtune weights inspect {files['args.load']} --full" in first
    assert "shape mismatch" in second
    values = load_config([CONFIGS / "cogvideox_5b_lora.yaml"], check_files=False, partial=True).values
    assert fit.weight_problems(values, {"args.load": files["args.load"]}) == []
    assert fit.weight_problems(values, {"args.load": str(tmp_path / "absent")}) == []
    values = load_config([CONFIGS / "cogvideox_5b.yaml"], check_files=False, partial=True).values
    ((_, third),) = fit.weight_problems(values, {"args.load": files[vae]})
    assert "contains VAE weights; expected transformer weights" in third


def test_a_t5_of_another_width_is_a_problem(tmp_path: Path) -> None:
    key = "model.conditioner_config.params.emb_models.0.params.model_dir"
    values = load_config([CONFIGS / "cogvideox_2b.yaml"], check_files=False, partial=True).values
    empty_t5(tmp_path, d_model=2048)
    assert fit.weight_problems(values, {key: str(tmp_path)}) == [
        (key, f"{tmp_path}: T5 of width 2048; expected 4096 (text_hidden_size of patch_embed_config)")
    ]
    empty_t5(tmp_path / "text_encoder", d_model=4096)
    assert fit.weight_problems(values, {key: str(tmp_path)}) == []


BROKEN_T5 = {
    "empty": ([], r"not a T5 folder: no config\.json in "),
    "another model": (['config.json: {"model_type": "clip"}'], r"config\.json has model_type 'clip'; expected"),
    "no JSON": (["config.json: nothing"], r"config\.json has model_type None; expected"),
    "no tokenizer": (["config.json", "model.safetensors"], r"no tokenizer found; expected one of tokenizer\.json"),
    "no weights": (["config.json", "spiece.model"], r"no weights found; expected one of model\.safetensors"),
    "a shard short": (
        ["config.json", "spiece.model", 'model.safetensors.index.json: {"weight_map": {"a": "b.safetensors"}}'],
        r"index\.json: lists b\.safetensors, which is missing",
    ),
    "no list of shards": (
        ["config.json", "spiece.model", "pytorch_model.bin.index.json: []"],
        "expected `weight_map`, a mapping of tensor names to files",
    ),
    "Git LFS": (
        ["config.json", "spiece.model", f"model.safetensors: {POINTER}"],
        r"model\.safetensors: is a Git LFS pointer, .*run `git lfs pull` in ",
    ),
}


@pytest.mark.parametrize(("files", "message"), BROKEN_T5.values(), ids=BROKEN_T5)
def test_a_folder_without_a_t5_is_a_problem(tmp_path: Path, files: list[str], message: str) -> None:
    key = "model.conditioner_config.params.emb_models.0.params.model_dir"
    values = load_config([CONFIGS / "cogvideox_2b.yaml"], check_files=False, partial=True).values
    for file in files:
        name, _, content = file.partition(": ")
        (tmp_path / name).write_text(content or '{"model_type": "t5", "d_model": 4096}')
    ((_, said),) = fit.weight_problems(values, {key: str(tmp_path)})
    assert re.search(message, said)


@pytest.mark.parametrize("name", ["3d-vae.pt", "model.safetensors", "mp_rank_00_model_states.pt"])
def test_weights_that_git_lfs_did_not_fetch_are_named_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(POINTER)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(UserError, match=rf"{name}: is a Git LFS pointer, .*run `git lfs pull` in {tmp_path}"):
            read_header(path)


@pytest.mark.heavy
def test_loading_a_config_compares_it_with_its_weights(tmp_path: Path) -> None:
    overrides = [
        f"model.first_stage_config.params.ckpt_path={tmp_path}/3d-vae.pt",
        f"model.conditioner_config.params.emb_models.0.params.model_dir={tmp_path}",
    ]
    make_vae(tmp_path / "3d-vae.pt", seed=1)
    make_t5(tmp_path, seed=2)
    tiny = Path(__file__).resolve().parents[2] / "workflow" / "tiny.yaml"
    (tmp_path / "model.yaml").write_text(tiny.read_text().partition("\ndata:")[0])
    load_config([tmp_path / "model.yaml"], overrides, partial=True)
    with pytest.raises(ConfigErrors, match=r"command line: .*ckpt_path: .*do not fit the configured model"):
        load_config([CONFIGS / "tiny" / "model.yaml"], overrides, partial=True)
    load_config([CONFIGS / "tiny" / "model.yaml"], overrides, partial=True, check_files=False)


def test_two_tensors_of_one_name_and_half_a_folder_are_refused(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}
    folder = diffusers_folder(tmp_path / "t", tensors, shards=3)
    next(iter(folder.glob("*-00002-*"))).unlink()
    with pytest.raises(UserError, match="which is missing"):
        read_header(folder)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="weight_map"):
        read_header(folder)
    save_file({"a": torch.zeros(2)}, next(iter(folder.glob("*-00001-*"))))
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"one of 3 shards; .*missing: .*00002-of-00003"):
        read_header(folder)


def test_a_pickle_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pickle.dump({"a": 1}, buffer)
    (tmp_path / "a.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"a\.pt"):
        read_header(tmp_path / "a.pt")

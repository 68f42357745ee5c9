"""T5 states: padding, truncation, precision, and folders that are not T5."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogtune.config.build import build
from cogtune.errors import UserError
from cogtune.model.text import GeneralConditioner, T5Embedder
from tests.workflow.weights import make_t5

LENGTH = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("t5")
    make_t5(made, seed=3)
    return made


def node(folder: Path, length: int = LENGTH) -> dict[str, Any]:
    return {
        "target": "sgm.modules.encoders.modules.FrozenT5Embedder",
        "params": {"model_dir": str(folder), "max_length": length},
    }


@pytest.fixture(scope="module")
def embedder(folder: Path) -> T5Embedder:
    return build(node(folder))


@pytest.mark.heavy
def test_states_are_t5s_without_a_mask(folder: Path, embedder: T5Embedder) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    captions = ["a wave rolls over the sand", "", "stripes"]
    ids = AutoTokenizer.from_pretrained(folder)(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    model = T5EncoderModel.from_pretrained(folder)
    with torch.no_grad():
        expected = model(input_ids=ids["input_ids"]).last_hidden_state
        masked = model(**ids).last_hidden_state
    found = embedder.encode(captions)
    assert found.shape == (3, LENGTH, 32)
    assert torch.equal(found, expected)
    assert not torch.allclose(found, masked, atol=1e-3)
    assert not found.requires_grad


def test_a_caption_does_not_depend_on_its_company(embedder: T5Embedder) -> None:
    captions = ["a wave", "stripes move to the left", "other words", "a"]
    together = embedder.encode(captions)
    apart = torch.cat([embedder.encode([caption]) for caption in captions])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_tokens_and_truncation(embedder: T5Embedder) -> None:
    short, long = "a", "a wave rolls over the sand " * 9
    assert embedder.tokens("") == 1  # the end token
    assert 1 < embedder.tokens(short) <= LENGTH
    assert embedder.tokens(long) > LENGTH
    assert torch.equal(embedder.encode([long]), embedder.encode([long + " and on"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision(folder: Path, embedder: T5Embedder, dtype: torch.dtype) -> None:
    low = build(node(folder), dtype=dtype).encode(["stripes"])
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), embedder.encode(["stripes"]), rtol=0, atol=0.1)


def test_the_two_folders_of_diffusers(folder: Path, embedder: T5Embedder, tmp_path: Path) -> None:
    for name in ("text_encoder", "tokenizer"):
        (tmp_path / name).mkdir()
    for path in folder.iterdir():
        weights = path.name in ("config.json", "model.safetensors")
        shutil.copy(path, tmp_path / ("text_encoder" if weights else "tokenizer") / path.name)
    assert torch.equal(build(node(tmp_path)).encode(["stripes"]), embedder.encode(["stripes"]))


def spoil(folder: Path, target: Path, kind: str) -> Path:
    shutil.copytree(folder, target)
    if kind == "another model":
        (target / "config.json").write_text(json.dumps({"model_type": "bert"}))
    elif kind == "no weights":
        (target / "model.safetensors").unlink()
    elif kind == "no tokenizer":
        for path in target.glob("*token*"):
            path.unlink()
    elif kind == "another tokenizer":
        words = json.loads((target / "tokenizer.json").read_text())
        words["model"]["vocab"] += [[f"more{index}", -9.0] for index in range(50)]
        (target / "tokenizer.json").write_text(json.dumps(words))
    elif kind == "a weight is missing":
        state = load_file(target / "model.safetensors")
        state.pop("encoder.final_layer_norm.weight")
        save_file(state, target / "model.safetensors", {"format": "pt"})
    elif kind == "nothing":
        shutil.rmtree(target)
    return target


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("another model", "model_type 'bert'"),
        ("nothing", "not a T5 folder"),
        ("no weights", "no weights found"),
        ("no tokenizer", "no tokenizer found"),
        ("another tokenizer", "from different models"),
        ("a weight is missing", "1 weights of T5 are missing, such as encoder.final_layer_norm.weight"),
    ],
)
def test_what_is_no_t5(folder: Path, tmp_path: Path, kind: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        build(node(spoil(folder, tmp_path / "t5", kind)))
    assert str(tmp_path) in str(caught.value)


def test_conditioner(folder: Path, embedder: T5Embedder) -> None:
    conditioner: GeneralConditioner = build(
        {
            "target": "sgm.modules.GeneralConditioner",
            "params": {"emb_models": [{"is_trainable": False, "input_key": "txt", "ucg_rate": 0.25} | node(folder)]},
        }
    )
    assert torch.equal(conditioner.embedder().encode(["a"]), embedder.encode(["a"]))


def test_every_caption_is_padded_to_the_full_length(embedder: T5Embedder) -> None:
    """226 for 1.0, 224 for 1.5: the states of the padding are no zeros, and the empty caption is not "no caption"."""
    for caption in ("", "a wave", "a wave rolls over the sand " * 9):
        states = embedder.encode([caption])
        assert states.shape == (1, LENGTH, 32)
        assert (states.abs().sum(2) > 0).all()

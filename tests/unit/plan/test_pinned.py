"""Configs with `hf://…`: a pinned copy is identified as a local file of the same bytes, and nothing asks the network."""

import shutil
import socket

import pytest

from cogtune.__main__ import main
from cogtune.config.errors import ConfigErrors
from cogtune.errors import UserError
from tests.hub import pin
from tests.unit.plan.world import World


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(world.root)


def keys(world: World) -> dict[str, str]:
    return {stage: part.key for stage, part in world.slices().items() if stage != "report"}


def test_the_same_bytes_have_the_same_key(world: World) -> None:
    local = keys(world)
    pin(world.root, "me/vae", world.root / "assets/3d-vae.pt")
    pin(world.root, "me/t5", world.root / "assets/t5")
    world.edit("assets/3d-vae.pt", "hf://me/vae/3d-vae.pt")
    world.edit("assets/t5", "hf://me/t5")
    assert keys(world) == local
    shutil.rmtree(world.root / "assets")
    assert keys(world) == local


def test_a_text_encoder_takes_the_tokenizer_beside_it(world: World) -> None:
    pipeline = world.root / "pipeline"
    words = ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    for part in ("text_encoder", "tokenizer"):
        (pipeline / part).mkdir(parents=True)
    for path in (world.root / "assets/t5").iterdir():
        shutil.copy(path, pipeline / ("tokenizer" if path.name in words else "text_encoder") / path.name)
    world.edit("assets/t5", "pipeline")
    both = keys(world)
    world.edit("model_dir: pipeline", "model_dir: pipeline/text_encoder")
    assert keys(world) == both
    for part in ("text_encoder", "tokenizer"):
        pin(world.root, "me/pipeline", pipeline / part, part)
    world.edit("pipeline/text_encoder", "hf://me/pipeline/text_encoder")
    assert keys(world) == both
    (pipeline / "transformer").mkdir()
    (pipeline / "transformer/x").write_text("not read by T5")
    assert keys(world) == both
    (word,) = (
        (pipeline / "tokenizer").glob("*.json")
        if (pipeline / "tokenizer/tokenizer.json").exists()
        else [next((pipeline / "tokenizer").iterdir())]
    )
    word.write_bytes(word.read_bytes() + b" ")
    world.edit("hf://me/pipeline/text_encoder", "pipeline/text_encoder")
    assert keys(world)["text"] != both["text"]


def test_another_file_than_the_pinned_one_is_refused(world: World) -> None:
    folder = pin(world.root, "me/vae", world.root / "assets/3d-vae.pt")
    world.edit("assets/3d-vae.pt", "hf://me/vae/3d-vae.pt")
    content = bytearray((folder / "3d-vae.pt").read_bytes())
    content[-1] ^= 1
    (folder / "3d-vae.pt").write_bytes(content)
    with pytest.raises((UserError, ConfigErrors), match=r"3d-vae\.pt: not the file that was pinned"):
        keys(world)


def test_without_a_pin_there_is_one_error_and_a_row_in_the_plan(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.edit("assets/3d-vae.pt", "hf://me/vae/3d-vae.pt")
    assert main(["config", "check", "--workflow", str(world.workflow)]) == 2
    error = capsys.readouterr().err
    assert error.count("not in weights/pins.json; run `cogtune weights get hf://me/vae/3d-vae.pt`") == 1
    assert "ckpt_path" in error
    assert main(["plan", "--base", str(world.config), "--device", "24GB", "--clips", "3"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "missing: VAE 'hf://me/vae/3d-vae.pt'" in told
    assert "run `cogtune weights get hf://me/vae/3d-vae.pt`" in told


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("assets/3d-vae.pt", "hf://me/../vae", "invalid repository"),
        ("[data/valid]", "['hf://me/clips']", "hf:// is for weights only"),
    ],
)
def test_what_is_no_path_of_weights_is_refused(world: World, old: str, new: str, text: str) -> None:
    world.edit(old, new)
    with pytest.raises(ConfigErrors, match=text):
        world.open().resolver("tiny")

"""The table of published models: its folders are those of the shipped YAML, the docs and the messages."""

import math
import os
import re
from pathlib import Path

import pytest

from cogtune.checkpoints.published import CKPT_PATH, FOLDER, LAYOUTS, LOAD, MODELS, T5, PublishedModel, advice_for
from cogtune.checkpoints.shapes import derived_names, shapes_of
from cogtune.config.errors import ConfigErrors
from cogtune.work.load import load_config

REPO = Path(__file__).resolve().parents[3]
ROWS = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
TEXTS = [
    *(REPO / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPO / "docs").glob("*.md")),
    *sorted((REPO / "config").glob("*.*")),
    *sorted((REPO / "src").rglob("*.py")),
]
DEFAULTS = {each.folder for model in MODELS.values() for layout in LAYOUTS for each in model.downloads(layout)} | {
    "/".join(path.split("/")[:2]) for model in MODELS.values() for path in model.config_paths("sat").values()
}


def test_every_shipped_model_file_has_a_row() -> None:
    shipped = {f"config/{path.name}" for path in REPO.glob("config/cogvideox*_*.yaml")} - {
        "config/cogvideox_common.yaml"
    }
    assert {file for model in MODELS.values() for file in (model.full, model.lora)} == shipped


@ROWS
def test_the_shipped_files_name_the_folders_of_the_table(
    model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    for file in (model.full, model.lora):
        files = load_config([file, "config/sft.yaml"], check_files=False).files
        expected = {key: os.path.abspath(path) for key, path in model.config_paths().items()}
        assert {key: files[key] for key in expected} == expected


@ROWS
def test_sizes_are_those_of_the_network(model: PublishedModel) -> None:
    """2 bytes a weight in diffusers' files, without computed tables; the VAE, as published, has 4. Headers are small."""
    config = load_config([REPO / model.full], check_files=False, partial=True).values["model"]
    network, vae = shapes_of(config["network_config"]) or {}, shapes_of(config["first_stage_config"]) or {}
    stored = [network[name] for name in network.keys() - derived_names(config["network_config"])]
    bytes_of = {"transformer": 2 * sum(map(math.prod, stored)), "vae": 4 * sum(map(math.prod, vae.values()))}
    published = {name: size for name, _, size in model.diffusers.parts}
    assert published == pytest.approx(bytes_of, rel=0.01)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPO)))
def test_a_default_folder_that_a_text_names_is_in_the_table(path: Path) -> None:
    named = set(re.findall(rf"(?<![\w/.]){FOLDER}/(?:cogvideox|t5)[\w.-]*", path.read_text()))
    assert {name.rstrip(".") for name in named} <= DEFAULTS


def test_a_missing_default_folder_says_which_command_makes_it() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load_config([REPO / "config/cogvideox_5b.yaml", REPO / "config/sft.yaml"])
    text = str(caught.value)
    assert text.count("run `cogtune weights get cogvideox-5b`") == 2
    assert "config/cogvideox_5b.yaml:6:3: args.load: no such file or folder: 'weights/cogvideox-5b/transformer'" in text
    assert "`cogtune weights get NAME` downloads it with a model" in text


def test_advice_only_for_default_folders() -> None:
    for model in MODELS.values():
        for layout in LAYOUTS:
            command = f"run `cogtune weights get {model.name}{' --layout sat' if layout == 'sat' else ''}`"
            assert advice_for(model.config_paths(layout)[LOAD]) == command
    assert advice_for(T5.folder)
    others = ("weights", "weights/mine", "my/weights/cogvideox-5b/vae", "weights/cogvideox-5b", "/", "")
    assert [path for path in others if advice_for(path)] == []


@pytest.mark.parametrize(
    ("overrides", "load"),
    [
        ([], "elsewhere/transformer"),
        (["args.load=mine"], "mine"),
        (["args.load=null"], None),
        (["args.load.experiment=other"], {"experiment": "other"}),
    ],
    ids=str,
)
def test_weights_dir_is_the_default_of_load(overrides: list[str], load: object) -> None:
    words = ["model.weights_dir=elsewhere", *overrides]
    config = load_config([REPO / "config/sft.yaml", REPO / "config/cogvideox_5b_lora.yaml"], words, check_files=False)
    assert config.values["args"]["load"] == load
    assert config.files[CKPT_PATH] == os.path.abspath("elsewhere/vae")
    assert "weights_dir" not in config.values["model"]


def test_weights_dir_may_not_be_empty() -> None:
    files = [REPO / "config/cogvideox_5b.yaml", REPO / "config/sft.yaml"]
    with pytest.raises(ConfigErrors, match=r"model\.weights_dir: expected a path; found an empty string"):
        load_config(files, ["model.weights_dir=''"], check_files=False)

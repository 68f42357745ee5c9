"""What the user is shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogtune.commands.config_show import as_json, as_yaml, diff, explain
from cogtune.config.errors import ConfigError
from cogtune.config.hints import all_keys
from cogtune.config.leaves import leaves_of
from cogtune.work.load import load_config

CONFIG = Path(__file__).parents[3] / "config"
FILES = [CONFIG / "cogvideox_2b_lora.yaml", CONFIG / "sft.yaml"]


def load(*overrides: str):
    return load_config(FILES, overrides, check_files=False)


def test_each_leaf_says_who_set_it():
    config = load("model.scale_factor=0.7", "--train-iters", "10")
    shown = [line.split() for line in as_yaml(config).splitlines()]
    assert ["scale_factor:", "0.7", "#", "command", "line"] in shown
    assert ["train_iters:", "10", "#", "command", "line"] in shown
    assert ["seed:", "1234", "#", "default"] in shown
    assert any(line[0] == "r:" and line[-1].endswith("config/lora.yaml:12") for line in shown)
    leaves = [".".join(map(str, path)) for path, _ in leaves_of(config.values)]
    assert list(config.origin) == leaves


@pytest.mark.parametrize("model", ["cogvideox_2b_lora", "cogvideox1.5_5b_i2v"])
@pytest.mark.parametrize("rest", ["sft", "inference"])
def test_the_shown_yaml_means_the_same(model: str, rest: str, write: Callable[..., Any]):
    native = ["args.sampling_image_size=[480,720]", "args.sampling_num_frames=13"] if rest == "inference" else []
    config = load_config([CONFIG / f"{model}.yaml", CONFIG / f"{rest}.yaml"], native, check_files=False)
    again = load_config(write(as_yaml(config)), check_files=False)
    assert again.values == config.values
    assert diff(config, again) == []


def test_json_is_the_config_as_written_or_the_part_of_a_stage():
    config = load()
    whole = json.loads(as_json(config))
    assert whole["model"]["network_config"]["target"] == "dit_video_concat.DiffusionTransformer"
    assert whole == config.raw
    part = json.loads(as_json(config, "scan"))
    assert part["data"] == {"target": "SFTDataset", "params": {"allow_missing_caption": False, "follow_links": True}}
    assert "model" not in part
    assert "scale_factor" not in as_yaml(config, "text")


def test_differences_name_old_new_and_who():
    lines = diff(load(), load("deepspeed.optimizer.params.lr=1e-4", "args.valid_data=[x]"))
    assert "deepspeed.optimizer.params.lr: 1.0e-05 → 0.0001 (command line)" in lines
    assert "args.valid_data: null → [x] (command line)" in lines
    assert diff(load(), load()) == []


def test_the_same_meaning_in_other_words_is_no_difference(write: Callable[..., Any]):
    other = write(
        f"base: [{FILES[0]}, {FILES[1]}]\n"
        "model: {network_config: {target: DiffusionTransformer, params: {patch_size: [1, 2, 2], adm_in_channels: 256}}}\n"
        "deepspeed: {gradient_clipping: 1e-1}\n"
        "args: {save: x}\n"
    )
    assert load_config(other, check_files=False).values == load().values


def test_explain():
    text = explain("deepspeed.optimizer.params.lr")
    for expected in ("peak learning rate", "a number or null", "read by        train"):
        assert expected in text
    assert "args.lr" in explain("lr")
    assert "ucg_rate" in explain("model.conditioner_config.params.emb_models.0.ucg_rate")
    assert "ignored        use deepspeed.flops_profiler" in explain("args.profiling")
    assert "not available: any value crashes upstream" in explain("lr_scale")
    with pytest.raises(ConfigError, match=r"did you mean .*scale_factor"):
        explain("scale_facto")


def test_every_key_can_be_explained():
    for path in {key.path for key in all_keys()}:
        assert path in explain(path)


def test_attributes():
    config = load()
    assert config.model.scale_factor == 1.15258426
    assert config.model.network_config["target"] == "DiffusionTransformer"
    assert config.origin_of("model.sampler_config").endswith("cogvideox_common.yaml:88")
    with pytest.raises(AttributeError, match="no key 'scael'"):
        _ = config.model.scael


@pytest.mark.parametrize(
    "path", ["args", "model.network_config.params", "model.conditioner_config.params.emb_models.*.params"]
)
def test_a_mapping_lists_its_keys(path: str):
    assert "  keys  " in explain(path)


def test_an_unknown_key_without_a_near_name_leads_to_the_list_and_not_to_97_names():
    with pytest.raises(ConfigError) as caught:
        load("args.wombat=1")
    assert len(str(caught.value)) < 160
    assert "unknown key; run `cogtune config explain args` for the" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.noise_mode=1", "model.noise_mode: unknown key; run `cogtune config explain model` for"),
        ("model.network_config.params.num_layer=1", "did you mean 'num_layers'?"),
        ("args.num_layers=1", "a key of this name exists in model.network_config.params"),
        ("deepspeed.micro_batch_size=1", "did you mean 'train_micro_batch_size_per_gpu'?"),
    ],
)
def test_only_near_names_are_suggested(override: str, told: str):
    with pytest.raises(ConfigError) as caught:
        load(override)
    assert told in str(caught.value)

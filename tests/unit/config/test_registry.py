"""Targets: aliases, nearest names, and that only the registry decides what is imported."""

import dataclasses
import sys

import pytest

from cogtune.config.build import build, params_of
from cogtune.config.errors import ConfigError
from cogtune.config.registry import ENTRIES, UNAVAILABLE, Entry, canonical, find
from cogtune.config.schema.common import fields_of


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry(entry: Entry):
    for name in (entry.name, *entry.aliases):
        assert canonical(name) == entry.name
    assert dataclasses.is_dataclass(entry.schema)
    assert all(field.key.doc for field in fields_of(entry.schema).values())


def test_names_are_unique():
    names = [name for entry in ENTRIES for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "sgm.modules.diffusionmodules.guiders.DynamicCfg",
            "did you mean 'sgm.modules.diffusionmodules.guiders.DynamicCFG'",
        ),
        ("DynamicCfg", "did you mean 'DynamicCFG'"),
        ("os.system", "unknown target 'os.system'; expected one of DiffusionTransformer"),
        ("data_video.VideoDataset", "webdataset shards are not read"),
        ("", "unknown target ''"),
    ],
)
def test_unknown_targets(target: str, message: str):
    with pytest.raises(ConfigError, match=message):
        canonical(target)
    assert target not in sys.modules


def test_a_target_in_the_wrong_role():
    with pytest.raises(ConfigError, match="is not a sampler; expected VPSDEDPMPP2MSampler or"):
        find("DynamicCFG", "sampler")


def test_unavailable_targets_are_not_registered():
    assert not {name for entry in ENTRIES for name in entry.aliases} & UNAVAILABLE.keys()


def test_params_of_a_node():
    node = {"target": "dit_video_concat.DiffusionTransformer", "params": {
        "num_layers": 2, "hidden_size": 64, "num_attention_heads": 1, "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "num_frames": 9, "time_compressed_rate": 4, "latent_width": 12, "latent_height": 8, "adm_in_channels": 256,
        "transformer_args": {"checkpoint_activations": True, "vocab_size": 1},
        "modules": {"pos_embed_config": {"target": "dit_video_concat.Basic3DPositionEmbeddingMixin"},
                    "patch_embed_config": {"target": "PatchEmbedding", "params": {"text_hidden_size": 8}},
                    "adaln_layer_config": {"target": "AdaLN", "params": None}, "final_layer_config": {"target": "FinalLayer"}},
    }}  # fmt: skip
    params = params_of(node)
    assert params.patch_size == [1, 2, 2]
    assert params.transformer_args.checkpoint_activations is True
    assert params.adm_in_channels == 256
    assert params.modules["adaln_layer_config"] == {"target": "AdaLN", "params": {"qk_ln": True}}
    assert "lora_config" not in params.modules
    assert params_of({"target": "DiffusionTransformer", "params": dataclasses.asdict(params)}) == params


def test_wrong_params_are_named():
    with pytest.raises(ConfigError, match=r"DynamicCFG\.scael: unknown key; did you mean 'scale'"):
        params_of({"target": "DynamicCFG", "params": {"scael": 6, "exp": 5, "num_steps": 50}})
    with pytest.raises(ConfigError, match="expected a mapping with `target` and `params`"):
        params_of({"params": {}})
    with pytest.raises(ConfigError, match="DynamicCFG: expected a mapping; found 3"):
        params_of({"target": "DynamicCFG", "params": 3})


def test_build_hands_over_params_and_runtime():
    guider = build({"target": "sgm.modules.diffusionmodules.guiders.VanillaCFG", "params": {"scale": 3}})
    assert type(guider).__name__ == "VanillaCFG"
    assert guider.scale(0, 999, 50) == 3.0

"""A class of one's own in every role that a config can name: taken as written, or refused with the reason."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

import cogtune
from cogtune.config import plugins
from cogtune.config.errors import ConfigError
from cogtune.config.hints import all_keys
from cogtune.config.merge import Config
from cogtune.config.plugins import used_by
from cogtune.config.registry import DERIVED, ENTRIES, NOT_PLUGGED, find, kind
from cogtune.config.schema.common import with_article
from cogtune.work.load import load_config
from cogtune.work.slices import cut
from cogtune.work.stages import STAGES
from tests.plugged import MARK, PACKAGE, all_roles, at, by_role, class_name, plug, source, tiny
from tests.workflow.weights import make_t5

REPO = Path(__file__).parents[3]
WRONG = """

class Bare:
    def __init__(self, num_steps: int = 1, max_length: int = 8):
        pass

    def nothing(self):
        pass

    __call__ = timesteps = scale = forward = index = alpha = encode = decode = tokens = step = sample = mode = nothing
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("plugged")
    (folder / f"{PACKAGE}.py").write_text(source() + WRONG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(plugins, "_LISTED", {})
        plugins.allow_plugins([PACKAGE], folder)
        yield folder
    sys.modules.pop(PACKAGE, None)


def load(tree: dict[str, Any], folder: Path, *overrides: str, files: bool = False) -> Config:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_config(file, overrides, check_files=files)


def test_every_role_has_a_place_in_the_config_of_these_tests() -> None:
    assert set(by_role()) == all_roles()


@pytest.mark.parametrize("role", sorted(all_roles()))
def test_a_class_of_ones_own_is_taken_or_refused(package: Path, role: str) -> None:
    tree = tiny()
    plug(tree, role)
    if role in NOT_PLUGGED:
        with pytest.raises(ConfigError, match=f"a plugin cannot be the {role}: "):
            load(tree, package)
        return
    values = load(tree, package).values
    for path in by_role()[role]:
        node = at(values, path)
        assert node["type" if role == "optimizer" else "target"] == f"{PACKAGE}.{class_name(role)}"
        assert role == "autoencoder" or node["params"]["mark"] == MARK


IGNORED = [(key.path, key.field.key.node) for key in all_keys() if key.field.key.node and key.field.key.without_effect]


def test_no_plugin_is_taken_where_nothing_would_build_it() -> None:
    assert IGNORED
    assert {role for _, role in IGNORED} <= set(NOT_PLUGGED)


@pytest.mark.parametrize(("key", "role"), IGNORED)
def test_a_target_of_upstream_is_accepted_where_nothing_builds_it(package: Path, key: str, role: str) -> None:
    tree = tiny()
    at(tree, by_role()[role][0])["target"] = "sgm.modules.of_upstream.Anything"
    assert any(": ignored: " in line and key.split(".")[-1] in line for line in load(tree, package).notices)


@pytest.mark.parametrize("role", sorted(all_roles() - set(NOT_PLUGGED)))
def test_a_stage_that_gets_the_class_gets_its_params_and_its_package(package: Path, role: str) -> None:
    """Else it would be built with defaults, or its source would not count."""
    tree = tiny()
    plug(tree, role)
    values, reached = load(tree, package).values, 0
    word = "type" if role == "optimizer" else "target"
    for stage in STAGES.values():
        seen = cut(stage, values, {}, {}, {}).config()
        for path in by_role()[role]:
            try:
                node = at(seen, path)
                named = node[word]
            except (KeyError, IndexError):
                continue
            if role != "autoencoder":
                assert node["params"]["mark"] == MARK, (stage.name, path)
            assert named == f"{PACKAGE}.{class_name(role)}"
            assert PACKAGE in used_by(seen)
            reached += stage.name != "report"
    assert reached


IN_A_SENTENCE = {
    "autoencoder": "an autoencoder",
    "autoencoder loss": "an autoencoder loss",
    "conditioner": "a conditioner",
    "dataset": "a dataset",
    "decoder": "a decoder",
    "denoiser": "a denoiser",
    "discretization": "a discretization",
    "embedder": "an embedder",
    "encoder": "an encoder",
    "final layer": "a final layer",
    "guider": "a guider",
    "lora": "a LoRA",
    "loss": "a loss",
    "modulation": "a modulation layer",
    "network": "a network",
    "optimizer": "an optimizer",
    "patch embedding": "a patch embedding",
    "positions": "a position embedding",
    "regularizer": "a regularizer",
    "sampler": "a sampler",
    "scaling": "a scaling",
    "timesteps": "a timestep sampler",
    "weighting": "a weighting",
}


@pytest.mark.parametrize("role", sorted(all_roles()))
def test_a_message_names_the_role_in_the_singular_with_its_article(role: str, tmp_path: Path) -> None:
    assert with_article(role) == IN_A_SENTENCE[role]
    other = next(entry for entry in ENTRIES if entry.role != role)
    with pytest.raises(ConfigError, match=f"is not {IN_A_SENTENCE[role]}[;:]"):
        find(other.name, role)
    tree = tiny()
    for path in by_role()[role]:
        at(tree, path)["type" if role == "optimizer" else "target"] = 7
    unchecked = {
        "optimizer",
        *(ignored for _, ignored in IGNORED),
    }  # optimizer: a key of DeepSpeed, with its own message
    if role not in unchecked:
        with pytest.raises(ConfigError, match=f"expected the name of {IN_A_SENTENCE[role]}: "):
            load(tree, tmp_path)


@pytest.mark.parametrize("role", [*DERIVED, "optimizer"])
def test_a_class_with_the_right_methods_alone_is_refused_where_more_is_needed(package: Path, role: str) -> None:
    tree = tiny()
    plug(tree, role)
    for path in by_role()[role]:
        at(tree, path)["type" if role == "optimizer" else "target"] = f"{PACKAGE}.Bare"
    with pytest.raises(
        ConfigError, match=f"is not {with_article(role)}: (expected a class derived from|it does not derive from)"
    ):
        load(tree, package)


@pytest.mark.heavy
def test_weights_are_held_against_a_network_with_parts_of_ones_own(package: Path) -> None:
    """This crashed the check as soon as args.load was set."""
    tree = tiny()
    network = cogtune.build(load(tree, package).values["model"]["network_config"])
    weights = {name: tensor for name, tensor in network.state_dict().items() if "matrix_" not in name}
    save_file(
        {name.replace(".original.", "."): tensor.clone() for name, tensor in weights.items()}, package / "w.safetensors"
    )
    for role in ("network", "positions", "patch embedding", "modulation", "final layer", "lora"):
        plug(tree, role)
    del tree["model"]["first_stage_config"]["params"]["ckpt_path"]
    make_t5(package / "t5", seed=2)
    tree["model"]["conditioner_config"]["params"]["emb_models"][0]["params"]["model_dir"] = str(package / "t5")
    tree["args"] |= {"train_data": [str(package)], "valid_data": None, "load": str(package / "w.safetensors")}
    load(tree, package, files=True)
    with pytest.raises(ConfigError, match="these weights do not fit the configured model"):
        load(tree, package, "model.network_config.params.hidden_size=64", files=True)


def test_what_holds_for_cogtunes_class_holds_for_one_that_derives_from_it(package: Path) -> None:
    tree = tiny()
    plug(tree, "positions")
    assert kind(f"{PACKAGE}.Positions") == "Basic3DPositionEmbedding"
    assert kind(f"{PACKAGE}.Bare") == f"{PACKAGE}.Bare"
    assert find(f"{PACKAGE}.Network").role == "network"
    with pytest.raises(ConfigError, match=r"expected \[32, 48\] .*sine-cosine position table"):
        load(tree, package, "data.params.video_size=[48,48]")


@pytest.mark.parametrize(
    "key", ["model.denoiser_config.params.weighting_config", "model.first_stage_config.params.loss_config"]
)
def test_an_unlisted_class_is_refused_where_nothing_would_build_it(key: str) -> None:
    files = [REPO / "config/cogvideox_2b.yaml", REPO / "config/sft.yaml"]
    with pytest.raises(ConfigError, match=r"'my\.plug\.In': a plugin cannot be the "):
        load_config(files, [f"{key}.target=my.plug.In"], check_files=False)
    config = load_config(files, [f"{key}.target=torch.nn.Identity"], check_files=False)
    assert any("ignored: " in notice for notice in config.notices)

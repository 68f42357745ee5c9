"""Validation folders: a list or named sets; every form gives the same folders, and names that can be told apart."""

from pathlib import Path

import pytest

from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.valid_data import ValidData, by_set, folders
from cogtune.work.load import load_config
from tests.unit.config.test_cross import CONFIG, load


@pytest.mark.parametrize(
    ("valid_data", "sets"),
    [
        (None, {}),
        ([], {}),
        (["/data/held out"], {"held out": ["/data/held out"]}),
        (["/data/valid/"], {"valid": ["/data/valid/"]}),
        (["/a/valid", "/b/valid", "/c"], {"a/valid": ["/a/valid"], "b/valid": ["/b/valid"], "c": ["/c"]}),
        (["/a/v", "/x/a/v"], {"a/v": ["/a/v"], "x/a/v": ["/x/a/v"]}),
        (["/a", "/a"], {"a": ["/a"]}),
        (["/"], {"/": ["/"]}),
        ({"near": ["/a", "/b"], "far": ["/c"]}, {"near": ["/a", "/b"], "far": ["/c"]}),
    ],
)
def test_sets(valid_data: ValidData, sets: dict[str, list[str]]) -> None:
    assert by_set(valid_data) == sets
    assert set(folders(valid_data)) == {folder for listed in sets.values() for folder in listed}


@pytest.mark.parametrize("listed", [["/b"], ["/b", "/c"]])
def test_sets_are_named_on_the_command_line(listed: list[str]) -> None:
    text = ",".join(listed)
    config = load("cogvideox_5b", f"args.valid_data.near=[{text}]", "args.valid_data.far=[/d]")
    assert config.values["args"]["valid_data"] == {"near": listed, "far": ["/d"]}
    assert config.files["args.valid_data.near.0"] == "/b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("args.valid_data.0=[a]", r"args\.valid_data: '0' cannot name a validation set; expected a letter"),
        ("args.valid_data.two words=[a]", "'two words' cannot name a validation set"),
        ("args.valid_data.near=a", "expected a list of folders for near; found 'a'"),
        ("args.valid_data.near=[]", "expected a list of folders for near; found an empty list"),
        ("args.valid_data.near=[[a]]", "expected a list of strings; item 0 is a list"),
        (
            "args.valid_data=3",
            "expected a list of strings or a mapping from names to lists of strings or null; found 3",
        ),
    ],
)
def test_other_forms_are_refused(override: str, message: str) -> None:
    with pytest.raises((ConfigError, ConfigErrors), match=message):
        load("cogvideox_5b", override)


def test_a_folder_of_a_set_that_does_not_exist_is_named(tmp_path: Path) -> None:
    overrides = [f"args.train_data=[{tmp_path}]", f"args.valid_data.near=[{tmp_path},{tmp_path}/none]"]
    with pytest.raises((ConfigError, ConfigErrors), match=r"args\.valid_data\.near\.1: no such file or folder"):
        load_config([CONFIG / "cogvideox_5b.yaml", CONFIG / "sft.yaml"], overrides)

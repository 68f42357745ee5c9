"""The generated files are what the schema says now."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from cogtune.commands.reference import GENERATED, schema_text, workflow_schema_text
from cogtune.config.errors import ConfigError
from cogtune.config.yaml_source import load_tree
from cogtune.work.workspace import Workspace

CONFIG = Path(__file__).parents[3] / "config"
HOW = "run `python -m cogtune.commands.reference`"
FILES = sorted(path for path in CONFIG.rglob("*.yaml") if path.name != "config.yaml")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_files_are_up_to_date(name: str):
    assert (CONFIG.parent / name).read_text(encoding="utf-8") == GENERATED[name](), HOW


def test_config_yaml_follows_its_schema_and_names_it():
    validator = Draft7Validator(yaml.safe_load(workflow_schema_text()))
    assert [error.message for error in validator.iter_errors(load_tree(CONFIG / "config.yaml").plain())] == []
    first = (CONFIG / "config.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../workflow/schemas/config.schema.yaml"


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"experiments": {"a": {"base": "x.yaml", "ranks": 2}}, "resources": {"mem_mb": 1000}, "device": "H100"}, True),
        (
            {
                "experiments": {"a": {"base": ["x.yaml"]}},
                "sweep": {"lr": {"experiment": "a", "grid": {"args.seed": [1, 2]}}},
            },
            True,
        ),
        ({"experimets": {}}, False),
        ({"experiments": {"a": {"set": []}}}, False),
        ({"experiments": {"a": {"base": []}}}, False),
        ({"experiments": {"a": {"base": "x.yaml", "seed": 1}}}, False),
        ({"resources": {"memory": 1}}, False),
        ({"ranks": "${args.seed}"}, False),
        ({"ranks": 0}, False),
    ],
)
def test_the_schema_of_config_yaml_agrees_with_the_check(body: dict[str, Any], valid: bool, tmp_path: Path):
    """Both say of the same file whether it is right."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(body))
    validator = Draft7Validator(yaml.safe_load(workflow_schema_text()))
    assert (not list(validator.iter_errors(body))) == valid
    with contextlib.nullcontext() if valid else pytest.raises(ConfigError):
        Workspace.load(path, {"run": "one", "base": "x.yaml"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_files_follow_the_json_schema_and_name_it(path: Path):
    validator = Draft7Validator(json.loads(schema_text()))
    assert [error.message for error in validator.iter_errors(load_tree(path).plain())] == []
    schema = "../schema.json" if path.parent != CONFIG else "schema.json"
    assert path.read_text().startswith(f"# yaml-language-server: $schema={schema}\n")


def test_the_json_schema_marks_a_slip():
    validator = Draft7Validator(json.loads(schema_text()))
    assert list(validator.iter_errors({"args": {"train_itres": 1}}))
    assert list(validator.iter_errors({"model": {"sampler_config": {"target": "nothing"}}}))

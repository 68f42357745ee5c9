"""The generated files are what the schema says now."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from cogtune.commands.reference import markdown, schema_text
from cogtune.config.yaml_source import load_yaml

CONFIG = Path(__file__).parents[3] / "config"
HOW = "run `python -m cogtune.commands.reference config`"
FILES = sorted(path for path in CONFIG.rglob("*.yaml") if path.name != "config.yaml")


def test_readme_and_json_schema_are_up_to_date():
    assert (CONFIG / "README.md").read_text(encoding="utf-8") == markdown(), HOW
    assert (CONFIG / "schema.json").read_text(encoding="utf-8") == schema_text(), HOW


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shipped_files_follow_the_json_schema_and_name_it(path):
    validator = Draft7Validator(json.loads(schema_text()))
    assert [error.message for error in validator.iter_errors(load_yaml(path))] == []
    schema = "../schema.json" if path.parent != CONFIG else "schema.json"
    assert path.read_text().startswith(f"# yaml-language-server: $schema={schema}\n")


def test_the_json_schema_marks_a_slip():
    validator = Draft7Validator(json.loads(schema_text()))
    assert list(validator.iter_errors({"args": {"train_itres": 1}}))
    assert list(validator.iter_errors({"model": {"sampler_config": {"target": "nothing"}}}))

"""`config/schema.json` and `workflow/schemas/config.schema.yaml`: the keys as JSON schemas, so that editors complete and
check the YAML."""

import dataclasses
import typing
from typing import Any

from cogtune.config import registry
from cogtune.config.hints import Sections
from cogtune.config.key_types import members
from cogtune.config.schema.common import Field, fields_of
from cogtune.config.schema.deepspeed import Optimizer
from cogtune.config.schema.text import EmbedderKeys
from cogtune.config.schema.workflow import WorkflowSection

_NAMES = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_FILES = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_EXPERIMENT: dict[str, Any] = {
    "base": _FILES | {"description": "SAT-style YAML files, merged in this order"},
    "set": _TEXTS | {"description": "overrides key=value"},
    "ranks": {"type": "integer", "minimum": 1, "description": "training processes (ranks)"},
}
_SWEEP = _EXPERIMENT | {
    "experiment": {"type": "string", "description": "the experiment that it starts from, instead of base"},
    "grid": {"type": "object", "description": "key: [value, …]; one experiment for each combination"},
}
_REFERENCE = {"type": "string", "pattern": r"^\$\{.*\}$"}


def json_schema() -> dict[str, Any]:
    """A JSON schema (draft 7): editors complete and describe keys, and mark unknown ones.

    No key is required, because a file may be an overlay.
    """
    definitions: dict[str, Any] = {}
    sections = {name: _property(field, definitions) for name, field in fields_of(Sections).items()}
    base = {"type": ["array", "string"], "items": {"type": "string"}, "description": "files merged before this one"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "cogtune",
        "type": "object",
        "properties": {"base": base, **sections},
        "additionalProperties": False,
        "definitions": definitions,
    }


def workflow_schema() -> dict[str, Any]:
    """A JSON schema (draft 7) of config/config.yaml."""
    definitions: dict[str, Any] = {}
    properties = {name: _property(field, definitions) for name, field in fields_of(WorkflowSection).items()}
    named: dict[str, dict[str, Any]] = {
        "experiments": {"properties": _EXPERIMENT, "required": ["base"]},
        "sweep": {"properties": _SWEEP, "required": ["grid"]},
    }
    for name, body in named.items():
        entry = {"type": "object", "additionalProperties": False, **body}
        properties[name] |= {"anyOf": [{"type": "object", "additionalProperties": entry}, {"type": "null"}]}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "config/config.yaml of cogtune",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "definitions": definitions,
    }
    return _without_references(schema)


def _without_references(node: Any) -> Any:
    """The same schema for a file in which `${a.b}` stands for itself."""
    if isinstance(node, list):
        return [_without_references(item) for item in node if item != _REFERENCE]
    return {name: _without_references(item) for name, item in node.items()} if isinstance(node, dict) else node


def _object(schema: type, definitions: dict[str, Any]) -> dict[str, Any]:
    name = schema.__name__
    if name not in definitions:
        definitions[name] = {}
        properties = {key: _property(field, definitions) for key, field in fields_of(schema).items()}
        if schema is Optimizer:
            kinds = [entry.schema for entry in registry.ENTRIES if entry.role == "optimizer"]
            properties["params"] |= {"anyOf": [_object(kind, definitions) for kind in kinds] + [_REFERENCE]}
        definitions[name] |= {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$ref": f"#/definitions/{name}"}


def _property(field: Field, definitions: dict[str, Any]) -> dict[str, Any]:
    key = field.key
    fate = f" Ignored: {key.without_effect}." if key.without_effect else ""
    about: dict[str, Any] = {"description": f"{key.doc}.{fate}" + (f" Unit: {key.unit}." if key.unit else "")}
    if not field.required and isinstance(field.default(), bool | int | float | str):
        about["default"] = field.default()
    shapes = [_shape(kind, field, definitions) for kind in members(field.type)]
    return about | {"anyOf": [shape for shape in shapes if shape] + [_REFERENCE]}


def _shape(kind: Any, field: Field, definitions: dict[str, Any]) -> dict[str, Any]:
    key = field.key
    if kind in _NAMES:
        if key.choices and kind is not type(None):
            return {"enum": list(key.choices)}
        return {"type": _NAMES[kind]} | (_limits(field) if kind in (int, float) else {})
    if typing.get_origin(kind) is list:
        item = typing.get_args(kind)[0]
        items = _component(key.node, definitions) if key.node else {"type": _NAMES[item]} | _limits(field)
        return {"type": "array", "items": items}
    if kind == dict[str, list[str]]:
        return {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}, "minItems": 1}}
    if dataclasses.is_dataclass(kind):
        return _object(typing.cast(type, kind), definitions)
    if key.keys is not None:
        return _object(key.keys, definitions)
    return _component(key.node, definitions) if key.node else {"type": "object"}


def _limits(field: Field) -> dict[str, Any]:
    limits = field.key.range
    return {"minimum": limits.minimum, "maximum": limits.maximum} if limits else {}


def _component(role: str, definitions: dict[str, Any]) -> dict[str, Any]:
    name = f"target: {role}"
    if name not in definitions:
        definitions[name] = {}
        entries = [entry for entry in registry.ENTRIES if entry.role == role]
        targets = [alias for entry in entries for alias in (*entry.aliases, entry.name)]
        params = [_object(entry.schema, definitions) for entry in entries] + [{"type": "null"}]
        beside = _object(EmbedderKeys, definitions) if role == "embedder" else {}
        extra = definitions["EmbedderKeys"]["properties"] if beside else {}
        properties = {"target": {"enum": targets}, "params": {"anyOf": params}, **extra}
        definitions[name] |= {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$ref": f"#/definitions/{name}"}

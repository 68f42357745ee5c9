"""Build the object that a ``{target, params}`` node describes."""

import typing
from dataclasses import is_dataclass
from typing import Any, TypeVar, overload

from cogtune.config.check import Checker
from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.key_types import members, short_repr
from cogtune.config.registry import find
from cogtune.config.schema.common import fields_of
from cogtune.config.tree import from_plain

Section = TypeVar("Section")
Params = TypeVar("Params")


def build(node: dict[str, Any], **runtime: Any) -> Any:
    """The object that a ``{target, params}`` node describes: ``Class(params, **runtime)``. Raises ConfigError."""
    params = params_of(node)  # first: it says what is wrong with a node that is no mapping
    return find(node["target"]).make(params, **runtime)


@overload
def params_of(node: dict[str, Any]) -> Any: ...


@overload
def params_of(node: dict[str, Any], expected: type[Params]) -> Params: ...


def params_of(node: dict[str, Any], expected: type[Any] = object) -> Any:
    """The params dataclass of a plain ``{target, params}`` mapping, checked.

    Raises ConfigErrors for invalid params, ConfigError for a component whose params are not ``expected``.
    """
    if not isinstance(node, dict) or not isinstance(node.get("target"), str):
        raise ConfigError(f"expected a mapping with `target` and `params`; found {short_repr(node)}")
    entry = find(node["target"])
    if not issubclass(entry.schema, expected):
        raise ConfigError(f"{entry.name}: its params are {entry.schema.__name__}; expected {expected.__name__}")
    plain_params = node.get("params") or {}
    checker = Checker()
    values = checker.section(from_plain(plain_params), entry.schema, entry.name)
    if checker.errors:
        raise ConfigErrors(checker.errors)
    return instance(entry.schema, values, plain_params)


def section_of(schema: type[Section], section: dict[str, Any], key: str) -> Section:
    """A section of the config, such as `deepspeed`, as the dataclass of its schema, checked. Raises ConfigErrors."""
    checker = Checker()
    values = checker.section(from_plain(section), schema, key)
    if checker.errors:
        raise ConfigErrors(checker.errors)
    return instance(schema, values, section)


def instance(schema: type, values: dict[str, Any], plain_params: dict[str, Any] | None = None) -> Any:
    """A schema dataclass of canonical values; nested sections become dataclasses, components stay dicts.

    Keys that have no effect are not in ``values``; they are taken from ``plain_params``.
    """
    merged = {name: value for name, value in (plain_params or {}).items() if name in fields_of(schema)} | values
    arguments = {}
    for name, value in merged.items():
        kinds = [kind for kind in members(fields_of(schema)[name].type) if is_dataclass(kind)]
        if kinds and isinstance(value, dict):
            inner = (plain_params or {}).get(name)
            value = instance(typing.cast(type, kinds[0]), value, inner if isinstance(inner, dict) else None)
        arguments[name] = value
    return schema(**arguments)

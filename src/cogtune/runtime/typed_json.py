"""Read JSON objects as frozen dataclasses: every field is checked, and errors name the field."""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from typing import Any, TypeGuard, TypeVar

Record = TypeVar("Record")

_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null"}
_PLURALS = {int: "integers", float: "numbers", str: "strings", bool: "booleans"}


def is_mapping(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value read from JSON or YAML is a mapping. Its keys are assumed to be strings."""
    return isinstance(value, dict)


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether a value read from JSON or YAML is a list."""
    return isinstance(value, list)


def from_json(kind: type[Record], value: Any) -> Record:
    """The JSON object ``value`` as the dataclass ``kind``.

    Fields may be of type int, float, str, bool, Any, a dataclass, a list or a dict with string keys of these, or a union
    of these. An integer is accepted as a float, and keeps its type; NaN and infinity are refused. A field with a default
    may be missing. Unknown keys are ignored, so that rows of a later version can be read. Raises ValueError.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {_short(value)}")
    arguments: dict[str, Any] = {}
    for name, field_type, required in _fields(kind):
        if name in value:
            arguments[name] = _checked(value[name], field_type, name)
        elif required:
            raise ValueError(f"missing key {name!r}")
    return kind(**arguments)


def to_json(record: Any) -> dict[str, Any]:
    """A dataclass as a JSON object, keys in the order of its fields. A field with default None is omitted if it
    is None."""
    absent = {field.name for field in fields(record) if field.default is None and getattr(record, field.name) is None}
    return {name: value for name, value in asdict(record).items() if name not in absent}


@cache
def _fields(kind: Any) -> list[tuple[str, Any, bool]]:
    """(name, type, required) of each field."""
    hints = typing.get_type_hints(kind)
    return [
        (field.name, hints[field.name], field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    ]


def _checked(value: Any, kind: Any, name: str) -> Any:
    if kind is Any or (type(value) is kind and kind in (int, str, bool, type(None))):
        return value
    if kind is float and _is_number(value):
        return value
    if is_dataclass(kind) and isinstance(value, dict):
        try:
            return from_json(typing.cast(type[Any], kind), value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list and isinstance(value, list):
        return [_checked(item, arguments[0], name) for item in typing.cast(list[Any], value)]
    if origin is dict and isinstance(value, Mapping):
        mapping = typing.cast(Mapping[str, Any], value)
        return {key: _checked(item, arguments[1], f"{name}.{key}") for key, item in mapping.items()}
    if origin in (typing.Union, types.UnionType):
        for member in arguments:
            if _could_be(value, member):
                return _checked(value, member, name)
    raise ValueError(f"{name}: expected {_described(kind)}, found {_short(value)}")


def _could_be(value: Any, member: Any) -> bool:
    """Whether ``value`` must be checked against this member of a union."""
    if member in _NAMES:
        return _is_number(value) if member is float else type(value) is member
    if typing.get_origin(member) is list:
        return isinstance(value, list)
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _described(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_described(member) for member in arguments)
    if origin is list:
        return f"a list of {_PLURALS.get(arguments[0], 'JSON objects')}"
    return _NAMES.get(kind, "a JSON object")


def _short(value: Any) -> str:
    return "null" if value is None else f"{value!r}"[:40]

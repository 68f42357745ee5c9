"""Every number that a config may hold has a range; values beyond either end of it are refused, for every key."""

import math
from collections.abc import Iterator
from dataclasses import is_dataclass

import pytest

from cogtune.commands.config_show import explain
from cogtune.commands.jsonschema import json_schema
from cogtune.config import registry
from cogtune.config.check import Checker
from cogtune.config.hints import Sections
from cogtune.config.key_types import members
from cogtune.config.schema.common import Field, Range, fields_of, number
from cogtune.config.schema.text import EmbedderKeys
from cogtune.config.schema.workflow import CommandLineSection
from cogtune.config.tree import from_plain

ROOTS = [Sections, CommandLineSection, EmbedderKeys, *(entry.schema for entry in registry.ENTRIES)]


def schemas() -> Iterator[type]:
    waiting, seen = list(ROOTS), set()
    while waiting:
        schema = waiting.pop()
        if schema in seen:
            continue
        seen.add(schema)
        yield schema
        for field in fields_of(schema).values():
            waiting += [kind for kind in members(field.type) if is_dataclass(kind)]
            waiting += [field.key.keys] if field.key.keys else []


def kinds(field: Field) -> set[type]:
    return {inner for kind in members(field.type) for inner in (kind, *getattr(kind, "__args__", ()))}


NUMBERS = [
    pytest.param(schema, field, id=f"{schema.__name__}.{name}")
    for schema in sorted(schemas(), key=lambda schema: schema.__name__)
    for name, field in fields_of(schema).items()
    if field.key.has_effect and not field.key.choices and kinds(field) & {int, float}
]


def refused(schema: type, field: Field, value: float) -> list[str]:
    """The errors of this one key when it is given ``value`` (as a list of it, where only lists are legal)."""
    plain: float | list[float] = value
    if not {int, float} & set(members(field.type)):
        plain = [value] * (field.key.items.count(",") + 1)
    checker = Checker()
    checker.section(from_plain({field.name: plain}), schema, "here")
    return [error.message for error in checker.errors if error.key == f"here.{field.name}"]


def beyond(end: float, sign: int, whole: bool) -> list[float]:
    if whole:
        return [int(end) + sign, sign * 10**23]
    return [math.nextafter(end, sign * math.inf), end + sign * max(1, abs(end)), sign * 1e308]


def test_there_are_numbers():
    assert len(NUMBERS) > 100


@pytest.mark.parametrize(("schema", "field"), NUMBERS)
def test_every_number_has_a_range_and_a_reason_and_is_refused_beyond_both_ends(schema: type, field: Field):
    limits = field.key.range
    assert isinstance(limits, Range), "a number needs range=Range(minimum, maximum, why), see schema/common.py"
    assert limits.why
    assert limits.minimum < limits.maximum
    whole = float not in kinds(field)
    for inside in (limits.minimum, limits.maximum):
        assert refused(schema, field, int(inside) if whole else inside) == []
    for value in beyond(limits.minimum, -1, whole) + beyond(limits.maximum, 1, whole):
        (message,) = refused(schema, field, value)
        assert message.startswith(f"expected {limits}, because {limits.why}; found")


@pytest.mark.parametrize(("schema", "field"), NUMBERS)
def test_defaults_are_inside(schema: type, field: Field):
    value = field.default()
    for item in value if isinstance(value, list) else [value]:
        assert item is None or (field.key.range and item in field.key.range)


def test_a_range_is_shown_wherever_a_key_is_explained():
    assert "1 to 1000, because published models have 30 or 42" in explain("model.network_config.params.num_layers")
    layers = json_schema()["definitions"]["DiffusionTransformerParams"]["properties"]["num_layers"]["anyOf"][0]
    assert (layers["minimum"], layers["maximum"]) == (1, 1000)
    betas = json_schema()["definitions"]["FusedEmaAdamParams"]["properties"]["betas"]["anyOf"][0]
    assert betas["items"] == {"type": "number", "minimum": 0, "maximum": 0.999999}


@pytest.mark.parametrize(("value", "text"), [(100_000, "100000"), (2**32 - 1, "4294967295"), (0.999999, "0.999999")])
def test_numbers_are_written_out(value: float, text: str):
    assert number(value) == text

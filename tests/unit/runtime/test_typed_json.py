"""JSON as dataclasses: what is accepted, and what an error says."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from cogtune.runtime.typed_json import from_json, to_json


@dataclass(frozen=True)
class Inner:
    name: str
    size: float | None = None


@dataclass(frozen=True)
class Outer:
    count: int
    rates: list[float]
    inner: Inner
    by_name: dict[str, Inner]
    several: list[Inner] = field(default_factory=list)
    anything: Any = None
    flag: bool | str = False


VALUE = {"count": 1, "rates": [1, 2.5], "inner": {"name": "a", "size": 3}, "by_name": {"b": {"name": "b"}}}


def test_round_trip_and_keys_of_a_later_version() -> None:
    record = from_json(Outer, {**VALUE, "added later": 1, "several": [{"name": "c"}]})
    assert record == Outer(1, [1, 2.5], Inner("a", 3), {"b": Inner("b")}, [Inner("c")])
    assert from_json(Outer, json.loads(json.dumps(to_json(record)))) == record
    assert "anything" not in to_json(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "count: expected an integer, found True"),
        ({"count": 1.0}, "count: expected an integer, found 1.0"),
        ({"rates": 1}, "rates: expected a list of numbers, found 1"),
        ({"rates": ["1"]}, "rates: expected a number, found '1'"),
        ({"rates": [float("nan")]}, "rates: expected a number, found nan"),
        ({"inner": []}, "inner: expected a JSON object, found []"),
        ({"inner": {"size": 1}}, "inner: missing key 'name'"),
        ({"inner": {"name": "a", "size": "1"}}, "inner: size: expected a number or null, found '1'"),
        ({"by_name": {"b": {"name": None}}}, "by_name.b: name: expected a string, found null"),
        ({"flag": 1}, "flag: expected true or false or a string, found 1"),
    ],
)
def test_the_error_names_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        from_json(Outer, VALUE | change)


@pytest.mark.parametrize("name", VALUE)
def test_a_required_field_is_absent(name: str) -> None:
    with pytest.raises(ValueError, match=f"missing key '{name}'"):
        from_json(Outer, {key: value for key, value in VALUE.items() if key != name})


@pytest.mark.parametrize("value", [None, [], 5, "text"])
def test_no_object(value: Any) -> None:
    with pytest.raises(ValueError, match="expected a JSON object"):
        from_json(Outer, value)

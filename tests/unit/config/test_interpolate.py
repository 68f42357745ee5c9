"""`${a.b}`, resolved as OmegaConf resolves it, with limits."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from cogtune.config.errors import ConfigError
from cogtune.config.interpolate import resolve
from cogtune.config.tree import from_plain

RESOLVED = [
    {"a": 1, "b": "${a}"},
    {"a": {"x": [1, {"y": 2}]}, "b": "${a}", "c": "${a.x.1.y}", "d": "${a.x[1].y}"},
    {"a": "x", "b": "${a}-${a}/y", "c": "${b}!"},
    {"a": {"b": 1, "c": "${.b}", "d": {"e": "${..b}"}}},
    {"a": "b", "b": 3, "c": "${${a}}"},
    {"a": {"x": 1}, "b": "${a}", "c": "${b.x}"},
    {"list": ["${v}", "${v}"], "v": 2.5},
]


@pytest.mark.parametrize("tree", RESOLVED)
def test_resolved_as_by_omegaconf(tree: dict[str, Any]):
    assert resolve(from_plain(tree)).plain() == OmegaConf.to_container(OmegaConf.create(tree), resolve=True)


def _doubling() -> dict[str, Any]:
    tree: dict[str, Any] = {"a0": ["x"] * 10}
    for i in range(1, 30):
        tree[f"a{i}"] = [f"${{a{i - 1}}}"] * 10
    return tree


REFUSED = {
    "environment": ({"a": "${oc.env:HOME}"}, "a: ${oc.env:HOME} is a resolver"),
    "any resolver": ({"a": "${eval:1+1}"}, "is a resolver"),
    "nothing there": ({"a": "${b.c}"}, "${b.c}: no such key"),
    "circle": ({"a": "${b}", "b": "${a}"}, "circular interpolation: a -> b -> a"),
    "itself": ({"a": {"b": "${a}"}}, "circular interpolation"),
    "open": ({"a": "${b", "b": 1}, "`${` without a closing `}`"),
    "mapping in text": ({"a": {"x": 1}, "b": "x${a}"}, "is not a scalar"),
    "doubling lists": (_doubling(), "expand it to more than"),
    "doubling text": ({"a0": "x" * 99} | {f"a{i}": f"${{a{i - 1}}}" * 9 for i in range(1, 30)}, "expand it to more"),
    "long chain": ({"a0": 1} | {f"a{i}": f"${{a{i - 1}}}" for i in reversed(range(1, 2000))}, "chained interpolations"),
}


@pytest.mark.heavy
@pytest.mark.parametrize(("tree", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(tree: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        resolve(from_plain(tree))
    assert message in str(caught.value)

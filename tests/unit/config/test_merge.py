"""Merging is OmegaConf.merge; parents come before their children; every leaf knows who set it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cogtune.config.errors import ConfigError
from cogtune.config.merge import merge, read
from cogtune.config.tree import from_plain

names = st.sampled_from("abcd")
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.sampled_from(["x", "", "???", "1"])
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(names, trees, max_size=4)


@pytest.mark.heavy
@settings(max_examples=120, deadline=None)
@given(st.lists(mappings, min_size=1, max_size=3))
def test_merge_is_omegaconf_merge(layers: Any):
    try:
        expected = OmegaConf.to_container(OmegaConf.merge(*layers))
    except (OmegaConfBaseException, TypeError):
        expected = None  # a list over a mapping
    try:
        tree = from_plain(layers[0])
        for layer in layers[1:]:
            tree = merge(tree, from_plain(layer))
        found = tree.plain()
    except ConfigError:
        found = None
    assert repr(found) == repr(expected)


def test_a_mapping_over_an_interpolation(write: Callable[..., Any]):
    first = write("model: {a: {x: 1, y: 2}, b: '${model.a}'}", "first.yaml")
    second = write("model: {b: {y: 3}}", "second.yaml")
    expected = OmegaConf.merge(OmegaConf.load(first), OmegaConf.load(second))
    assert read([first, second]).plain() == OmegaConf.to_container(expected, resolve=True)
    assert read([first], ["model.b.y=3"]).plain() == OmegaConf.to_container(expected, resolve=True)


def test_parents_are_merged_before_relative_to_the_file(write: Callable[..., Any], tmp_path: Path):
    (tmp_path / "sub").mkdir()
    write("args: {a: 1, b: 1, c: 1}", "grandparent.yaml")
    write("base: ../grandparent.yaml\nargs: {b: 2, c: 2}", "sub/parent.yaml")
    child = write("base: [sub/parent.yaml]\nargs: {c: 3}", "child.yaml")
    tree = read(child)
    assert tree.plain() == {"args": {"a": 1, "b": 2, "c": 3}}
    assert tree.value["args"].value["b"].mark.origin.endswith("sub/parent.yaml:2")


def test_a_parent_counts_once(write: Callable[..., Any]):
    """Otherwise the second mention of a common parent would undo what stands between."""
    write("args: {a: 1}", "common.yaml")
    one = write("base: common.yaml\nargs: {a: 2}", "one.yaml")
    two = write("base: common.yaml\nargs: {b: 3}", "two.yaml")
    assert read([one, two]).plain() == {"args": {"a": 2, "b": 3}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.yaml": "base: b.yaml", "b.yaml": "base: a.yaml"},
            "b.yaml:1:1: base: a.yaml includes itself",
        ),
        ({"a.yaml": "base: a.yaml"}, "includes itself"),
        ({"a.yaml": "base: missing.yaml"}, "no such file: .*missing.yaml"),
        ({"a.yaml": "base: [1]"}, "expected a file or a list of files"),
        ({"a.yaml": "base: {b: c}"}, "expected a file or a list of files"),
        ({"a.yaml": "modle: {}"}, "a.yaml:1:1: modle: unknown section; did you mean 'model'?"),
        ({"a.yaml": "lightning: {}"}, "unknown section; expected base, model, args, data, deepspeed"),
        ({"a.yaml": "args: [1]", "b.yaml": "args: {a: 1}"}, "b.yaml:1:1: a mapping here, but a list at .*a.yaml:1:1"),
    ],
)
def test_what_cannot_be_merged(files: dict[str, Any], message: str, write: Callable[..., Any]):
    paths = [write(text, name) for name, text in files.items()]
    with pytest.raises(ConfigError, match=message):
        read(paths if "base" not in files["a.yaml"] else paths[:1])


def test_all_broken_files_are_named(write: Callable[..., Any]):
    paths = [write("a: [", "a.yaml"), write("b: [", "b.yaml")]
    with pytest.raises(ConfigError, match=r"(?s)2 errors.*a\.yaml.*b\.yaml"):
        read(paths)

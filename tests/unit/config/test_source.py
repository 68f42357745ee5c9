"""YAML is read safely, and every key knows where it stands."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from cogtune.config.errors import ConfigError
from cogtune.config.yaml_source import load_tree, parse

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
HOSTILE = {
    "python object": ("a: !!python/object/apply:os.system ['true']", "tag"),
    "own tag": ("a: !thing 1", "tag"),
    "exploding aliases": (BOMB, "aliases expand"),
    "deep flow": ("a: " + "[" * 5000 + "]" * 5000, "nested deeper"),
    "deep block": ("a:\n" + "- " * 5000 + "x", "nested deeper"),
    "recursive alias": ("a: &a [*a]", "unknown anchor"),
    "duplicate key": ("a: 1\nb: 2\na: 3", "duplicate key 'a'; first at line 1"),
    "duplicate in flow": ("a: {b: 1, b: 2}", "duplicate key 'b'"),
    "two documents": ("a: 1\n---\nb: 2", "found a second"),
    "no mapping": ("- a\n- b", "expected a mapping"),
    "key is a list": ("? [a, b]\n: 1", "a key must be a string"),
    "broken": ("a: [1, 2", "invalid YAML"),
    "tab": ("a:\n\tb: 1", "invalid YAML"),
    "control character": ("a: \x07", "invalid YAML"),
    "merge of a scalar": ("a:\n  <<: 3", "`<<` needs a mapping"),
    "endless number": ("a: " + "9" * 5000, "is not a valid int"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_is_refused_quickly(text: str, message: str, write: Callable[..., Any]):
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"a\.yaml") as caught:
        load_tree(write(text))
    assert message in str(caught.value)
    assert time.process_time() - start < 1


def test_files_that_are_no_text(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\nb: \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:2:1: is not UTF-8"):
        load_tree(path)
    path.write_bytes(b"# " + b"x" * 10_000_000)
    with pytest.raises(ConfigError, match="file exceeds 1 MB"):
        load_tree(path)
    with pytest.raises(ConfigError, match="no such file"):
        load_tree(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_tree(tmp_path)


def test_empty_files_and_byte_order_marks(write: Callable[..., Any]):
    assert load_tree(write("")).plain() == {}
    assert load_tree(write("# nothing\n")).plain() == {}
    assert load_tree(write("\ufeffa: 1\n")).plain() == {"a": 1}


SCALARS = """
a: 1e-8
b: 1e8
c: 3.
d: .5
e: "1e-8"
f: yes
g: 2024-01-01
h: 1_000
i: ~
j:
k: 1,0,0
l: 0x10
m: -1
n: +.5
o: .inf
p: 'null'
q: 010
r: 1:30
s: !!str 5
t: off
u: 1e5_0
"""


def test_scalars_are_read_as_omegaconf_reads_them(write: Callable[..., Any]):
    path = write(SCALARS)
    assert repr(load_tree(path).plain()) == repr(OmegaConf.to_container(OmegaConf.load(path)))


def test_anchors_and_merge_keys(write: Callable[..., Any]):
    path = write("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: *a, y: 9}\nd:\n  <<: [*a, *b]\n  w: 5\ne: *a\n")
    assert load_tree(path).plain() == OmegaConf.to_container(OmegaConf.load(path))


def test_every_key_knows_its_place():
    tree = parse("model:\n  scale_factor: 0.7\n  list: [1, 2]\n", "m.yaml")
    model = tree.value["model"]
    assert str(model.mark) == "m.yaml:1:1"
    assert str(model.value["scale_factor"].mark) == "m.yaml:2:3"
    assert str(model.value["list"].value[1].mark) == "m.yaml:3:13"
    assert model.value["scale_factor"].mark.origin == "m.yaml:2"


def test_a_large_honest_file_loads_soon(write: Callable[..., Any]):
    path = write("".join(f"key_{i}: {{a: {i}, b: [1, 2, 3]}}\n" for i in range(3_000)))
    start = time.process_time()
    found = load_tree(path).plain()
    assert time.process_time() - start < 2
    assert len(found) == 3_000
    assert found["key_7"] == yaml.safe_load("{a: 7, b: [1, 2, 3]}")


@pytest.mark.heavy
def test_too_many_values_without_an_alias_are_not_blamed_on_aliases(tmp_path: Path):
    path = tmp_path / "many.yaml"
    path.write_text("args:\n" + "".join(f"  k{i}: 1\n" for i in range(20_001)))
    with pytest.raises(ConfigError, match="it has more than 20,000 values; is this a config"):
        load_tree(path)


def test_a_tab_is_named(tmp_path: Path):
    path = tmp_path / "tab.yaml"
    path.write_text("args:\n\tseed: 1\n")
    with pytest.raises(ConfigError, match=r"tab\.yaml:2:1: invalid YAML: tab character; indent with spaces"):
        load_tree(path)

"""The command line: what is a number, what is text, and which key is meant."""

from typing import Any

import pytest

from cogtune.config.errors import ConfigError
from cogtune.config.merge import assign
from cogtune.config.overrides import parse_overrides, typed
from cogtune.config.tree import from_plain

VALUES = {
    "10": 10,
    "-1": -1,
    "1e-8": 1e-8,
    "3.": 3.0,
    "true": True,
    "False": False,
    "null": None,
    "~": None,
    "": None,
    "[480, 720]": [480, 720],
    "[]": [],
    "[all]": ["all"],
    "['a b', 1e-3]": ["a b", 1e-3],
    "[[1, 2], [3]]": [[1, 2], [3]],
    "'10'": "10",
    '"true"': "true",
    "text": "text",
    "a b": "a b",
    "a  #b": "a  #b",
    "1 # one": "1 # one",
    "{your folder}/transformer": "{your folder}/transformer",
    "{a: 1}": "{a: 1}",
    "[{a: 1}]": "[{a: 1}]",
    "C:/weights": "C:/weights",
    "12:30": "12:30",
    "a=b": "a=b",
    "[1, 2": "[1, 2",
    "- a": "- a",
    "*anchor": "*anchor",
    "&a b": "&a b",
    "!tag x": "!tag x",
    "2024-01-01": "2024-01-01",
    "???": "???",
    "`x`; $(y)": "`x`; $(y)",
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_values(text: str, value: Any):
    node = typed(text)
    assert repr(node.plain()) == repr(value)
    assert str(node.mark) == "command line"


WORDS = {
    "args.seed=7": [("args.seed", 7)],
    "args.load=a=b={c}": [("args.load", "a=b={c}")],
    "--train-iters 10": [("args.train_iters", 10)],
    "--train_iters=10": [("args.train_iters", 10)],
    "--device -1": [("args.device", -1)],
    "--fp16": [("args.fp16", True)],
    "--fp16 false": [("args.fp16", False)],
    "--fp16 args.seed=7": [("args.fp16", True), ("args.seed", 7)],
    "--fp16 --seed 7": [("args.fp16", True), ("args.seed", 7)],
    "--train-data a b --seed 7": [("args.train_data", ["a", "b"]), ("args.seed", 7)],
    "--train-data a args.seed=7": [("args.train_data", ["a"]), ("args.seed", 7)],
    "--train-data [a,b]": [("args.train_data", ["a", "b"])],
    "--load x.pt model.scale_factor=0.7": [("args.load", "x.pt"), ("model.scale_factor", 0.7)],
}


@pytest.mark.parametrize(("words", "expected"), WORDS.items())
def test_words(words: str, expected: list[Any]):
    found = parse_overrides(words.split(" "))
    assert [(".".join(each.path), each.node.plain()) for each in found] == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("scale_factor=0.7", "did you mean model.scale_factor=…?"),
        ("optimizer.params.lr=1", "did you mean deepspeed.optimizer.params.lr=…?"),
        ("modle.scale_factor=0.7", "did you mean 'model'?"),
        ("zzz.y=1", "a key starts with model, args, data, deepspeed"),
        ("--train-itres 10", "did you mean --train-iters?"),
        ("--seed", "--seed needs a value"),
        ("seed", "expected key=value or --option value"),
        ("model..a=1", "expected key=value with a dotted key"),
    ],
)
def test_words_that_mean_nothing(word: str, message: str):
    with pytest.raises(ConfigError) as caught:
        parse_overrides(word.split(" "))
    assert message in str(caught.value)


def test_items_of_lists_are_named_by_number():
    tree = from_plain({"model": {"list": [{"a": 1}, {"a": 2}]}})
    (override,) = parse_overrides(["model.list.1.a=5"])
    assert assign(tree, override).plain() == {"model": {"list": [{"a": 1}, {"a": 5}]}}
    (override,) = parse_overrides(["model.list.2.a=5"])
    with pytest.raises(ConfigError, match=r"model\.list is a list of 2; expected an item from 0 to 1"):
        assign(tree, override)


def test_a_key_that_was_not_there():
    (override,) = parse_overrides(["args.load.experiment=demo"])
    assert assign(from_plain({"args": {"load": "x.pt"}}), override).plain() == {
        "args": {"load": {"experiment": "demo"}}
    }

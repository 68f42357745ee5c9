"""Parse overrides of the command line: `a.b.c=v`, and SAT-style `--train-iters 10`, which means `args.train_iters=10`."""

import json
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cogtune.config.errors import ConfigError, Mark
from cogtune.config.hints import Sections, all_keys
from cogtune.config.key_types import members, nearest
from cogtune.config.schema.args import ArgsSection
from cogtune.config.schema.common import fields_of
from cogtune.config.tree import Node, from_plain
from cogtune.config.yaml_source import parse_value

COMMAND_LINE = Mark("command line")
_ASSIGNMENT = re.compile(r"[A-Za-z_][\w]*(\.\w+)*=")


@dataclass(frozen=True)
class Override:
    """One key set on the command line."""

    path: tuple[str, ...]
    node: Node


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """The overrides in ``words``, in order. Raises ConfigError for a word that is not an override."""
    overrides, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            overrides.append(_option(word, rest))
        elif "=" in word:
            name, _, text = word.partition("=")
            overrides.append(Override(_path(name, word), typed(text)))
        else:
            raise ConfigError(f"{word!r}: expected key=value or --option value", mark=COMMAND_LINE)
    return overrides


def typed(text: str) -> Node:
    """A value as typed: number, true, false, null and [flow, list] as in YAML; with a brace or a colon it is a string, but a
    JSON list may have any text in its strings."""
    if text.startswith("[") and isinstance(items := _json(text), list):
        return from_plain(items, COMMAND_LINE)
    value = text if any(sign in text for sign in "{}:") else _parsed(text)
    return from_plain(value, COMMAND_LINE) if isinstance(value, list) else Node(value, COMMAND_LINE, text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parsed(text: str) -> Any:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    try:
        value = parse_value(text)
    except (yaml.YAMLError, ConfigError):
        return text
    if isinstance(value, str):
        return value if quoted else text  # YAML would fold spaces
    if isinstance(value, dict) or "#" in text or isinstance(value, list) != text.startswith("["):
        return text
    return value


def _path(name: str, word: str) -> tuple[str, ...]:
    path = tuple(name.split("."))
    sections = list(fields_of(Sections))
    if not all(path):
        raise ConfigError(f"{word!r}: expected key=value with a dotted key", mark=COMMAND_LINE)
    if path[0] not in sections:
        places = sorted({key.path for key in all_keys() if key.path.split(".")[-len(path) :] == list(path)})
        near = nearest(path[0], sections)
        if places:
            hint = f"did you mean {' or '.join(place + '=…' for place in places[:3])}?"
        else:
            hint = f"did you mean {near[0]!r}?" if near else f"a key starts with {', '.join(sections)}"
        raise ConfigError(f"unknown section; {hint}", key=name, mark=COMMAND_LINE)
    return path


def _option(word: str, rest: list[str]) -> Override:
    """``--train-iters 10``, ``--train-iters=10``, ``--fp16``, ``--train-data a b``; removes its values from ``rest``."""
    name, equals, text = word[2:].partition("=")
    key = name.replace("-", "_")
    known = fields_of(ArgsSection)
    if key not in known:
        near = nearest(key, known)
        hint = f"did you mean --{near[0].replace('_', '-')}?" if near else "options are the keys of `args`"
        raise ConfigError(f"unknown option --{name}; {hint}", mark=COMMAND_LINE)
    path, kinds = ("args", key), members(known[key].type)
    if equals:
        return Override(path, typed(text))
    values = _take(rest, many=any(typing.get_origin(kind) is list for kind in kinds))
    if bool in kinds and (not values or values[0].lower() not in ("true", "false")):
        rest[:0] = values
        return Override(path, Node(True, COMMAND_LINE))
    if not values:
        raise ConfigError(f"--{name} needs a value", mark=COMMAND_LINE)
    if any(typing.get_origin(kind) is list for kind in kinds):
        single = typed(values[0])
        return Override(
            path, single if len(values) == 1 and single.is_list else Node([typed(v) for v in values], COMMAND_LINE)
        )
    return Override(path, typed(values[0]))


def _take(rest: list[str], many: bool) -> list[str]:
    values: list[str] = []
    while rest and not rest[0].startswith("--") and not _ASSIGNMENT.match(rest[0]) and (many or not values):
        values.append(rest.pop(0))
    return values

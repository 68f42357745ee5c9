"""Check a scalar against the type of its key; containers are handled in `check.py`."""

import math
import types
import typing
from collections.abc import Iterable
from typing import Any

from cogtune.config.schema.common import Key

NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null"}


class Mismatch(Exception):  # noqa: N818  not an error by itself: another member of a union may fit
    """A value has the wrong type or range; the message says what was expected and what was found."""


def members(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself; null last."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(sorted(typing.get_args(kind), key=lambda member: member is type(None)))
    return (kind,)


def describe(kind: Any) -> str:
    """The description of a type: ``list[int] | None`` is "a list of integers or null"."""
    words = []
    for member in members(kind):
        if typing.get_origin(member) is list:
            (item,) = typing.get_args(member)
            words.append("a list of " + {int: "integers", float: "numbers", str: "strings"}.get(item, "mappings"))
        elif member == dict[str, list[str]]:
            words.append("a mapping from names to lists of strings")
        else:
            words.append(NAMES.get(member, "a mapping"))
    return " or ".join(words)


def short_repr(value: Any) -> str:
    """A value for an error message: at most 80 characters; containers by type."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def scalar(value: Any, kind: type, key: Key) -> Any:
    """``value`` as ``kind`` (int, float, str, bool or NoneType). Raises Mismatch.

    An integer is a valid float; true is not a number; 5e8 is an integer only if the key is ``whole``.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and key.whole and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not kind:
        raise Mismatch
    if kind is float and not math.isfinite(value):
        raise Mismatch
    return value


def check_bounds(value: Any, key: Key) -> None:
    """``items``, ``choices`` and ``range``. Raises Mismatch with a message."""
    if key.items and isinstance(value, list) and len(value) != key.items.count(",") + 1:
        raise Mismatch(f"expected [{key.items}]; found {len(value)} items")
    for item in value if isinstance(value, list) else [value]:
        if item is None or isinstance(item, dict):
            continue
        if key.choices and not isinstance(value, list) and value not in key.choices:
            # YAML's null reaches a key of type string as text.
            value_text = "null" if value == "null" else f"{short_repr(value)}{nearest_hint(value, key.choices)}"
            raise Mismatch(f"expected {one_of(key.choices)}; found {value_text}")
        if key.choices and isinstance(value, list) and item not in key.choices:
            raise Mismatch(f"expected a list of {', '.join(map(str, key.choices))}; found {short_repr(item)}")
        if isinstance(item, int | float) and not isinstance(item, bool) and key.range and item not in key.range:
            raise Mismatch(f"expected {key.range}, because {key.range.why}; found {short_repr(item)}")


def one_of(values: Iterable[Any]) -> str:
    """``a, b or c``."""
    words = [short_repr(value) if not isinstance(value, str) else value for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of ``known`` that ``name`` may mean, best first: typos, or else longer and shorter names."""
    return slips(name, known) or _longer(name, known)


def slips(name: str, known: Iterable[str]) -> list[str]:
    """Up to three of ``known`` that differ from ``name`` by a typo: at most one edit per four letters."""
    near = {word: count for word in known if (count := edits(name, word)) <= max(1, len(word) // 4)}
    return sorted(near, key=lambda word: near[word])[:3]


def _longer(name: str, known: Iterable[str]) -> list[str]:
    """Names that contain ``name``, or are contained in it; the shorter has at least two fifths of the longer's length."""
    lower, similar = name.lower(), []
    for word in known:
        short, long = sorted((lower, word.lower()), key=len)
        if short in long and 5 * len(short) >= 2 * len(long):
            similar.append(word)
    return sorted(similar, key=lambda word: abs(len(word) - len(name)))[:3]


def edits(one: str, other: str) -> int:
    """Edit distance: substitutions, deletions, insertions, swaps of neighbours (optimal string alignment)."""
    before, row = [], list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        last, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def nearest_hint(value: Any, known: Iterable[Any]) -> str:
    """``; did you mean 'x'?`` or nothing."""
    near = nearest(value, [word for word in known if isinstance(word, str)]) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""

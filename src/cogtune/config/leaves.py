"""Convert a nested config to its leaves, each with its path, and back."""

from collections.abc import Iterator
from typing import Any

KeyPath = tuple[str | int, ...]
"""Segments of a dotted path: names, and integers for the items of a list."""


def leaves_of(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """(path, value) of every leaf; empty mappings and lists are leaves, list items have integer segments."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves_of(inner, (*path, str(name)))
    elif isinstance(value, list) and value and any(isinstance(inner, dict | list) for inner in value):
        for index, inner in enumerate(value):
            yield from leaves_of(inner, (*path, index))
    elif path:
        yield path, value


def nest(leaves: dict[KeyPath, Any]) -> dict[str, Any]:
    """The inverse of `leaves_of`; integer segments become lists, without gaps."""
    tree: dict[str | int, Any] = {}
    for path, value in leaves.items():
        node = tree
        for segment in path[:-1]:
            node = node.setdefault(segment, {})
        node[path[-1]] = value
    return _lists(tree)


def _lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(isinstance(name, int) for name in node):
        return [_lists(node[index]) for index in sorted(node)]
    return {name: _lists(inner) for name, inner in node.items()}


def parse_path(dotted: str) -> KeyPath:
    """The segments of a dotted path; numbers are list indexes."""
    return tuple(int(part) if part.isdigit() else part for part in dotted.split("."))

"""Pairs of keys for one setting: which of the two was set where, and how to make both equal."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.check import Checker
from cogtune.config.errors import ConfigError
from cogtune.config.interpolate import lookup
from cogtune.config.overrides import COMMAND_LINE
from cogtune.config.tree import Node


def is_set(root: Node, key: str) -> bool:
    """Whether the key is set to a value other than null."""
    node = lookup(root, tuple(key.split(".")))
    return node is not None and node.value is not None


def get_at(values: dict[str, Any], key: str) -> Any:
    value: Any = values
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def set_at(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
    values[last] = value


@dataclass(frozen=True)
class Pairs:
    """The canonical ``values`` (changed in place), and the tree and origins that tell where a key was set."""

    values: dict[str, Any]
    root: Node
    checker: Checker

    def typed(self, key: str) -> bool:
        """Whether the command line sets the key."""
        node = lookup(self.root, tuple(key.split(".")))
        return node is not None and node.value is not None and node.mark == COMMAND_LINE

    def named(self, key: str) -> bool:
        """Whether the key is set to a word."""
        node = lookup(self.root, tuple(key.split(".")))
        return node is not None and isinstance(node.value, str)

    def only_typed(self, key: str, other: str) -> bool:
        """Whether the command line sets ``key`` but not ``other``, so that ``key`` decides."""
        return self.typed(key) and not self.typed(other)

    def refuse_both(self, key: str, other: str) -> bool:
        """Add an error and return True if the command line sets both keys to different values."""
        if not (self.typed(key) and self.typed(other)) or self.get(key) == self.get(other):
            return False
        message = f"{self.get(key)}, but {other} is {self.get(other)}, and both are the same setting; set only one"
        self.refuse(key, message)
        return True

    def refuse(self, key: str, message: str) -> None:
        """Add an error at a key of the command line."""
        self.checker.errors.append(ConfigError(message, key=key, mark=COMMAND_LINE))

    def get(self, key: str) -> Any:
        """The canonical value of a key; None if missing."""
        return get_at(self.values, key)

    def follow(self, key: str, value: Any, source: str) -> None:
        """Set ``key`` to ``value``, with ``source`` as its origin."""
        set_at(self.values, key, value)
        if self.checker.origin.get(source, "default") != "default":
            self.checker.origin[key] = source

    def reconcile(self, strong: str, weak: str) -> list[str]:
        """Make two keys equal; return a notice if one file's value is overridden by another's."""
        sections = [lookup(self.root, (key.split(".")[0],)) for key in (strong, weak)]
        if any(node is not None and not node.is_map for node in sections) or self.refuse_both(weak, strong):
            return []
        decided_by_weak = self.only_typed(weak, strong) or not is_set(self.root, strong)
        source, target = (weak, strong) if decided_by_weak else (strong, weak)
        value = self.get(source)
        if value is None or not isinstance(self.get(target.rpartition(".")[0]), dict):
            return []
        overruled = is_set(self.root, target) and self.get(target) != value and not self.typed(source)
        self.follow(target, value, source)
        return [f"{target}: ignored: {source} decides"] if overruled else []

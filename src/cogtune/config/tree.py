"""A config as written: nested values, each with its position in the file."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cogtune.config.errors import Mark


@dataclass(frozen=True, eq=False)
class Node:
    """One value: a dict of nodes, a list of nodes, or a scalar. Immutable, so subtrees may be shared.

    ``mark``  position of its key. ``text``  the text as typed, if it came from the command line.
    """

    value: Any
    mark: Mark = field(default_factory=lambda: Mark("default"))
    text: str | None = None

    @property
    def is_map(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, list)

    @cached_property
    def size(self) -> int:
        """Number of values in the tree; shared subtrees count once per use."""
        return 1 + sum(child.size for child in self.children())

    def children(self) -> Iterator["Node"]:
        """The nodes one level down."""
        if self.is_map:
            yield from self.value.values()
        elif self.is_list:
            yield from self.value

    def plain(self) -> Any:
        """The tree as nested dicts, lists and scalars."""
        if self.is_map:
            return {name: child.plain() for name, child in self.value.items()}
        if self.is_list:
            return [child.plain() for child in self.value]
        return self.value


def from_plain(value: Any, mark: Mark | None = None) -> Node:
    """A tree from a plain value, with ``mark`` as the position of every node."""
    mark = mark or Mark("default")
    if isinstance(value, dict):
        return Node({str(name): from_plain(inner, mark) for name, inner in value.items()}, mark)
    if isinstance(value, list | tuple):
        return Node([from_plain(inner, mark) for inner in value], mark)
    return Node(value, mark)

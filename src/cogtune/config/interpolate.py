"""`${a.b}`: the value of another key, resolved after merging. Resolvers (`${oc.env:HOME}`) are refused, unless listed."""

import re
from collections.abc import Collection
from typing import Any

from cogtune.config.errors import ConfigError
from cogtune.config.tree import Node, from_plain
from cogtune.config.yaml_source import MAX_VALUES

_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
_WHOLE = re.compile(r"^\$\{([^${}]*)\}$")
_MAX_TEXT = 10_000
RESOLVERS = ("oc.env", "oc.decode")
"""OmegaConf resolvers that config/config.yaml may allow: those that do not refer to other keys."""
_MAX_CHAIN = 200
Path = tuple[str, ...]


def lookup(root: Node, path: Path) -> Node | None:
    """The node at ``path``; list items by their number. None if there is none."""
    node = root
    for part in path:
        if node.is_map and part in node.value:
            node = node.value[part]
        elif node.is_list and part.isdecimal() and int(part) < len(node.value):
            node = node.value[int(part)]
        else:
            return None
    return node


def resolve(root: Node, resolvers: Collection[str] = ()) -> Node:
    """The tree with every `${…}` replaced; ``resolvers``: those of `RESOLVERS` that may be used.

    Raises ConfigError for what cannot be resolved, cycles, and explosions.
    """
    return _Resolver(root, resolvers).at(())


def is_interpolation(node: Node) -> bool:
    """Whether a value is to be replaced."""
    return isinstance(node.value, str) and "${" in node.value


def resolve_at(root: Node, path: Path) -> Node:
    """The resolved node at ``path``, which must be there."""
    return _Resolver(root).at(path)


class _Resolver:
    def __init__(self, root: Node, resolvers: Collection[str] = ()) -> None:
        self.root, self.resolvers = root, resolvers
        self.done: dict[Path, Node] = {}
        self.active: list[Path] = []

    def at(self, path: Path) -> Node:
        """The resolved node at ``path``, computed once."""
        if path in self.done:
            return self.done[path]
        node = lookup(self.root, path)
        assert node is not None
        if path in self.active:
            chain = " -> ".join(".".join(each) for each in [*self.active[self.active.index(path) :], path])
            raise ConfigError(f"circular interpolation: {chain}", key=".".join(path), mark=node.mark)
        if len(self.active) > _MAX_CHAIN:
            raise self._error(f"more than {_MAX_CHAIN} chained interpolations", node, path)
        self.active.append(path)
        resolved = self._resolved(node, path)
        self.active.pop()
        if resolved.size > MAX_VALUES:
            raise ConfigError(f"interpolations expand it to more than {MAX_VALUES:,} values", mark=node.mark)
        self.done[path] = resolved
        return resolved

    def _resolved(self, node: Node, path: Path) -> Node:
        if node.is_map:
            return Node({name: self.at((*path, name)) for name in node.value}, node.mark)
        if node.is_list:
            return Node([self.at((*path, str(i))) for i in range(len(node.value))], node.mark)
        if not is_interpolation(node):
            return node
        text: Any = node.value
        while (match := _INNERMOST.search(text)) is not None:
            target = self._target(match[1], node, path)
            if _WHOLE.match(text):
                return Node(target.value, node.mark)
            if target.is_map or target.is_list:
                raise self._error(f"${{{match[1]}}} is not a scalar; it cannot be part of a string", node, path)
            text = text[: match.start()] + _as_text(target.value) + text[match.end() :]
            if len(text) > _MAX_TEXT:
                raise self._error(f"interpolations expand it to more than {_MAX_TEXT:,} characters", node, path)
        if "${" in text:
            raise self._error("`${` without a closing `}`", node, path)
        return Node(text, node.mark)

    def _target(self, expression: str, node: Node, path: Path) -> Node:
        if ":" in expression:
            return self._resolver(expression, node, path)
        relative = len(expression) - len(expression.lstrip("."))
        parts = tuple(re.findall(r"[^.\[\]]+", expression))
        start = path[: max(len(path) - relative, 0)] if relative else ()
        if not parts or lookup(self.root, (*start, *parts)) is None:
            # The path may go through another interpolation.
            through = self._through(start, parts)
            if through is None:
                raise self._error(f"${{{expression}}}: no such key", node, path)
            return through
        return self.at((*start, *parts))

    def _resolver(self, expression: str, node: Node, path: Path) -> Node:
        name = expression.partition(":")[0]
        if name not in self.resolvers:
            raise self._error(
                f"${{{expression}}} is a resolver; resolvers are off by default, because merged configs are published. Write the "
                f"value itself, here or on the command line, or allow the resolver with `resolvers: [{name}]` in "
                f"config/config.yaml ({', '.join(RESOLVERS)})",
                node,
                path,
            )
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        from cogtune.config.overrides import typed

        try:
            value = OmegaConf.create({"value": f"${{{expression}}}"})["value"]
        except OmegaConfBaseException as error:
            raise self._error(f"${{{expression}}}: {str(error).splitlines()[0]}", node, path) from None
        if not isinstance(value, str):
            return from_plain(value, node.mark)
        read = typed(value)  # environment variables are strings, like the command line: parse "0.7" as a number
        return Node(read.value, node.mark, value) if not read.is_list else from_plain(read.plain(), node.mark)

    def _through(self, start: Path, parts: Path) -> Node | None:
        for cut in range(len(parts) - 1, 0, -1):
            if lookup(self.root, (*start, *parts[:cut])) is not None:
                return lookup(self.at((*start, *parts[:cut])), parts[cut:])
        return None

    def _error(self, message: str, node: Node, path: Path) -> ConfigError:
        return ConfigError(message, key=".".join(path), mark=node.mark)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)

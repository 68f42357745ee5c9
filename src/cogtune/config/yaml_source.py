"""Read a YAML file safely, with the position of every key. Only dicts, lists and scalars are constructed.

Scalars are read as OmegaConf reads them (`1e-8` is a number, dates are text). Dangerous input is refused before
it is expanded: large files, deep nesting, exponential aliases.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cogtune.config.errors import ConfigError, Mark
from cogtune.config.tree import Node

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_VALUES = 20_000
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Scalars(yaml.resolver.Resolver, yaml.constructor.SafeConstructor):
    """Text to int, float, bool, None or str, as OmegaConf's loader does it."""

    def __init__(self) -> None:
        yaml.resolver.Resolver.__init__(self)
        yaml.constructor.SafeConstructor.__init__(self)

    def tag_of(self, text: str, plain: bool) -> str:
        return self.resolve(yaml.ScalarNode, text, (plain, not plain))

    def value(self, tag: str, text: str) -> Any:
        return self.construct_object(yaml.ScalarNode(tag, text))


_Scalars.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.resolver.Resolver.yaml_implicit_resolvers.items()
}
_Scalars.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
        |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
        |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


def load_tree(path: str | os.PathLike[str]) -> Node:
    """The mapping in a YAML file, each key with its place; empty for an empty file. Raises ConfigError naming file, line,
    column."""
    return parse(_read(Path(path)), str(path))


def parse_value(text: str) -> Any:
    """One YAML scalar or flow list, plain. Raises ConfigError, or yaml.YAMLError for invalid YAML."""
    builder = _Builder(yaml.parse(text, Loader=_LOADER), "command line")
    return builder.document().plain()


def parse(text: str, file: str) -> Node:
    """The mapping in YAML ``text``; ``file`` names it in errors. Raises ConfigError."""
    try:
        tree = _Builder(yaml.parse(text, Loader=_LOADER), file).document()
    except yaml.YAMLError as error:
        raise _syntax(error, file, text) from None
    if tree.value is None:
        return Node({}, Mark(file, 1, 1))
    if not tree.is_map:
        raise ConfigError("expected a mapping of sections (model, args, data, deepspeed)", mark=tree.mark)
    return tree


def _read(path: Path) -> str:
    if not path.is_file():
        hint = "; key=value follows `--`" if "=" in str(path) else ""
        raise ConfigError(
            "is a folder, expected a YAML file" if path.is_dir() else f"no such file{hint}", mark=Mark(str(path))
        )
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", mark=Mark(str(path))) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"file exceeds {MAX_BYTES // 1_000_000} MB; is this a config?", mark=Mark(str(path)))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError("is not UTF-8 text; save it as UTF-8", mark=Mark(str(path), line, 1)) from None


def _syntax(error: yaml.YAMLError, file: str, text: str) -> ConfigError:
    place = getattr(error, "problem_mark", None)
    line = text.split("\n")[place.line] if place and place.line < text.count("\n") + 1 else ""
    if place and line[place.column : place.column + 1] == "\t":
        return ConfigError(
            "invalid YAML: tab character; indent with spaces", mark=Mark(file, place.line + 1, place.column + 1)
        )
    mark = Mark(file, place.line + 1, place.column + 1) if place else Mark(file)
    words = " ".join(part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part)
    return ConfigError(f"invalid YAML: {words or str(error).splitlines()[0]}", mark=mark)


class _Builder:
    """Events to nodes. Anchored subtrees are shared, so their size is known before anything is expanded."""

    def __init__(self, events: Iterator[Any], file: str) -> None:
        self.events, self.file = events, file
        self.scalars = _Scalars()
        self.anchors: dict[str, Node] = {}
        self.count, self.aliased = 0, False

    def document(self) -> Node:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return Node(None)
        tree = self._node(next(self.events), 0)
        next(self.events)  # the end of the document
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise ConfigError("expected one YAML document; found a second", mark=self._mark(after))
        return tree

    def _node(self, event: Any, depth: int) -> Node:
        mark = self._mark(event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise ConfigError(f"unknown anchor *{event.anchor}", mark=mark)
            self.aliased = True
            shared = self.anchors[event.anchor]
            self._grow(shared.size, mark)
            return shared
        if depth > MAX_DEPTH:
            raise ConfigError(f"nested deeper than {MAX_DEPTH} levels", mark=mark)
        if event.tag not in (None, "!", *_PLAIN_TAGS):
            raise ConfigError(f"tag {event.tag!r}; not allowed; a config holds plain values only", mark=mark)
        self._grow(1, mark)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self._scalar(event, mark), mark)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Node(list(self._items(depth)), mark)
        else:
            node = Node(self._entries(depth), mark)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any, mark: Mark) -> Any:
        tag = event.tag if event.tag in _PLAIN_TAGS else self.scalars.tag_of(event.value, event.implicit[0])
        try:
            return self.scalars.value(tag, event.value)
        except (ValueError, yaml.YAMLError):
            raise ConfigError(f"{event.value[:40]!r} is not a valid {tag.rpartition(':')[2]}", mark=mark) from None

    def _items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self._node(event, depth + 1)

    def _entries(self, depth: int) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            mark = self._mark(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise ConfigError("a key must be a string", mark=mark)
            tag = self.scalars.tag_of(event.value, event.implicit[0])
            value = self._node(next(self.events), depth + 1)
            if tag == _MERGE:
                merged = self._merged(value, mark) | merged
                continue
            if event.value in own:
                raise ConfigError(
                    f"duplicate key {event.value!r}; first at line {own[event.value].mark.line}", mark=mark
                )
            own[event.value] = Node(value.value, mark)
        return {name: node for name, node in merged.items() if name not in own} | own

    def _merged(self, node: Node, mark: Mark) -> dict[str, Node]:
        """The entries that `<<: *anchor` brings in; the first of several mappings wins."""
        entries: dict[str, Node] = {}
        for each in reversed(node.value if node.is_list else [node]):
            if not each.is_map:
                raise ConfigError("`<<` needs a mapping, or a list of mappings", mark=mark)
            entries |= each.value
        return entries

    def _grow(self, by: int, mark: Mark) -> None:
        self.count += by
        if self.count > MAX_VALUES:
            cause = "its aliases expand to" if self.aliased else "it has"
            raise ConfigError(f"{cause} more than {MAX_VALUES:,} values; is this a config?", mark=mark)

    def _mark(self, event: Any) -> Mark:
        return Mark(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

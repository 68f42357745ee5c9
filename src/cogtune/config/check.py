"""Check a tree against the schema: collect every error and compute the canonical values.

Canonical: our target names for upstream's, every default filled in, numbers of the declared type. Keys without effect
and keys that allow one value only are checked, then left out: no digest depends on them.
"""

import typing
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from cogtune.config import registry
from cogtune.config.errors import ConfigError
from cogtune.config.hints import where_key_exists, with_stars
from cogtune.config.key_types import Mismatch, check_bounds, describe, members, nearest, scalar, short_repr, slips
from cogtune.config.schema.common import Field, Key, OmitNulls, fields_of, with_article
from cogtune.config.schema.deepspeed import REFUSED, DeepSpeedSection, Optimizer
from cogtune.config.schema.text import EmbedderKeys
from cogtune.config.tree import Node, from_plain
from cogtune.config.valid_data import check_set_name

_OMIT = object()
_COMPONENT = ("target", "params")
_LISTED = 16
"""An error lists the valid keys if there are at most this many."""
_BESIDE_TARGET = {"embedder": EmbedderKeys}


@dataclass
class FileKey:
    """A path in a config, as written."""

    path: str
    value: str
    node: Node
    folder: str = ""
    """What the folder must contain, if the path must be a folder."""


@dataclass
class Checker:
    """Walks a tree; collects errors, origins, files and ignored keys."""

    errors: list[ConfigError] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)
    files: list[FileKey] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> paths of the keys that are set and have no effect."""
    unsupported: list[str] = field(default_factory=list)
    """Requests that cogtune does not carry out, one sentence each."""

    def section(self, node: Node | None, schema: type, path: str) -> dict[str, Any]:
        """The canonical dict of a mapping that must follow ``schema``."""
        if node is not None and not node.is_map:
            self._error(node, path, f"expected a mapping; found {short_repr(node.plain())}")
            return {}
        children: dict[str, Node] = {} if node is None else node.value
        known = fields_of(schema)
        suggested = self._unknown(children, set(known), path, REFUSED if schema is DeepSpeedSection else {})
        values = {}
        for name, declared in known.items():
            key_path = f"{path}.{name}" if path else name
            if name in children:
                value = self._key_value(children[name], declared, key_path)
            elif declared.required:
                if name not in suggested:
                    self._error(node, key_path, f"missing; {declared.key.doc}")
                continue
            else:
                value = self._default(declared, key_path)
            if value is _OMIT or (issubclass(schema, OmitNulls) and value in (None, {})):
                continue
            values[name] = value
        if schema is Optimizer:
            self._optimizer(children, values, path)
        return values

    def component(self, node: Node, role: str, path: str) -> dict[str, Any] | None:
        """The canonical form of a ``{target, params}`` mapping; None after an error."""
        if not node.is_map:
            self._error(node, path, f"expected a mapping with `target` and `params`; found {short_repr(node.plain())}")
            return None
        extra = _BESIDE_TARGET.get(role)
        beside = fields_of(extra) if extra else {}
        self._unknown(node.value, {*_COMPONENT, *beside}, path, {})
        target = node.value.get("target")
        if target is None or not isinstance(target.value, str):
            expected = " or ".join(registry.names(role))
            self._error(
                target or node,
                f"{path}.target",
                f"expected the name of {with_article(role or 'component')}: {expected}",
            )
            return None
        try:
            entry = registry.find(target.value, role)
        except ConfigError as error:
            self._error(target, f"{path}.target", error.message)
            return None
        self._leaf(f"{path}.target", target)
        params = node.value.get("params")
        params = None if params is not None and params.value is None else params
        canonical = {
            "target": entry.name,
            "params": self.section(params or Node({}, node.mark), entry.schema, f"{path}.params"),
        }
        if extra:
            own = {name: child for name, child in node.value.items() if name not in _COMPONENT}
            canonical |= self.section(Node(own, node.mark), extra, path) if own.keys() <= beside.keys() else {}
        return canonical

    def _key_value(self, node: Node, declared: Field, path: str) -> Any:
        key = declared.key
        try:
            value = self._value(node, declared.type, key, path)
            if not (isinstance(value, dict) or value is _OMIT):
                check_bounds(value, key)
        except Mismatch as error:
            self._error(node, path, self._mismatch(node, key, str(error)))
            return _OMIT
        if key.refused and value != declared.default():
            self._error(node, path, f"{short_repr(node.plain())} is not available: {key.refused}")
        if key.request and value != declared.default():
            self.unsupported.append(f"{path}: {short_repr(node.plain())}, but {key.without_effect}; {key.request}")
        elif key.without_effect:
            self.ignored.setdefault(key.without_effect, []).append(path)
            self._unused_plugin(node, key.node, path)
        if not key.has_effect:
            return _OMIT
        return value if key.canonical is None else key.canonical(value)

    def _unused_plugin(self, node: Node, role: str, path: str) -> None:
        """An error for a plugin class in a place where upstream's targets are accepted and ignored."""
        target = node.value.get("target") if role and node.is_map else None
        if target is not None and isinstance(target.value, str):
            try:
                registry.refuse_plugin(target.value, role)
            except ConfigError as error:
                self._error(target, f"{path}.target", error.message)

    def _mismatch(self, node: Node, key: Key, message: str) -> str:
        if key.refused:
            return f"{short_repr(node.plain())} is not available: {key.refused}"
        if node.value == "auto":
            return f"{message}; `auto` is supported by accelerate only; leave the key out: {key.doc}"
        return message

    def _default(self, declared: Field, path: str) -> Any:
        if not declared.key.has_effect:
            return _OMIT
        return self._value(from_plain(_undressed(declared.default())), declared.type, declared.key, path)

    def _value(self, node: Node, kind: Any, key: Key, path: str) -> Any:
        """The canonical value of any key. Raises Mismatch; errors further down are collected instead."""
        if node.value is None and type(None) in members(kind):
            self._leaf(path, node)
            return None
        if kind is Any and not node.is_map:
            self._leaf(path, node)
            return node.plain()
        if node.is_map:
            if key.keys is not None:
                return self.section(node, key.keys, path)
            if (
                key.node
                and not key.without_effect
                and any(typing.get_origin(member) is dict for member in members(kind))
            ):
                return self.component(node, key.node, path)
            for member in members(kind):
                if is_dataclass(member):
                    return self.section(node, typing.cast(type, member), path)
                if member == dict[str, list[str]]:
                    return self._folders_by_set(node, key, path)
                if member is Any or typing.get_origin(member) is dict:
                    return self._plugged(node, path) if key == Key(key.doc) else node.plain()
        if node.is_list:
            for member in members(kind):
                if typing.get_origin(member) is list:
                    return self._list(node, typing.get_args(member)[0], key, path)
        if not node.is_map and not node.is_list:
            return self._scalar(node, kind, key, path)
        raise Mismatch(f"expected {describe(kind)}; found {short_repr(node.plain())}")

    def _folders_by_set(self, node: Node, key: Key, path: str) -> dict[str, list[Any]]:
        values: dict[str, list[Any]] = {}
        for name, child in node.value.items():
            check_set_name(name)
            if not child.is_list or not child.value:
                raise Mismatch(
                    f"expected a list of folders for {name}; found {short_repr(child.plain()) if not child.is_list else 'an empty list'}"
                )
            values[name] = self._list(child, str, key, f"{path}.{name}")
        return values

    def _plugged(self, node: Node, path: str) -> Any:
        """A mapping in a plugin's params: a component if it names a target, else as written."""
        return self.component(node, "", path) if "target" in node.value else node.plain()

    def _list(self, node: Node, item: Any, key: Key, path: str) -> list[Any]:
        if key.node:
            components = [self.component(child, key.node, f"{path}.{i}") for i, child in enumerate(node.value)]
            return [each for each in components if each is not None]
        values = []
        for i, child in enumerate(node.value):
            value = "null" if child.value is None and "null" in key.choices else child.value
            try:
                values.append(scalar(value, item, key))
            except Mismatch:
                raise Mismatch(f"expected {describe(list[item])}; item {i} is {short_repr(child.plain())}") from None
            if key.file and value == "":
                raise Mismatch(f"expected a list of paths; item {i} is empty, which would mean the current directory")
            if key.file:
                self.files.append(FileKey(f"{path}.{i}", str(child.value), child, key.folder))
        self._leaf(path, node)
        return values

    def _scalar(self, node: Node, kind: Any, key: Key, path: str) -> Any:
        for member in members(kind):
            if not isinstance(member, type):
                continue
            # A value typed on the command line is also a string: `args.split=1` is "1".
            for candidate in (node.value, node.text) if member is str else (node.value,):
                try:
                    value = scalar(candidate, member, key)
                except Mismatch:
                    continue
                self._leaf(path, node)
                if key.file and value == "":
                    raise Mismatch("expected a path; found an empty string, which would mean the current directory")
                if key.file and isinstance(value, str):
                    self.files.append(FileKey(path, value, node, key.folder))
                return value
        raise Mismatch(f"expected {describe(kind)}; found {short_repr(node.value)}")

    def _optimizer(self, children: dict[str, Node], values: dict[str, Any], path: str) -> None:
        """`{type, params}`: as a component, but spelled `type`."""
        kind = children.get("type", from_plain("AdamW"))
        named, entry = values.get("type"), None
        try:
            entry = registry.find(named, "optimizer") if isinstance(named, str) else None
        except ConfigError as error:
            self._error(kind, f"{path}.type", error.message)
        if entry is None:
            values.pop("type", None)  # later checks must not look up a type that has no class
            return
        values["type"] = entry.name
        values["params"] = self.section(children.get("params", Node({}, kind.mark)), entry.schema, f"{path}.params")

    def _unknown(self, children: dict[str, Node], known: set[str], path: str, refused: dict[str, str]) -> set[str]:
        """Errors for keys that the schema does not have; returns the names that were suggested instead."""
        suggested: set[str] = set()
        for name, child in children.items():
            key_path = f"{path}.{name}" if path else name
            if name in known:
                continue
            if name in refused:
                self._error(child, key_path, refused[name])
                continue
            near = nearest(name, known)
            suggested.update(near)
            self._error(child, key_path, f"unknown key; {self._hint(name, near, known, path)}")
        return suggested

    def _hint(self, name: str, near: list[str], known: set[str], path: str) -> str:
        place = "" if slips(name, known) else where_key_exists(name, path)
        if place:
            return place
        if near:
            return "did you mean " + " or ".join(map(repr, near)) + "?"
        if len(known) <= _LISTED:
            return f"expected one of {', '.join(sorted(known))}" if known else "no keys are allowed here"
        return f"run `cogtune config explain {with_stars(path)}` for the {len(known)} valid keys"

    def _leaf(self, path: str, node: Node) -> None:
        self.origin[path] = node.mark.origin

    def _error(self, node: Node | None, path: str, message: str) -> None:
        mark = node.mark if node is not None and node.mark.file != "default" else None
        self.errors.append(ConfigError(message, key=path, mark=mark))


def _undressed(value: Any) -> Any:
    """A default as plain values: an instance of a schema becomes an empty mapping."""
    return {} if is_dataclass(value) else value

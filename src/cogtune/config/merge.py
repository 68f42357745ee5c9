"""Merge config files, their parents and the command line into one checked config (`work.load.load_config` does all steps)."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogtune.config.check import Checker
from cogtune.config.cross_checks import cross_check
from cogtune.config.errors import ConfigError, ConfigErrors, Mark
from cogtune.config.hints import Sections
from cogtune.config.interpolate import is_interpolation, lookup, resolve, resolve_at
from cogtune.config.key_types import nearest
from cogtune.config.leaves import leaves_of, nest, parse_path
from cogtune.config.overrides import Override, parse_overrides
from cogtune.config.paths import DATA, check_paths, no_advice
from cogtune.config.reconcile import reconcile
from cogtune.config.schema.common import fields_of
from cogtune.config.tree import Node
from cogtune.config.yaml_source import load_tree

MISSING = "???"
"""OmegaConf's marker for a value that another file must set; it never overrides a value."""


class View(dict[str, Any]):
    """A dict whose keys are attributes too: ``config.model.network_config``."""

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            raise AttributeError(f"no key {name!r} in this part of the config") from None
        return View(value) if isinstance(value, dict) else value


@dataclass(frozen=True)
class Config:
    """A merged, checked config.

    ``values``   model, data, args, deepspeed in canonical form: our target names, defaults filled in, types as declared.
    ``raw``      the same sections as written.
    ``origin``   dotted leaf path -> "file:line", "command line", "default", or the key that decided it.
    ``files``    dotted path -> absolute path, for every key that names a file or folder.
    ``notices``  messages for the user, each shown once.
    ``missing``  dotted path -> path as written, of files that do not exist and need not (see `check`).
    ``pinned``   absolute path -> sha256, of the local copies of `hf://…`, whose paths replace it in ``values``, and of
                 published models that `cogtune weights get` downloaded.
    """

    values: dict[str, Any]
    raw: dict[str, Any]
    origin: dict[str, str]
    files: dict[str, str]
    notices: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict[str, str])
    pinned: dict[str, str] = field(default_factory=dict[str, str])

    def origin_of(self, path: str) -> str:
        """The origin of the key at dotted ``path``; for a mapping, of its first key."""
        if path in self.origin:
            return self.origin[path]
        inside = (origin for leaf, origin in self.origin.items() if leaf.startswith(f"{path}."))
        return next(inside, "default")

    def __getattr__(self, name: str) -> View:
        values = self.__dict__.get("values", {})
        if name in fields_of(Sections) and name in values:
            return View(values[name])
        raise AttributeError(f"the config has no section {name!r}")


_ABSENT = {
    "model": "section missing; add a model file to --base, like config/cogvideox_2b.yaml",
    "data": "section missing; expected `target: data_video.SFTDataset` with its params, as in config/sft.yaml",
}


def check(
    root: Node,
    check_files: bool = True,
    partial: bool = False,
    may_miss: Collection[str] = (),
    advice: Callable[[str], str] = no_advice,
) -> Config:
    """A merged tree as a config. ``may_miss``: kinds of files (`config.paths`) that need not exist. ``advice``: what to do
    about a missing file. Raises ConfigErrors."""
    checker = Checker()
    values: dict[str, Any] = {}
    for name, declared in fields_of(Sections).items():
        node = root.value.get(name)
        if name == "data" and node is not None:
            values[name] = checker.component(node, "dataset", name) or {}
        elif node is not None or name not in _ABSENT:
            values[name] = checker.section(node, declared.type, name)
    notices = [f"not supported: {text}" for text in checker.unsupported]
    notices += [_ignored(reason, keys) for reason, keys in checker.ignored.items()]
    notices += reconcile(values, root, checker)
    problems, remarks = cross_check(values)
    errors = list(checker.errors)
    errors += [ConfigError(text, key=key) for key, text in _ABSENT.items() if key not in values and not partial]
    needs_data = check_files and not partial and DATA not in may_miss
    if needs_data and "data" in values and values["args"].get("mode") != "inference":
        errors += _without_data(values["args"], root)
    for key, message in problems:
        written_key = _written_key(key, checker.origin)
        errors.append(ConfigError(message, key=written_key, mark=mark_of(root, written_key)))
    checked = check_paths(checker.files, check_files, may_miss, advice)
    errors += checked.errors
    if errors:
        raise ConfigErrors(sorted(errors, key=order_of))
    raw = {name: node.plain() for name, node in root.value.items()}
    origin = _leaves_only(checker.origin, values)
    if checked.copies:
        values = nest(dict(leaves_of(values)) | {parse_path(key): copy.path for key, copy in checked.copies.items()})
    return Config(values, raw, origin, checked.files, notices + remarks, checked.missing, checked.pinned)


def read(
    paths: Iterable[str | Path] | str | Path, overrides: Sequence[str] = (), resolvers: Collection[str] = ()
) -> Node:
    """The merged tree as written, parents and command line included, interpolations resolved. Raises ConfigErrors."""
    wanted = [paths] if isinstance(paths, str | Path) else list(paths)
    errors: list[ConfigError] = []
    root = Node({}, Mark("default"))
    loaded: set[Path] = set()
    for path in wanted:
        try:
            for tree in _with_parents(Path(path), loaded, ()):
                _refuse_sections(tree, errors)
                root = merge(root, tree)
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise ConfigErrors(errors)
    try:
        for override in parse_overrides(overrides):
            root = assign(root, override)
        return resolve(root, resolvers)
    except ConfigError as error:
        raise ConfigErrors([error]) from None


def _with_parents(path: Path, loaded: set[Path], line: tuple[Path, ...]) -> Iterable[Node]:
    """The trees of a file's parents, then its own, without `base`. A parent that was merged before is not merged again."""
    real = path.resolve()
    tree = load_tree(path)
    base = tree.value.get("base")
    for parent, node in _parents(base):
        place = path.parent / parent
        if place.resolve() in (*line, real):
            raise ConfigError(f"{parent} includes itself (circular base)", key="base", mark=node.mark)
        if place.resolve() in loaded:
            continue
        if not place.is_file():
            raise ConfigError(
                f"no such file: {place} (parents are relative to the file that names them)", key="base", mark=node.mark
            )
        yield from _with_parents(place, loaded, (*line, real))
    loaded.add(real)
    yield Node({name: child for name, child in tree.value.items() if name != "base"}, tree.mark)


def _parents(base: Node | None) -> list[tuple[str, Node]]:
    if base is None or base.value is None:
        return []
    nodes = base.value if base.is_list else [base]
    for node in nodes:
        if not isinstance(node.value, str):
            raise ConfigError("expected a file or a list of files", key="base", mark=node.mark)
    return [(node.value, node) for node in nodes]


def _refuse_sections(tree: Node, errors: list[ConfigError]) -> None:
    known = ["base", *fields_of(Sections)]
    for name, node in tree.value.items():
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
            errors.append(ConfigError(f"unknown section; {hint}", key=name, mark=node.mark))


def merge(below: Node, above: Node) -> Node:
    """``above`` over ``below``, as OmegaConf.merge does it: mappings by key, everything else replaced, lists whole.

    A mapping over `${key}` goes over a copy of what that key holds in ``below``. Raises ConfigError where a mapping
    meets a list.
    """
    return _merge(below, above, below, ())


def _merge(below: Node, above: Node, root: Node, path: tuple[str, ...]) -> Node:
    if above.value == MISSING:
        return below
    if above.is_map and is_interpolation(below):
        below = resolve_at(root, path)
    if below.is_map and above.is_map:
        merged = dict(below.value)
        for name, node in above.value.items():
            merged[name] = _merge(merged[name], node, root, (*path, name)) if name in merged else node
        return Node(merged, above.mark)
    if (below.is_list and above.is_map) or (below.is_map and above.is_list):
        raise ConfigError(f"a {_kind(above)} here, but a {_kind(below)} at {below.mark}", mark=above.mark)
    return above


def _kind(node: Node) -> str:
    return "list" if node.is_list else "mapping"


def assign(root: Node, override: Override) -> Node:
    """The tree with one key set; list items are named by their number. Raises ConfigError for an item that is not there."""
    return _assign(root, override.path, override, root)


def _assign(node: Node, rest: tuple[str, ...], override: Override, root: Node) -> Node:
    if not rest:
        return override.node
    name, done = rest[0], override.path[: len(override.path) - len(rest)]
    if is_interpolation(node):
        node = resolve_at(root, done)
    if node.is_list:
        if not name.isdecimal() or int(name) >= len(node.value):
            message = (
                f"{'.'.join(done)} is a list of {len(node.value)}; expected an item from 0 to {len(node.value) - 1}"
            )
            raise ConfigError(message, key=".".join(override.path), mark=override.node.mark)
        items = list(node.value)
        items[int(name)] = _assign(items[int(name)], rest[1:], override, root)
        return Node(items, node.mark)
    entries = dict(node.value) if node.is_map else {}
    below = entries.get(name, Node(None, override.node.mark))
    entries[name] = _assign(below, rest[1:], override, root)
    return Node(entries, node.mark if node.is_map else override.node.mark)


def _without_data(args: dict[str, Any], root: Node) -> list[ConfigError]:
    """An error where there is nothing to train on. A list that is wrong is not among ``args``, and has its own error."""
    key = "args.train_data"
    if "train_data" not in args or args["train_data"]:
        return []
    return [
        ConfigError("not set; expected a list of folders with videos/ and labels/", key=key, mark=mark_of(root, key))
    ]


def _ignored(reason: str, keys: list[str]) -> str:
    parts = [key.split(".") for key in keys]
    short = dict.fromkeys(".".join(part) if len(part) < 3 else f"{part[0]}.….{part[-1]}" for part in parts)
    return f"{', '.join(short)}: ignored: {reason}"


def _written_key(key: str, origin: dict[str, str]) -> str:
    """The key that the user wrote, where another one follows it."""
    source = origin.get(key, "")
    return source if source.split(".")[0] in fields_of(Sections) else key


def mark_of(root: Node, key: str) -> Mark | None:
    """The position of a key, or of the closest mapping around it."""
    parts = tuple(key.split("."))
    for cut in range(len(parts), 0, -1):
        node = lookup(root, parts[:cut])
        if node is not None:
            return node.mark if node.mark.file != "default" else None
    return None


def order_of(error: ConfigError) -> tuple[bool, str, int, int]:
    mark = error.mark or Mark("")
    return not mark.line, mark.file, mark.line, mark.column


def _leaves_only(origin: dict[str, str], values: dict[str, Any]) -> dict[str, str]:
    """Origins of the leaves of ``values``, in their order."""
    known = {}
    for path, _ in leaves_of(values):
        dotted = ".".join(map(str, path))
        known[dotted] = origin.get(dotted, "default")
    return known

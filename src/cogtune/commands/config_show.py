"""Views of a config: merged YAML with the source of each value, differences, the description of a key."""

import json
from typing import Any

from cogtune.config.annotate import annotated, flow
from cogtune.config.errors import ConfigError
from cogtune.config.hints import Declared, all_keys
from cogtune.config.key_types import describe, nearest
from cogtune.config.leaves import leaves_of, nest
from cogtune.config.merge import Config
from cogtune.config.registry import find
from cogtune.work.slices import how_read
from cogtune.work.stages import STAGES, stages_of


def as_yaml(config: Config, stage: str | None = None) -> str:
    """The canonical config as YAML, each leaf with its source; with ``stage``, only the keys that the stage reads."""
    return annotated(_part(config.values, stage), config)


def as_json(config: Config, stage: str | None = None) -> str:
    """The merged values as written; with ``stage``, the canonical values that the stage reads."""
    return json.dumps(config.raw if stage is None else _part(config.values, stage), indent=2, ensure_ascii=False) + "\n"


def _part(values: dict[str, Any], stage: str | None) -> dict[str, Any]:
    if stage is None:
        return values
    read = stages_of(values).get(stage)
    if read is None:
        return {}
    kept = {path: value for path, value in leaves_of(values) if how_read(read, ".".join(map(str, path)))}
    return nest(kept)


def diff(before: Config, after: Config) -> list[str]:
    """One line per differing key: `key: old → new (source of the new value)`."""
    old, new = dict(leaves_of(before.values)), dict(leaves_of(after.values))
    lines = []
    for path in old | new:
        if old.get(path) == new.get(path) and (path in old) == (path in new):
            continue
        dotted = ".".join(map(str, path))
        was = flow(old[path]) if path in old else "(absent)"
        now = flow(new[path]) if path in new else "(absent)"
        lines.append(f"{dotted}: {was} → {now} ({after.origin_of(dotted)})")
    return lines


def explain(key: str) -> str:
    """Meaning, type, unit, default and readers of a key, for every place where it may be set.

    ``key`` is a name, or the end of a dotted path. Raises ConfigError with similar names for an unknown key.
    """
    parts = ["*" if part.isdecimal() else part for part in key.split(".")]
    matches = [declared for declared in all_keys() if declared.path.split(".")[-len(parts) :] == parts]
    exact = [declared for declared in matches if declared.path.split(".") == parts]
    if not matches and (below := _keys_below(key)):
        return f"{key}\n  keys           {', '.join(below)}"
    if not matches:
        known = {declared.path.rpartition(".")[2] for declared in all_keys()}
        near = nearest(parts[-1], known)
        hint = f"did you mean {' or '.join(near)}?" if near else "see config/README.md for all keys"
        raise ConfigError(f"unknown key; {hint}", key=key)
    return "\n\n".join(_explained(declared) for declared in _unique(exact or matches))


def _unique(matches: list[Declared]) -> list[Declared]:
    """Components of the same role share keys: list each key once per place."""
    seen: dict[tuple[str, str], Declared] = {}
    for declared in matches:
        seen.setdefault((declared.path, declared.field.key.doc), declared)
    return list(seen.values())


def _explained(declared: Declared) -> str:
    field, key = declared.field, declared.field.key
    rows = {
        "meaning": key.doc,
        "type": " or ".join(declared.components) if declared.components else describe(field.type),
        "unit": key.unit,
        "default": "none (required)" if field.required else default_text(declared),
        "expected": bounds(declared),
        "keys": ", ".join(_keys_below(declared.path)),
        "read by": readers(declared.path) if key.has_effect else "",
        "ignored": key.without_effect,
        "other values": key.refused and f"not available: {key.refused}",
        "upstream": upstream(declared),
    }
    return "\n".join([declared.path, *(f"  {name:<15}{text}" for name, text in rows.items() if text)])


def _keys_below(path: str) -> list[str]:
    split = [declared.path.rpartition(".") for declared in all_keys()]
    return list(dict.fromkeys(name for parent, _, name in split if parent == path))


def default_text(declared: Declared) -> str:
    """A key's default as YAML."""
    value = declared.field.default()
    if hasattr(value, "__dataclass_fields__"):
        return "see its keys"
    if isinstance(value, dict) and "target" in value:
        return value["target"]
    return flow(value)


def bounds(declared: Declared) -> str:
    """Choices and limits as text."""
    key = declared.field.key
    words = [f"[{key.items}]"] if key.items else []
    words += [", ".join(flow(choice) for choice in key.choices)] if key.choices else []
    words += [f"{key.range}, because {key.range.why}"] if key.range else []
    return ", ".join(words)


def readers(path: str) -> str:
    """The stages that read a key; in brackets those whose results do not depend on it."""
    words = []
    for stage in STAGES.values():
        kind = how_read(stage, path)
        if kind and not stage.publishes:
            words.append(stage.name if kind == "keys" else f"({stage.name})")
    return ", ".join(words) or "report"


def upstream(declared: Declared) -> str:
    """Upstream's name of a key or component."""
    if "(ours)" in declared.field.key.doc:
        return "none"
    aliases = [alias for name in declared.components for alias in find(name).aliases[:1]]
    return ", ".join(aliases) if aliases else "the same name"

"""A config as YAML, with the source of each value."""

from collections.abc import Iterator
from typing import Any

import yaml

from cogtune.config.merge import Config

_COLUMN = 64
"""Column where comments start."""


def annotated(values: dict[str, Any], config: Config) -> str:
    """``values``, canonical ones of ``config`` or a part of them, as YAML; each leaf with its origin as a comment."""
    return "\n".join(_lines(values, "", 0, config)) + "\n"


def _lines(value: Any, path: str, depth: int, config: Config) -> Iterator[str]:
    """YAML lines, indented by two spaces per level."""
    pad = "  " * depth
    for name, inner in value.items():
        key_path = f"{path}.{name}" if path else name
        if isinstance(inner, dict) and inner:
            yield f"{pad}{name}:"
            yield from _lines(inner, key_path, depth + 1, config)
        elif isinstance(inner, list) and any(isinstance(item, dict) for item in inner):
            yield f"{pad}{name}:"
            for i, item in enumerate(inner):
                first, *rest = _lines(item, f"{key_path}.{i}", depth + 2, config)
                yield f"{pad}  - {first.lstrip()}"
                yield from rest
        else:
            yield f"{f'{pad}{name}: {flow(inner)}':<{_COLUMN}}  # {config.origin_of(key_path)}"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")

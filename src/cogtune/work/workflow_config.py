"""Read config/config.yaml and Snakemake's ``--config``, checked against one schema."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cogtune.config.check import Checker
from cogtune.config.errors import ConfigError, ConfigErrors, Mark
from cogtune.config.schema.workflow import CommandLineSection, WorkflowSection
from cogtune.config.tree import Node, from_plain
from cogtune.config.yaml_source import load_tree
from cogtune.runtime.paths import check_name, shown

COMMAND_LINE = Mark("--config")
_ONE_OFF = ("run", "base", "set")


def workflow_values(path: str | Path | None, command_line: Mapping[str, Any]) -> dict[str, Any]:
    """Every key of `CommandLineSection` with its value: ``command_line`` (``--config``) over the file, if any, over defaults.

    ``base`` and ``set`` are lists of words; ``run`` is None without a one-off experiment. Raises ConfigErrors with every
    unknown key and every value of a wrong type, in the file and in ``command_line``.
    """
    checker = Checker()
    values = checker.section(load_tree(path) if path else Node({}, COMMAND_LINE), WorkflowSection, "")
    typed = {str(name): _node(value) for name, value in command_line.items()}
    given = checker.section(Node(typed, COMMAND_LINE), CommandLineSection, "")
    if not checker.errors and given["run"] is None and (stray := [name for name in ("base", "set") if name in typed]):
        message = 'needs a name for the one-off experiment: run=NAME base="a.yaml b.yaml" set="key=value"'
        checker.errors.append(ConfigError(message, key=stray[0], mark=COMMAND_LINE))
    if not checker.errors and given["run"] is not None and not _words(given["base"]):
        message = f'{given["run"]!r} needs config files: run={given["run"]} base="a.yaml b.yaml"'
        checker.errors.append(ConfigError(message, key="run", mark=COMMAND_LINE))
    if checker.errors:
        raise ConfigErrors(checker.errors)
    _check_names(values, path or "--config")
    own = {name: value for name, value in given.items() if name in typed or name in _ONE_OFF}
    merged: dict[str, Any] = values | own | {name: _words(given[name]) for name in ("base", "set")}
    return merged | {name: _folder(name, merged[name], path or "--config") for name in ("store_dir", "results_dir")}


def _folder(key: str, written: str, path: str | Path) -> str:
    """A folder that jobs write to; `~` is the home folder. Raises ConfigError for an unusable path: braces are wildcards of
    Snakemake, and a leading `-` looks like an option."""
    folder = os.path.expanduser(written)
    if set("{}") & set(folder) or any(ord(letter) < 32 for letter in folder) or folder.startswith("-"):
        raise ConfigError(
            f"{path}: {key}: {shown(written)}: not a valid path for Snakemake; expected a path without '{{', '}}' and "
            f"control characters that does not start with '-'"
        )
    existing = next(place for place in (Path(folder), *Path(folder).parents) if place.exists())
    if not existing.is_dir():
        raise ConfigError(
            f"{path}: {key}: {shown(written)}: {existing} is not a folder; expected a folder, or a path that does not "
            "exist yet"
        )
    return folder


def _check_names(values: Mapping[str, Any], path: str | Path) -> None:
    """Check names, which become folders. Raises ConfigError for an invalid name."""
    for key in ("experiments", "sweep"):
        declared: dict[str, Any] = values[key] or {}
        for name in declared:
            if problem := check_name(name):
                raise ConfigError(f"{path}: {key}: {shown(name)}: {problem}")


def _node(value: Any) -> Node:
    """Snakemake parses values as YAML, so `run=7` is a number; keep the text as typed too."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return Node(value, COMMAND_LINE, str(value)) if is_integer else from_plain(value, COMMAND_LINE)


def _words(value: str | list[str] | None) -> list[str]:
    return value.split() if isinstance(value, str) else list(value or [])

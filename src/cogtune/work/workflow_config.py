"""What config/config.yaml and Snakemake's ``--config`` say, checked against one schema."""

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


def workflow_values(path: str | Path | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Every key of `CommandLineSection` with its value: ``asked`` (``--config``) over the file, if any, over defaults.

    ``run``, ``base`` and ``set`` are lists of words, and None where no one-off experiment is asked for. Raises ConfigErrors
    with every unknown key and every value of another type, in the file and in ``asked``.
    """
    checker = Checker()
    values = checker.section(load_tree(path) if path else Node({}, COMMAND_LINE), WorkflowSection, "")
    typed = {str(name): _node(value) for name, value in asked.items()}
    given = checker.section(Node(typed, COMMAND_LINE), CommandLineSection, "")
    if not checker.errors and given["run"] is None and (stray := [name for name in ("base", "set") if name in typed]):
        message = 'describes a one-off experiment; name it: run=NAME base="a.yaml b.yaml" set="key=value"'
        checker.errors.append(ConfigError(message, key=stray[0], mark=COMMAND_LINE))
    if not checker.errors and given["run"] is not None and not _words(given["base"]):
        message = f'{given["run"]!r} needs its files: run={given["run"]} base="a.yaml b.yaml"'
        checker.errors.append(ConfigError(message, key="run", mark=COMMAND_LINE))
    if checker.errors:
        raise ConfigErrors(checker.errors)
    _check_names(values, path or "--config")
    own = {name: value for name, value in given.items() if name in typed or name in _ONE_OFF}
    found: dict[str, Any] = values | own | {name: _words(given[name]) for name in ("base", "set")}
    return found | {name: _folder(name, found[name], path or "--config") for name in ("store_dir", "results_dir")}


def _folder(key: str, written: str, path: str | Path) -> str:
    """A folder that jobs write into, `~` as the home folder. Raises ConfigError for one that cannot be: Snakemake reads
    braces as wildcards, and a command line a leading `-` as an option."""
    found = os.path.expanduser(written)
    if set("{}") & set(found) or any(ord(letter) < 32 for letter in found) or found.startswith("-"):
        raise ConfigError(
            f"{path}: {key}: {shown(written)}: Snakemake cannot take such a path; expected one without '{{', '}}' and "
            f"control characters, and no '-' in front"
        )
    there = next(place for place in (Path(found), *Path(found).parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{path}: {key}: {shown(written)}: {there} is no folder; expected a folder, or a new name")
    return found


def _check_names(values: Mapping[str, Any], path: str | Path) -> None:
    """Names become folders. Raises ConfigError for one that cannot."""
    for key in ("experiments", "sweep"):
        for name in values[key] or {}:
            if problem := check_name(name):
                raise ConfigError(f"{path}: {key}: {shown(name)}: {problem}")


def _node(value: Any) -> Node:
    """Snakemake reads a value as YAML, so `run=7` arrives as a number; as text it is what was typed."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return Node(value, COMMAND_LINE, str(value)) if whole else from_plain(value, COMMAND_LINE)


def _words(value: str | list[str] | None) -> list[str]:
    return value.split() if isinstance(value, str) else list(value or [])

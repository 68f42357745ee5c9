"""Read config/config.yaml and Snakemake's ``--config``, checked against one schema."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogtune.config.check import Checker
from cogtune.config.errors import ConfigError, ConfigErrors, Mark
from cogtune.config.schema.workflow import CommandLineSection, ResourcesSection, WorkflowSection
from cogtune.config.tree import Node, from_plain
from cogtune.config.yaml_source import load_tree
from cogtune.runtime.machines import gpu_count
from cogtune.runtime.paths import quoted
from cogtune.work.experiment import check_experiment_name

COMMAND_LINE = Mark("--config")
_ONE_OFF = ("run", "base", "set")


@dataclass(frozen=True)
class WorkflowValues:
    """The workflow config, by the keys of `CommandLineSection`.

    ``experiments``, ``sweeps``: unchecked bodies by name. ``run``: name of the one-off experiment of the command line, None
    without one; ``base``, ``set``: its words.
    """

    store_dir: Path
    store_group_writable: bool
    results_dir: Path
    ranks: int
    experiments: dict[str, Any]
    sweeps: dict[str, Any]
    plugins: tuple[str, ...]
    resolvers: tuple[str, ...]
    device: str | None
    resources: ResourcesSection
    demo_data: bool
    run: str | None
    base: tuple[str, ...]
    set: tuple[str, ...]


def workflow_values(path: str | Path | None, command_line: Mapping[str, Any]) -> WorkflowValues:
    """The workflow config: ``command_line`` (``--config``) over the file, if any, over defaults.

    Raises ConfigErrors with every unknown key and every value of a wrong type, in the file and in ``command_line``.
    """
    checker = Checker()
    values = checker.section(load_tree(path) if path else Node({}, COMMAND_LINE), WorkflowSection, "")
    typed = {str(name): _node(value) for name, value in command_line.items()}
    options = checker.section(Node(typed, COMMAND_LINE), CommandLineSection, "")
    if not checker.errors and options["run"] is None and (stray := [name for name in ("base", "set") if name in typed]):
        message = 'needs a name for the one-off experiment: run=NAME base="a.yaml b.yaml" set="key=value"'
        checker.errors.append(ConfigError(message, key=stray[0], mark=COMMAND_LINE))
    if not checker.errors and options["run"] is not None and not _words(options["base"]):
        message = f'{options["run"]!r} needs config files: run={options["run"]} base="a.yaml b.yaml"'
        checker.errors.append(ConfigError(message, key="run", mark=COMMAND_LINE))
    if checker.errors:
        raise ConfigErrors(checker.errors)
    _check_names(values, path or "--config")
    own = {name: value for name, value in options.items() if name in typed or name in _ONE_OFF}
    merged: dict[str, Any] = values | own
    return WorkflowValues(
        store_dir=_folder("store_dir", merged["store_dir"], path or "--config"),
        store_group_writable=merged["store_group_writable"],
        results_dir=_folder("results_dir", merged["results_dir"], path or "--config"),
        ranks=merged["ranks"] or max(1, gpu_count()),
        experiments=merged["experiments"] or {},
        sweeps=merged["sweep"] or {},
        plugins=tuple(merged["plugins"] or ()),
        resolvers=tuple(merged["resolvers"] or ()),
        device=merged["device"],
        resources=ResourcesSection(**merged["resources"]),
        demo_data=merged["demo_data"],
        run=merged["run"],
        base=tuple(_words(options["base"])),
        set=tuple(_words(options["set"])),
    )


def _folder(key: str, written: str, path: str | Path) -> Path:
    """A folder that jobs write to; `~` is the home folder. Raises ConfigError for an unusable path: braces are wildcards of
    Snakemake, and a leading `-` looks like an option."""
    folder = os.path.expanduser(written)
    if set("{}") & set(folder) or any(ord(letter) < 32 for letter in folder) or folder.startswith("-"):
        raise ConfigError(
            f"{path}: {key}: {quoted(written)}: not a valid path for Snakemake; expected a path without '{{', '}}' and "
            f"control characters that does not start with '-'"
        )
    existing = next(place for place in (Path(folder), *Path(folder).parents) if place.exists())
    if not existing.is_dir():
        raise ConfigError(
            f"{path}: {key}: {quoted(written)}: {existing} is not a folder; expected a folder, or a path that does not "
            "exist yet"
        )
    return Path(folder)


def _check_names(values: Mapping[str, Any], path: str | Path) -> None:
    """Check names, which become folders. Raises ConfigError for an invalid name."""
    for key in ("experiments", "sweep"):
        declared: dict[str, Any] = values[key] or {}
        for name in declared:
            if problem := check_experiment_name(name):
                raise ConfigError(f"{path}: {key}: {quoted(name)}: {problem}")


def _node(value: Any) -> Node:
    """Snakemake parses values as YAML, so `run=7` is a number; keep the text as typed too."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return Node(value, COMMAND_LINE, str(value)) if is_integer else from_plain(value, COMMAND_LINE)


def _words(value: str | list[str] | None) -> list[str]:
    return value.split() if isinstance(value, str) else list(value or [])

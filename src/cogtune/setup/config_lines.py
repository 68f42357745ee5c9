"""Write an experiment into config/config.yaml: lines are added, all others keep their bytes."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from cogtune.config.errors import ConfigError
from cogtune.runtime.atomic import write_text
from cogtune.runtime.paths import quoted
from cogtune.setup.settings import NewExperiment
from cogtune.work.experiment import check_experiment_name, parse_experiment
from cogtune.work.workspace import Workspace

_PLAIN = re.compile(r"[A-Za-z0-9_./=+~][^'\":#{}\[\],&*?|<>!%@`\\]*|[A-Za-z0-9_.]+=\[[A-Za-z0-9_.,/-]*\]")
"""Text that YAML reads as itself in a block list."""
_INDENT = "  "


def check_new_name(workspace: Workspace, name: str, path: Path) -> None:
    """Raise ConfigError if ``name`` is no folder name, or is taken by an experiment or a sweep."""
    if problem := check_experiment_name(name):
        raise ConfigError(f"{quoted(name)}: {problem}")
    if name in workspace.experiments or name in workspace.sweeps:
        kind = "experiment" if name in workspace.experiments else "sweep"
        raise ConfigError(
            f"{path} has {'an' if kind == 'experiment' else 'a'} {kind} {name!r}; choose another name, or remove it there"
        )


def lines_of(experiment: NewExperiment, command: Sequence[str], indent: str = _INDENT) -> list[str]:
    """The lines of an experiment, with reasons as comments. ``indent``: of its name."""
    inner = indent + _INDENT
    settings = [(f"{inner}{_INDENT}- {_scalar(one.override)}", one.why) for one in experiment.settings]
    rows = [
        (f"{indent}{_key(experiment.name)}:", shlex.join(command)),
        (f"{inner}base: [{', '.join(experiment.base)}]", ""),
        (f"{inner}ranks: {experiment.ranks}", "training processes, one per GPU"),
        (f"{inner}set:", ""),
        *settings,
    ]
    return [f"{text}  # {why}" if why else text for text, why in rows]


def with_experiment(text: str, name: str, lines: Sequence[str], path: Path) -> str:
    """The text of a workflow config with ``lines`` at the end of its experiments. Raises ConfigError if they are written in
    braces, where no line can be added."""
    newline = "\r\n" if "\r\n" in text else "\n"
    rows = text.splitlines()
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    if node is not None and (not isinstance(node, yaml.MappingNode) or node.flow_style):
        raise _by_hand(path, lines)
    experiments = [(key, value) for key, value in entries if key.value == "experiments"]
    if not experiments:
        rows += ["experiments:", *lines]
    else:
        key, value = experiments[0]
        if isinstance(value, yaml.MappingNode) and value.flow_style and not value.value:
            raise _by_hand(path, lines)
        if isinstance(value, yaml.MappingNode) and value.flow_style:
            raise _by_hand(path, lines)
        last = _last_line(rows, key.start_mark.line)
        rows[last + 1 : last + 1] = lines
    return newline.join(rows) + newline


def indent_of(text: str) -> str:
    """The indentation of the experiments in a workflow config."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
        if key.value == "experiments" and isinstance(value, yaml.MappingNode) and value.value:
            return " " * value.value[0][0].start_mark.column
    return _INDENT


def write(path: Path, old: str, text: str, experiment: NewExperiment) -> None:
    """Replace the file, whose text was ``old``, atomically, through links, with its permissions, if ``text`` reads as ``old``
    with the experiment added. Raises ConfigError, also if the file changed meanwhile: a question may wait for hours."""
    if path.read_bytes() != old.encode():
        raise ConfigError(f"{path}: changed while this command ran; nothing was written; run the same command again")
    before = yaml.safe_load(old) or {}
    after = yaml.safe_load(text)
    body = after["experiments"].pop(experiment.name)
    same = (after | {"experiments": after["experiments"] or None}) == before | {
        "experiments": before.get("experiments")
    }
    parsed = parse_experiment(experiment.name, body, 1, str(path))
    if not same or parsed.set != tuple(one.override for one in experiment.settings):
        raise ConfigError(f"{path}: its form is not one that lines can be added to; add the printed lines by hand")
    target = path.resolve()
    mode = target.stat().st_mode & 0o7777
    write_text(target, text)
    target.chmod(mode)


def _last_line(rows: Sequence[str], first: int) -> int:
    """The last line of the block that starts at ``first``: indented lines, also comments, without blank lines at its end."""
    last = first
    for number in range(first + 1, len(rows)):
        row = rows[number]
        if row.strip() and not row[0].isspace():
            break
        if row.strip():
            last = number
    return last


def _key(name: str) -> str:
    """A folder name as a YAML key: quoted if YAML reads it as a number, a date or a boolean, such as `on` and `2024-01-01`."""
    return name if yaml.safe_load(name) == name else f"'{name}'"


def _scalar(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text == text.strip() else "'" + text.replace("'", "''") + "'"


def _by_hand(path: Path, lines: Sequence[str]) -> ConfigError:
    listed = "\n".join(lines)
    return ConfigError(
        f"{path}: its experiments are in braces, so no lines can be added; write them one below another, or add:\n{listed}"
    )

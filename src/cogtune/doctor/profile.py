"""What a Snakemake profile asks of Slurm, against what the cluster has."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cogtune.doctor.check import Check
from cogtune.doctor.slurm import Node, Partition, Slurm, parse_gpus
from cogtune.errors import UserError

_TOPIC = "profile"
OTHERS = "all other rules"
_RULE = re.compile(r"(?m)^(?:(?:rule|checkpoint) (\w+)|use rule (\w+) as (\w+) with):")
"""The first line of a rule: its name, or the rule that it is derived from, above it in the same file, and its name."""
_MINUTES = {"s": 1 / 60, "m": 1.0, "h": 60.0, "d": 1440.0, "w": 10080.0}
_MEGABYTES = {"": 1e-6, "k": 1e-3, "m": 1.0, "g": 1e3, "t": 1e6}


@dataclass(frozen=True)
class Profile:
    """A profile. ``resources``: of each rule that it names, over its defaults, and of `OTHERS`; ``ranks``: of its
    `config`, None if it does not set them; ``gathers``: the stages whose work parts do, by its `set-scatter`."""

    path: Path
    executor: str
    status_command: str
    no_account: bool
    resources: dict[str, dict[str, Any]]
    ranks: int | None = None
    gathers: frozenset[str] = frozenset()


def read_profile(path: Path) -> Profile:
    """The profile in a folder, or in its file. Raises UserError."""
    file = _file_of(path)
    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{file}: cannot be read ({str(error).splitlines()[0]}); expected the YAML of a profile"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected options of snakemake as `name: value`")
    values: dict[str, Any] = {str(name).replace("_", "-"): value for name, value in content.items()}
    defaults = _pairs(values.get("default-resources"), file, "default-resources")
    rules: dict[str, dict[str, Any]] = {}
    for rule, body in _nested(values.get("set-resources"), file, "set-resources"):
        rules.setdefault(rule, {}).update(body)
    for rule, threads in _pairs(values.get("set-threads"), file, "set-threads").items():
        rules.setdefault(rule, {})["threads"] = threads
    return Profile(
        file,
        str(values.get("executor", "local")),
        str(values.get("slurm-status-command", "")),
        bool(values.get("slurm-no-account", False)),
        {OTHERS: defaults} | {rule: defaults | body for rule, body in rules.items()},
        integer_of(_pairs(values.get("config"), file, "config").get("ranks")),
        frozenset(
            stage
            for stage, count in _pairs(values.get("set-scatter"), file, "set-scatter").items()
            if (integer_of(count) or 1) > 1
        ),
    )


def _file_of(path: Path) -> Path:
    """The file that snakemake 9 reads in a folder: the newest `config.v<N>+.yaml`, else `config.yaml`."""
    if path.is_file():
        return path
    versions = {
        int(match[1]): file
        for file in path.glob("config.v*+.y*ml")
        if (match := re.match(r"config\.v(\d+)\+", file.name))
    }
    fitting = [number for number in versions if number <= 9]
    file = versions[max(fitting)] if fitting else path / "config.yaml"
    if not file.is_file():
        raise UserError(f"--profile {path}: no config.yaml in it; expected a folder such as profiles/slurm")
    return file


def _pairs(value: Any, file: Path, key: str) -> dict[str, Any]:
    """A mapping, or a list of `name=value`, or one such text."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {str(name): item for name, item in value.items()}
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all("=" in str(word) for word in words):
        raise UserError(f"{file}: {key}: expected `name: value` lines or a list of name=value")
    return {name: item for name, _, item in (str(word).partition("=") for word in words)}


def _nested(value: Any, file: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(rule, resources) of a mapping of mappings, or of a list of `rule:name=value`."""
    if isinstance(value, Mapping):
        for rule, body in value.items():
            yield str(rule), _pairs(body, file, f"{key}: {rule}")
        return
    for name, item in _pairs(value, file, key).items():
        rule, colon, resource = name.partition(":")
        if not colon:
            raise UserError(f"{file}: {key}: {name}: expected rule:resource=value")
        yield rule, {resource: item}


def rules_of(workflow: Path) -> dict[str, bool]:
    """The rules in the files of a workflow, and whether each requests a GPU; empty if there are no files."""
    rules: dict[str, bool] = {}
    for path in sorted(workflow.glob("rules/*.smk")):
        _, *parts = _RULE.split(path.read_text(errors="replace"))
        for name, base, derived, body in zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True):
            on_gpu = re.search(r"(?m)^\s+gpu=", body) is not None
            rules[name or derived] = on_gpu or rules.get(base, False)
    return rules


def profile_checks(
    profile: Profile, slurm: Slurm, rules: Mapping[str, bool], ranks: int, gpus: int = 1
) -> Iterator[Check]:
    """One line for each rule that the profile names or that requests a GPU, and one for all others. ``rules``: all rules of
    the workflow, and whether they request GPUs: training ``ranks``, the others ``gpus``, where the profile does not say."""
    ranks, defaults = profile.ranks or ranks, profile.resources[OTHERS]
    named = profile.resources | {
        rule: defaults for rule, on_gpu in rules.items() if on_gpu and rule not in profile.resources
    }
    for rule, body in named.items():
        wanted = body
        if rules.get(rule) and rule not in profile.gathers and not {"gpu", "gres"} & body.keys():
            wanted = body | {"gpu": ranks if rule == "train" else gpus}
        tasks = integer_of(wanted.get("tasks"))
        if rule == "train" and tasks is not None and tasks != ranks:
            text = f"tasks is {tasks}, but training has {ranks} ranks; each task is one rank"
            yield Check(_TOPIC, rule, "FAIL", text, f"set `tasks: {ranks}` for train, or `ranks={tasks}` in config")
            continue
        if rule != OTHERS and rules and rule not in rules:
            text = f"{profile.path} sets resources of a rule that does not exist; snakemake ignores them"
            yield Check(_TOPIC, rule, "FAIL", text, f"use one of {', '.join(sorted(rules))}")
            continue
        yield rule_check(rule, wanted, slurm)


def rule_check(rule: str, wanted: dict[str, Any], slurm: Slurm) -> Check:
    """Whether some partition that a rule names has nodes for its request."""
    named = str(_plain(wanted.get("slurm_partition", "")))
    if named and not re.fullmatch(r"[\w.,-]+", named):
        return Check(_TOPIC, rule, "OK", f"slurm_partition is computed ({named}); not checked")
    partitions = [slurm.partition(name) for name in named.split(",")] if named else [slurm.default]
    if not named and slurm.default is None:
        fix = "set slurm_partition in default-resources"
        return Check(_TOPIC, rule, "FAIL", "names no partition, and the cluster has no default", fix)
    known = [partition for partition in partitions if partition is not None]
    if len(known) < len(partitions):
        absent = next(name for name in named.split(",") if slurm.partition(name) is None)
        fix = f"set slurm_partition to one of {', '.join(one.name for one in slurm.partitions)}"
        return Check(_TOPIC, rule, "FAIL", f"partition {absent} does not exist", fix)
    problems = [problem for partition in known if (problem := misfit(wanted, partition))]
    if len(problems) == len(known):
        fix = "change it in the profile (set-resources, default-resources), or use another partition"
        return Check(_TOPIC, rule, "FAIL", "; ".join(problems), fix)
    return Check(_TOPIC, rule, "OK", f"fits partition {', '.join(one.name for one in known)}: {_text(wanted)}")


def misfit(wanted: dict[str, Any], partition: Partition) -> str:
    """Why a request cannot run in a partition; "" if it can."""
    where = f"partition {partition.name}"
    if not partition.up:
        return f"{where} is not up"
    if (minutes := minutes_of(wanted.get("runtime"))) is not None and minutes > partition.limit:
        return f"runtime is {minutes:.0f} minutes; {where} allows {partition.limit:.0f}"
    count = integer_of(wanted.get("nodes")) or 1
    nodes = list(partition.nodes)
    if count > min(len(nodes), partition.most_nodes):
        return f"nodes is {count}; {where} allows {min(len(nodes), partition.most_nodes):.0f}"
    for text, fits in _needs(wanted, count):
        enough = [node for node in nodes if fits(node)]
        if len(enough) < count:
            many = f"{count} nodes" if count > 1 else "no node"
            return f"{text}: {where} has {many if count == 1 else f'fewer than {many}'} with that ({_best(nodes)})"
        nodes = enough
    if sum(node.usable for node in nodes) < count:
        return f"the nodes of {where} that fit are down or drained"
    return ""


def _needs(wanted: dict[str, Any], nodes: int) -> Iterator[tuple[str, Any]]:
    """(the request in words, whether a node has it)."""
    gpus = parse_gpus(str(_plain(wanted.get("gres", ""))))
    if not gpus and (total := integer_of(wanted.get("gpu"))):
        gpus = {str(_plain(wanted.get("gpu_model", ""))): math.ceil(total / nodes)}
    for model, count in gpus.items():
        yield (
            f"{count} GPUs{f' {model}' if model else ''} a node",
            lambda node, m=model, c=count: node.gpu_count(m) >= c,
        )
    if (memory := megabytes_of(wanted.get("mem_mb"), wanted.get("mem"))) is not None:
        yield f"{memory:.0f} MB of memory a node", lambda node: node.memory >= memory
    cpus = integer_of(wanted.get("cpus_per_task")) or integer_of(wanted.get("threads"))
    if cpus:
        cpus *= math.ceil((integer_of(wanted.get("tasks")) or 1) / nodes)
        yield f"{cpus} CPUs a node", lambda node: node.cpus >= cpus
    feature = str(_plain(wanted.get("constraint", "")))
    if re.fullmatch(r"\w+", feature):
        yield f"feature {feature}", lambda node: feature in node.features


def _best(nodes: list[Node]) -> str:
    gpus = sorted({f"gpu:{model}{':' if model else ''}{count}" for node in nodes for model, count in node.gpus.items()})
    most = f"{max(node.cpus for node in nodes)} CPUs, {max(node.memory for node in nodes)} MB"
    return f"its nodes have up to {most}, {', '.join(gpus) or 'no GPU'}"


def _plain(value: Any) -> Any:
    """Without the inner quotes that keep snakemake from computing a text."""
    return value.strip("'\"") if isinstance(value, str) else value


def integer_of(value: Any) -> int | None:
    """A whole number; None for an expression that snakemake computes."""
    text = str(_plain(value))
    return int(text) if text.isdecimal() else None


def minutes_of(value: Any) -> float | None:
    """`runtime`: minutes, or a text such as 2h or 1d12h; None for an expression."""
    if (number := integer_of(value)) is not None:
        return float(number)
    text = str(_plain(value)).lower().replace(" ", "")
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?[smhdw][a-z]*)+", text):
        return None
    return sum(float(count) * _MINUTES[unit] for count, unit in re.findall(r"(\d+(?:\.\d+)?)([smhdw])[a-z]*", text))


def megabytes_of(mem_mb: Any, mem: Any) -> float | None:
    """Megabytes of `mem_mb`, or of `mem` such as 16GB; None for an expression, or if there is none."""
    if (number := integer_of(mem_mb)) is not None:
        return float(number)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", str(_plain(mem)).lower())
    return float(match[1]) * _MEGABYTES[match[2]] if match else None


def _text(wanted: dict[str, Any]) -> str:
    names = ("nodes", "tasks", "gres", "gpu", "mem_mb", "mem", "cpus_per_task", "threads", "runtime")
    words = [f"{name}={_plain(wanted[name])}" for name in names if name in wanted]
    return ", ".join(words) or "its requests come from `cogtune plan`"

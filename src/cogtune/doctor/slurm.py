"""What a Slurm cluster has: version, partitions, nodes, accounting. Reads the output of scontrol and sinfo (22.05 or newer)."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cogtune.doctor.check import Check, ask

_TOPIC = "slurm"
_UNUSABLE = ("DOWN", "ERROR", "UNKNOWN", "FUTURE", "DRAIN", "FAIL", "NOT_RESPONDING", "INVAL", "*")
_FORGET_SECONDS = 120
"""Snakemake asks `squeue` for a job at most this long after its end."""
WITHOUT_ACCOUNTING = "set `slurm-status-command: squeue` and `slurm-no-account: true` in the profile"


@dataclass(frozen=True)
class Node:
    """One node. ``memory``: MB; ``gpus``: GPUs by model, "" where gres.conf names none."""

    name: str
    partitions: frozenset[str]
    cpus: int
    memory: int
    gpus: dict[str, int]
    features: frozenset[str]
    usable: bool

    def gpu_count(self, model: str = "") -> int:
        """GPUs of a model, or of all models."""
        return self.gpus.get(model, 0) if model else sum(self.gpus.values())


@dataclass(frozen=True)
class Partition:
    """One partition. ``limit``: minutes, infinite without a limit; ``most_nodes``: nodes of one job."""

    name: str
    is_default: bool
    up: bool
    limit: float
    most_nodes: float
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Slurm:
    """The cluster. ``accounting``: whether slurmdbd keeps accounts; ``sacct_error``: "" if `sacct` answers;
    ``job_age``: seconds for which an ended job is still in `squeue`."""

    version: str
    partitions: tuple[Partition, ...]
    accounting: bool
    sacct_error: str
    job_age: int

    def partition(self, name: str) -> Partition | None:
        """The partition of this name."""
        return next((one for one in self.partitions if one.name == name), None)

    @property
    def default(self) -> Partition | None:
        """The partition of jobs that name none."""
        return next((one for one in self.partitions if one.is_default), None)


def read_slurm() -> Slurm | str:
    """The cluster of this machine; or why there is none, "" if Slurm is not installed."""
    config = ask(["scontrol", "show", "config"])
    if config.code == 127:
        return ""
    if not config.ok:
        return config.reason
    settings = dict(re.findall(r"(?m)^(\w+)\s*= (.*?)\s*$", config.output))
    tables = {kind: ask(["scontrol", "show", kind, "--oneliner"]) for kind in ("partition", "node")}
    for answer in tables.values():
        if not answer.ok:
            return answer.reason
    nodes = [parse_node(fields) for fields in _rows(tables["node"].output, "NodeName")]
    accounting = settings.get("AccountingStorageType", "").endswith("/slurmdbd")
    # With slurmdbd down, sacct waits for it; so does a workflow that asks it for the state of its jobs.
    answer = ask(["sacct", "--noheader", "--allocations", "--starttime=now-1hours"], 10.0) if accounting else None
    return Slurm(
        settings.get("SLURM_VERSION", "of an unknown version"),
        tuple(parse_partition(fields, nodes) for fields in _rows(tables["partition"].output, "PartitionName")),
        accounting,
        "" if answer is None or answer.ok else answer.reason,
        int((re.match(r"\d+", settings.get("MinJobAge", "")) or ["300"])[0]),
    )


def _rows(text: str, first: str) -> Iterator[dict[str, str]]:
    """The fields of each line of `scontrol show … --oneliner`. Values may contain spaces."""
    for line in text.splitlines():
        if line.startswith(f"{first}="):
            yield dict(re.findall(r"(?:^| )([A-Za-z][\w/:]*)=(.*?)(?=\s+[A-Za-z][\w/:]*=|\s*$)", line))


def parse_node(fields: dict[str, str]) -> Node:
    """A node of `scontrol show node --oneliner`."""
    return Node(
        fields["NodeName"],
        frozenset(fields.get("Partitions", "").split(",")) - {""},
        _integer(fields.get("CPUEfctv") or fields.get("CPUTot", "0")),
        _integer(fields.get("RealMemory", "0")),
        parse_gpus(fields.get("Gres", "")),
        frozenset(fields.get("AvailableFeatures", "").split(",")) - {"", "(null)"},
        not any(word in fields.get("State", "UNKNOWN").upper() for word in _UNUSABLE),
    )


def parse_gpus(gres: str) -> dict[str, int]:
    """GPUs by model of a gres list, as in `gpu:a100:4(S:0-1),gpu:2,shard:8`."""
    gpus = dict[str, int]()
    for model, count in re.findall(
        r"(?:^|,)(?:gres/)?gpu(?::([A-Za-z][^:,()]*|[0-9]+[A-Za-z_][^:,()]*))?(?::(\d+))?", gres
    ):
        gpus[model] = gpus.get(model, 0) + int(count or 1)
    return gpus


def parse_partition(fields: dict[str, str], nodes: list[Node]) -> Partition:
    """A partition of `scontrol show partition --oneliner`."""
    name = fields["PartitionName"]
    own = tuple(node for node in nodes if name in node.partitions)
    most = fields.get("MaxNodes", "UNLIMITED")
    return Partition(
        name,
        fields.get("Default") == "YES",
        fields.get("State") == "UP",
        parse_minutes(fields.get("MaxTime", "UNLIMITED")),
        float(most) if most.isdecimal() else math.inf,
        own,
    )


def parse_minutes(text: str) -> float:
    """Minutes of a time limit `days-hours:minutes:seconds`; infinite for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def slurm_checks(slurm: Slurm | str, wanted: bool) -> Iterator[Check]:
    """Version, each partition, accounting. ``wanted``: whether a profile submits jobs to Slurm."""
    if isinstance(slurm, str):
        yield missing_check(slurm, wanted)
        return
    yield Check(_TOPIC, "version", "OK", f"Slurm {slurm.version}")
    for partition in slurm.partitions:
        yield partition_check(partition)


def missing_check(reason: str, wanted: bool) -> Check:
    """The line for a machine without a running Slurm: a fault only if the profile needs it."""
    text = f"installed, but does not answer: {reason}" if reason else "not installed on this machine"
    if not wanted:
        return Check(_TOPIC, "slurm", "OK", text)
    fix = "run it on a login node of the cluster; ask the administrator if `sinfo` fails there too"
    return Check(_TOPIC, "slurm", "FAIL", text, fix)


def partition_check(partition: Partition) -> Check:
    """Nodes and limits of a partition."""
    usable = [node for node in partition.nodes if node.usable]
    name = f"partition {partition.name}"
    if not partition.up or not usable:
        why = "no node of it can run jobs now" if partition.up else "it is not up"
        fix = f"use another partition, or see `sinfo -R -p {partition.name}`"
        return Check(_TOPIC, name, "WARN", f"{len(partition.nodes)} nodes, but {why}", fix)
    limit = "no time limit" if math.isinf(partition.limit) else f"at most {partition.limit:.0f} minutes"
    each = (
        f"up to {max(node.cpus for node in usable)} CPUs, {max(node.memory for node in usable)} MB, {_gpu_text(usable)}"
    )
    default = " (default)" if partition.is_default else ""
    text = f"{len(usable)} of {len(partition.nodes)} nodes usable; {each} a node; {limit}{default}"
    return Check(_TOPIC, name, "OK", text)


def accounting_check(slurm: Slurm, status_command: str, no_account: bool, has_profile: bool) -> Check:
    """Whether the way in which the profile asks for the state of jobs works on this cluster."""
    level = "FAIL" if has_profile else "WARN"
    text = "on (slurmdbd)" if slurm.accounting else "off (no slurmdbd)"
    if status_command != "squeue" and (not slurm.accounting or slurm.sacct_error):
        why = f": sacct fails: {slurm.sacct_error}" if slurm.sacct_error else ": sacct knows no job"
        return Check(_TOPIC, "accounting", level, text + why, WITHOUT_ACCOUNTING)
    if status_command == "squeue" and slurm.job_age < _FORGET_SECONDS:
        text += f"; squeue forgets a job {slurm.job_age} s after its end, too soon for snakemake"
        fix = f"ask the administrator for MinJobAge={_FORGET_SECONDS} or more, or use sacct"
        return Check(_TOPIC, "accounting", "FAIL", text, fix)
    if not slurm.accounting and has_profile and not no_account:
        return Check(_TOPIC, "accounting", "WARN", f"{text}: there are no accounts", "set `slurm-no-account: true`")
    return Check(_TOPIC, "accounting", "OK", f"{text}; the state of jobs comes from {status_command or 'sacct'}")


def _gpu_text(nodes: list[Node]) -> str:
    kinds = sorted(
        {f"{count} GPUs{f' {model}' if model else ''}" for node in nodes for model, count in node.gpus.items()}
    )
    return " or ".join(kinds) or "no GPU"


def _integer(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0

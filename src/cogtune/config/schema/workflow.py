"""Keys of config/config.yaml, and of Snakemake's ``--config``, which overrides it."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import RANKS, THREADS, Range, key

_MIB = Range(0, 100_000_000, "100 TB is beyond any machine")


@dataclass(kw_only=True)
class ResourcesSection:
    """Resources that a job requests from the scheduler if there is no estimate (a scan, a plugin)."""

    mem_mb: int = key(16_000, "memory", unit="MB", range=_MIB)
    runtime: int = key(240, "time limit", unit="minutes", range=Range(1, 527_040, "a year has 527040 minutes"))
    disk_mb: int = key(10_000, "disk space", unit="MB", range=_MIB)
    gpu: int = key(1, "GPUs of a stage that uses GPUs", range=Range(0, 1024, "all GPUs are in one machine"))
    threads: int = key(8, "CPU cores of a stage that uses several, if snakemake runs without --cores", range=THREADS)


@dataclass(kw_only=True)
class WorkflowSection:
    """All keys of the file."""

    store_dir: str = key("store", "folder of the content-addressed store", file=True)
    store_group_writable: bool = key(
        False,
        "create the store so that a group may write to it; an existing one decides by its mode (docs/shared_store.md)",
    )
    results_dir: str = key("results", "folder of reports and links", file=True)
    ranks: int | None = key(
        None, "training processes (ranks); null: one for each GPU found, or 1 without GPU", range=RANKS
    )
    experiments: dict[str, Any] | None = key(None, "experiments by name", items="name: {base, set, ranks}")
    sweep: dict[str, Any] | None = key(None, "grids of experiments by name", items="name: {experiment, grid}")
    plugins: list[str] | None = key(None, "plugin packages that `target:` may use")
    resolvers: list[str] | None = key(None, "OmegaConf resolvers that `${…}` may use")
    device: str | None = key(
        None, "GPU that jobs run on, as for `cogtune plan --device`; null: the devices of this machine"
    )
    resources: ResourcesSection = key(
        ResourcesSection, "resources that jobs request from a scheduler without an estimate"
    )
    demo_data: bool = key(False, "create the clips of the demo first")


@dataclass(kw_only=True)
class CommandLineSection(WorkflowSection):
    """``--config``: the same keys, and a one-off experiment that is in no file."""

    run: str | None = key(None, "name of a one-off experiment; needs `base`")
    base: str | list[str] | None = key(None, "its config files, separated by spaces")
    set: str | list[str] | None = key(None, "its overrides `key=value`, separated by spaces")

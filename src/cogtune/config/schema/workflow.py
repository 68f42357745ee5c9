"""Keys of config/config.yaml, and of Snakemake's ``--config``, which wins over it."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import RANKS, THREADS, Range, key

_MIB = Range(0, 100_000_000, "100 TB is beyond any machine")


@dataclass(kw_only=True)
class ResourcesSection:
    """What a job asks of the scheduler where its need cannot be estimated (a scan, a component of your own)."""

    mem_mb: int = key(16_000, "memory", unit="MB", range=_MIB)
    runtime: int = key(240, "time limit", unit="minutes", range=Range(1, 527_040, "a year has 527040 minutes"))
    disk_mb: int = key(10_000, "disk space", unit="MB", range=_MIB)
    gpu: int = key(1, "GPUs of a stage that uses them", range=Range(0, 1024, "they are the devices of one machine"))
    threads: int = key(8, "CPU cores of a stage that uses many, where snakemake is given no --cores", range=THREADS)


@dataclass(kw_only=True)
class WorkflowSection:
    """The whole file."""

    store_dir: str = key("store", "folder of the content-addressed store", file=True)
    results_dir: str = key("results", "folder of reports and links", file=True)
    ranks: int = key(1, "processes that train together", range=RANKS)
    experiments: dict[str, Any] | None = key(None, "experiments by name", items="name: {base, set, ranks}")
    sweep: dict[str, Any] | None = key(None, "grids of experiments by name", items="name: {experiment, grid}")
    plugins: list[str] | None = key(None, "packages that `target:` may name")
    resolvers: list[str] | None = key(None, "OmegaConf resolvers that `${…}` may use")
    device: str | None = key(None, "GPU that jobs run on, as `cogtune plan --device` takes it; null: what is here")
    resources: ResourcesSection = key(ResourcesSection, "what jobs ask of a scheduler where no estimate is known")
    demo_data: bool = key(False, "make the demo's clips first")


@dataclass(kw_only=True)
class CommandLineSection(WorkflowSection):
    """``--config``: the same keys, and an experiment that is in no file."""

    run: str | None = key(None, "name of a one-off experiment; needs `base`")
    base: str | list[str] | None = key(None, "its files, separated by blanks")
    set: str | list[str] | None = key(None, "its overrides `key=value`, separated by blanks")

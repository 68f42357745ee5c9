"""Keys of config/config.yaml, and of Snakemake's ``--config``, which wins over it."""

from dataclasses import dataclass
from typing import Any

from cogtune.config.schema.common import RANKS, key


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
    demo_data: bool = key(False, "make the demo's clips first")


@dataclass(kw_only=True)
class CommandLineSection(WorkflowSection):
    """``--config``: the same keys, and an experiment that is in no file."""

    run: str | None = key(None, "name of a one-off experiment; needs `base`")
    base: str | list[str] | None = key(None, "its files, separated by blanks")
    set: str | list[str] | None = key(None, "its overrides `key=value`, separated by blanks")

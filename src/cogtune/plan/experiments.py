"""config/config.yaml: which experiments there are, where the store is, what this machine has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogtune.config.errors import ConfigError
from cogtune.config.files import ContentHashes
from cogtune.config.merge import Config, load_config
from cogtune.config.slices import Slice
from cogtune.config.source import load_yaml
from cogtune.plan.resolve import Place, Resolver

_KEYS = {"store_dir", "results_dir", "ranks", "experiments", "demo_data"}
_EXPERIMENT_KEYS = {"base", "set", "ranks"}


@dataclass(frozen=True)
class Experiment:
    """One named run: SAT files merged in order, then dotlist overrides."""

    name: str
    base: tuple[str, ...]
    set: tuple[str, ...] = ()
    ranks: int = 1


@dataclass
class Workspace:
    """All experiments of one config.yaml and what they share: the store, the results folder, the content hashes."""

    store: Path
    results: Path
    experiments: dict[str, Experiment]
    demo_data: bool = False
    looks_only: bool = False
    _resolvers: dict[str, Resolver] = field(default_factory=dict)
    _hashes: ContentHashes | None = None
    _fingerprints: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path = "config/config.yaml", overrides: Mapping[str, Any] | None = None) -> "Workspace":
        """Read the workflow config; ``overrides`` is what Snakemake's ``--config`` gave.

        ``run=NAME base="a.yaml b.yaml" set="k=v k=v"`` there stands for a one-off experiment. Raises ConfigError.
        """
        asked = dict(overrides or {})
        values = load_yaml(path) | {name: asked[name] for name in asked.keys() & _KEYS}
        _refuse_unknown(values, _KEYS, str(path))
        ranks = values.get("ranks") or 1
        experiments = {
            name: _experiment(name, body, ranks, f"{path}: experiments.{name}")
            for name, body in (values.get("experiments") or {}).items()
        }
        if "run" in asked:
            body = {"base": str(asked.get("base", "")).split(), "set": str(asked.get("set", "")).split()}
            experiments = {str(asked["run"]): _experiment(str(asked["run"]), body, ranks, "--config run")}
        if not experiments:
            raise ConfigError(f"{path}: experiments: none; expected names with `base: [file.yaml, …]`")
        store, results = Path(values.get("store_dir") or "store"), Path(values.get("results_dir") or "results")
        return cls(store, results, experiments, bool(values.get("demo_data")))

    def config(self, name: str) -> Config:
        """The merged, checked config of an experiment."""
        return self.resolver(name).config

    def resolver(self, name: str) -> Resolver:
        """The resolver of an experiment (cached): the config is merged once in a process."""
        if name not in self._resolvers:
            if name not in self.experiments:
                raise ConfigError(f"no experiment named {name!r}; there are: {', '.join(self.experiments)}")
            experiment = self.experiments[name]
            self._hashes = self._hashes or ContentHashes(self.store / "hashes.json")
            place = Place(self.store, self.results, experiment.ranks, name)
            config = load_config(experiment.base, experiment.set)
            shared = {"fingerprints": self._fingerprints, "looks_only": self.looks_only}
            self._resolvers[name] = Resolver(config, place, self._hashes, **shared)
        return self._resolvers[name]

    def chain(self, name: str) -> list[str]:
        """The experiment and those that its weights come from, oldest first. Refuses a cycle."""
        names = [name]
        while (parent := self._parent(names[0])) is not None:
            if parent in names:
                raise ConfigError(f"args.load: experiments start from each other: {' -> '.join([parent, *names])}")
            names.insert(0, parent)
        return names

    def _parent(self, name: str) -> str | None:
        load = self.config(name).values["args"].get("load")
        return load["experiment"] if isinstance(load, dict) else None

    def scan_receipts(self, name: str) -> list[Path]:
        """Receipts that must exist before `slices` can be asked for."""
        return sorted({self.resolver(link).place.receipt(self.resolver(link).scan()) for link in self.chain(name)})

    def slices(self, name: str) -> dict[str, Slice]:
        """Every stage's slice of the experiment; the scans of its chain must be done."""
        loaded: Slice | None = None
        parts: dict[str, Slice] = {}
        for link in self.chain(name):
            resolver = self.resolver(link)
            resolver.loaded = loaded
            parts = resolver.all()
            loaded = parts["train"]
        return parts

    def published(self, name: str) -> Path:
        """The marker that the report of the current config writes: the one target of an experiment."""
        return self.results / name / f".published-{self.slices(name)['report'].key}"


def _experiment(name: str, body: Any, ranks: int, where: str) -> Experiment:
    if not isinstance(body, dict) or not body.get("base"):
        raise ConfigError(f"{where}: expected a mapping with `base: [file.yaml, …]`")
    if not name.replace("_", "").replace("-", "").replace(".", "").isalnum() or name.startswith("."):
        raise ConfigError(f"{where}: a name becomes a folder: use letters, digits, '_', '-', '.'")
    _refuse_unknown(body, _EXPERIMENT_KEYS, where)
    base = [body["base"]] if isinstance(body["base"], str) else body["base"]
    return Experiment(name, tuple(base), tuple(body.get("set") or ()), int(body.get("ranks") or ranks))


def _refuse_unknown(body: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in body:
        if name not in known:
            raise ConfigError(f"{where}: unknown key {name!r}; expected one of {', '.join(sorted(known))}")

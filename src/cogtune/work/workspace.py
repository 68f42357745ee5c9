"""The workspace of config/config.yaml: its experiments, store and results folder."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.interpolate import RESOLVERS
from cogtune.config.merge import Config
from cogtune.config.paths import DATA, WEIGHTS
from cogtune.config.plugins import allow_plugins
from cogtune.config.schema.workflow import ResourcesSection
from cogtune.runtime import machines
from cogtune.runtime.deferred import DeferredWrites
from cogtune.runtime.shared import check_shared, let_group_write, make_shared
from cogtune.runtime.typed_json import is_mapping
from cogtune.work.content_hashes import ContentHashes
from cogtune.work.experiment import Experiment, parse_experiment, with_place
from cogtune.work.load import load_config
from cogtune.work.resolve import Resolver, RunPaths, check_batch
from cogtune.work.results_folder import open_results
from cogtune.work.roots import register
from cogtune.work.runs import run_path, write_run
from cogtune.work.slices import Slice, cut, upstream_receipts
from cogtune.work.stages import SWEEP
from cogtune.work.sweeps import Sweep, expand_sweep
from cogtune.work.volatile import SweepRun
from cogtune.work.workflow_config import workflow_values


@dataclass
class Workspace:
    """All experiments of one config.yaml, and their store, results folder and content hashes.

    ``targets``: the requested experiments. The members of a sweep are normal experiments.
    ``resolvers``: the resolvers that `${…:…}` may use in their files. ``device``: the GPU that jobs run on, None for what is here.
    ``resources``: what a job asks of a scheduler where no estimate is known. ``group_writable``: create the store so that
    its group may write to it.
    """

    store: Path
    results: Path
    experiments: dict[str, Experiment]
    targets: tuple[str, ...] = ()
    demo_data: bool = False
    sweeps: dict[str, Sweep] = field(default_factory=dict[str, Sweep])
    resolvers: tuple[str, ...] = ()
    device: str | None = None
    resources: ResourcesSection = field(default_factory=ResourcesSection)
    group_writable: bool = False
    ranks: int = 1
    """Of an experiment that does not say it."""
    may_miss: frozenset[str] = frozenset()
    """Kinds of files (`config.paths`) that need not exist: a plan knows the network's size without its weights."""
    assumed_clips: dict[str, int] = field(default_factory=dict[str, int])
    """Experiment -> number of clips that a plan assumes in place of its data folders."""
    writes: DeferredWrites = field(default_factory=DeferredWrites)
    """`writes.held = True` for read-only use; `start` writes the files that jobs need."""
    _resolvers: dict[str, Resolver] = field(default_factory=dict[str, Resolver])
    _hashes: ContentHashes | None = None
    _fingerprints: dict[str, str] = field(default_factory=dict[str, str])
    _jobs: dict[str, dict[Path | None, Slice]] = field(default_factory=dict[str, dict[Path | None, Slice]])
    """The slices of each job by key, one per run file, in the order of creation."""

    @classmethod
    def load(cls, path: str | Path = "config/config.yaml", overrides: Mapping[str, Any] | None = None) -> "Workspace":
        """Read the workflow config; ``overrides`` is what Snakemake's ``--config`` gave.

        ``run=NAME base="a.yaml b.yaml" set="k=v k=v"`` there describes a one-off experiment. Allows the plugins that it
        lists. ``overrides`` with ``experiments`` are a complete workflow config (of `--configfile`, or of a project that
        uses this workflow as a module); then ``path`` is not read. Raises ConfigError.
        """
        alone = "experiments" in (overrides or {})
        values = workflow_values(None if alone else path, overrides or {})
        path = "--config" if alone else path
        allow_plugins(values.plugins)
        ranks = values.ranks
        experiments = {
            name: parse_experiment(name, body, ranks, f"{path}: experiments.{name}")
            for name, body in values.experiments.items()
        }
        sweeps: dict[str, Sweep] = {}
        for name, body in values.sweeps.items():
            where = f"{path}: sweep.{name}"
            sweeps[name], members = expand_sweep(name, body, experiments, ranks, where)
            if taken := [known for known in (name, *members) if known in experiments]:
                raise ConfigError(f"{where}: there is already an experiment {taken[0]!r}; rename one of them")
            experiments |= members
        if (name := values.run) is not None:
            if name in experiments:
                raise ConfigError(f"--config: run: {path} already has an experiment {name!r}; choose another name")
            body = {"base": list(values.base), "set": list(values.set)}
            sweeps = {}
            one_off = parse_experiment(name, body, ranks, "--config run")
            settings = [f"run={name}", f"base={' '.join(one_off.base)}", f"set={' '.join(one_off.set)}"]
            command = shlex.join(["snakemake", "--cores", "all", "--config", *settings])
            experiments[name] = replace(one_off, started_by=command)
        if not alone and "ranks" in (overrides or {}):  # as a profile does, for its machines
            experiments = {name: replace(known, ranks=ranks) for name, known in experiments.items()}
        if not experiments:
            raise ConfigError(f"{path}: no experiments; expected names with `base: [file.yaml, …]`")
        if unknown := [name for name in values.resolvers if name not in RESOLVERS]:
            raise ConfigError(f"{path}: resolvers: unknown resolver {unknown[0]!r}; expected {', '.join(RESOLVERS)}")
        if values.device is not None and machines.find(values.device) is None:
            names = machines.known_names()
            raise ConfigError(f"{path}: device: unknown GPU {values.device!r}; expected one of {names}")
        return cls(
            values.store_dir,
            values.results_dir,
            experiments,
            targets=(values.run,) if values.run is not None else tuple(experiments),
            demo_data=values.demo_data,
            sweeps=sweeps,
            resolvers=values.resolvers,
            device=values.device,
            resources=values.resources,
            group_writable=values.store_group_writable,
            ranks=values.ranks,
        )

    @classmethod
    def by_hand(cls, path: Path) -> "Workspace":
        """The workspace of a command with its own config files; uses the workflow config if it exists. Raises ConfigError."""
        if path.exists():
            return cls.load(path)
        values = workflow_values(None, {})
        return cls(values.store_dir, values.results_dir, {}, ranks=values.ranks)

    def __post_init__(self) -> None:
        if self.group_writable:
            check_shared(self.store)
        let_group_write(self.store)

    def open_store(self) -> None:
        """Create the store with its permissions, and register this results folder in it, before anything is written.
        Raises UserError."""
        if self.group_writable:
            make_shared(self.store)
        register(self.store, self.results)

    def start(self) -> None:
        """Write the files that jobs need: a run starts. Raises UserError."""
        self.open_store()
        self.writes.release()

    def load_config(self, experiment: Experiment, **options: Any) -> Config:
        """The merged config of an experiment, with this workspace's resolvers; ``options`` as for `load_config`.

        Raises ConfigErrors, also if the batch size does not fit the experiment's ranks.
        """
        assumed = {DATA} if experiment.name in self.assumed_clips else set[str]()
        config = load_config(
            experiment.base, experiment.set, resolvers=self.resolvers, may_miss=self.may_miss | assumed, **options
        )
        check_batch(config, experiment.ranks)
        return replace(config, origin=with_place(config.origin, experiment)) if experiment.place else config

    def config(self, name: str) -> Config:
        """The merged, checked config of an experiment."""
        return self.resolver(name).config

    def resolver(self, name: str) -> Resolver:
        """The resolver of an experiment, cached: the config is merged once per process."""
        if name not in self._resolvers:
            if name not in self.experiments:
                raise ConfigError(f"unknown experiment {name!r}; expected one of {', '.join(self.experiments)}")
            experiment = self.experiments[name]
            self._hashes = self._hashes or ContentHashes(self.store / "hashes.json")
            made = (experiment.command, experiment.made_from)
            place = RunPaths(self.store, self.results, experiment.ranks, name, *made)
            self._resolvers[name] = Resolver(
                self.load_config(experiment),
                place,
                self._hashes,
                fingerprints=self._fingerprints,
                writes=self.writes,
                assumed_clips=self.assumed_clips.get(name),
            )
        return self._resolvers[name]

    def prompting(self, name: str, config: Config, ranks: int) -> Resolver:
        """A resolver of the sample job of ``config``, which no experiment has; ``name`` names its run files."""
        self._hashes = self._hashes or ContentHashes(self.store / "hashes.json")
        return Resolver(config, RunPaths(self.store, self.results, ranks, name), self._hashes, writes=self.writes)

    def save_hashes(self) -> None:
        """Save the hashes, even while writes are held, so that a plan does not read 20 GB of weights each time."""
        if self._hashes is not None:
            self._hashes.save()

    def chain(self, name: str) -> list[str]:
        """The experiment and the chain of experiments that its weights come from, oldest first. Raises ConfigError for a cycle."""
        names = [name]
        while (parent := self.parent(self.config(names[0]))) is not None:
            if parent in names:
                raise ConfigError(f"args.load: circular chain of experiments: {' -> '.join([parent, *names])}")
            names.insert(0, parent)
        return names

    def parent(self, config: Config) -> str | None:
        """The experiment that a config starts from. Raises ConfigError if it does not exist or trains nothing."""
        load = config.values["args"].get("load")
        if not is_mapping(load):
            return None
        name, key = load["experiment"], "args.load.experiment"
        if name not in self.experiments:
            raise ConfigError(f"unknown experiment {name!r}; expected one of {', '.join(self.experiments)}", key=key)
        if not self.resolver(name).scans:
            raise ConfigError(
                f"{name} only samples (args.mode: inference), so it has no trained weights; expected an "
                "experiment that trains",
                key=key,
            )
        return name

    def scan_receipts(self, name: str) -> list[Path]:
        """Receipts that must exist before `slices` is called."""
        receipts = set[Path]()
        for resolver in map(self.resolver, self.chain(name)):
            if resolver.scans:
                part = resolver.scan()
                self._know(part)
                receipts.add(resolver.place.receipt(part))
        return sorted(receipts)

    def available(self, name: str) -> bool:
        """Whether all weights and data exist that the experiment, and those that it starts from, name. One without them does
        not keep others from running. Raises ConfigError for any other problem."""
        try:
            self.scan_receipts(name)
        except ConfigErrors:
            if not self._lacks_only_files(name):
                raise
            return False
        return True

    def _lacks_only_files(self, name: str) -> bool:
        link, seen = name, set[str]()
        while link in self.experiments and link not in seen:
            seen.add(link)
            experiment = self.experiments[link]
            try:
                config = load_config(
                    experiment.base, experiment.set, resolvers=self.resolvers, may_miss={DATA, WEIGHTS}
                )
            except ConfigErrors:
                return False
            load = config.values["args"].get("load")
            link = load["experiment"] if is_mapping(load) else ""
        return True

    def slices(self, name: str) -> dict[str, Slice]:
        """The slices of all stages of the experiment; the scans of its chain must be finished."""
        loaded: Slice | None = None
        parts: dict[str, Slice] = {}
        for link in self.chain(name):
            resolver = self.resolver(link)
            resolver.loaded = loaded
            parts = resolver.all()
            loaded = parts.get("train")
            for part in parts.values():
                self._know(part)
        return parts

    def _know(self, part: Slice) -> None:
        self._jobs.setdefault(part.key, {}).setdefault(part.run, part)

    def knows(self, key: str) -> bool:
        """Whether a job with this key exists; some keys are known only after the scans."""
        if key not in self._jobs:
            self._cut_all()
        return key in self._jobs

    def job(self, key: str) -> Slice:
        """The slice of a job of these experiments, with its run file. Raises ConfigError if there is none.

        Experiments that share a job share its content, so any of their run files works; the first one is used for the
        rest of this process.
        """
        if not self.knows(key):
            raise ConfigError(
                f"no experiment has a job {key}: the config or the data changed since planning, or the key is "
                f"wrong; see `cogtune plan --format json` for the keys"
            )
        return next(iter(self._jobs[key].values()))

    def started_job(self, key: str) -> Slice:
        """The slice of a job started by another process. If experiments share the job, that process may have written only one
        of their run files. Raises ConfigError if there is none.
        """
        self._cut_all()
        started = [part for part in self._jobs.get(key, {}).values() if part.run and part.run.exists()]
        if not started:
            raise ConfigError(
                f"no started run has a job {key}: the config or the data changed since planning; run again"
            )
        return next((part for part in started if all(path.exists() for path in self.upstream(part))), started[0])

    def files_of(self, part: Slice) -> set[Path]:
        """The slices and runs that a job reads: its own, and those of all upstream jobs."""
        waiting, parts = [part], dict[str, Slice]()
        while waiting:
            one = waiting.pop()
            if one.key not in parts:
                parts[one.key] = one
                waiting += [self.job(job.key) for job in one.volatile.jobs.values()]
        runs = {one.run for one in parts.values() if one.run}
        return {one.path(self.store) for one in parts.values()} | runs

    def upstream(self, part: Slice) -> list[Path]:
        """The receipts that a job depends on; for a sweep, the markers of its members' reports."""
        return upstream_receipts(self.results, part)

    def runs(self) -> dict[str, Path]:
        """The run file of each known job, by key: of the slice that `job` returns."""
        first = {key: next(iter(parts.values())).run for key, parts in self._jobs.items()}
        return {key: run for key, run in first.items() if run is not None}

    def _cut_all(self) -> None:
        """Create the slices of all experiments whose scans are finished."""
        for name in filter(self.available, self.experiments):
            if all(receipt.exists() for receipt in self.scan_receipts(name)):
                self.slices(name)
        for name, sweep in self.sweeps.items():
            if all(map(self.available, sweep.points)) and all(
                receipt.exists() for member in sweep.points for receipt in self.scan_receipts(member)
            ):
                self.sweep_slice(name)

    def check(self, name: str) -> Config:
        """The merged config of an experiment whose files do not exist yet. Raises ConfigErrors for any other problem."""
        return self.load_config(self.experiments[name], check_files=False)

    def published(self, name: str) -> Path:
        """The marker file of the report of the current config: the target of an experiment."""
        return self.results / name / f".published-{self.slices(name)['report'].key}"

    def open_results(self, name: str, data_exists: bool = True) -> Path:
        """Create the results folder of an experiment that is run, with links to its training if the scans of its chain are
        finished (`results_folder.open_results`)."""
        training = None
        if data_exists and all(receipt.exists() for receipt in self.scan_receipts(name)):
            training = self.slices(name).get("train")
        return open_results(self.results, self.store, name, training.key if training else None)

    def sweep_slice(self, name: str) -> Slice:
        """The slice of a sweep's report; the scans of all members must be finished."""
        if name not in self.sweeps:
            raise ConfigError(f"unknown sweep {name!r}; expected one of {', '.join(self.sweeps) or '(no sweeps)'}")
        points = self.sweeps[name].points
        reports = {member: self.slices(member)["report"] for member in points}
        part = cut(SWEEP, {"sweep": {"name": name, "points": points}}, {}, {}, reports)
        part = replace(part, volatile=replace(part.volatile, sweep=SweepRun(name)))
        run = run_path(self.results, name, {part.key: part.volatile})
        self.writes.do(part.path(self.store), lambda: part.write(self.store))
        self.writes.do(run, lambda: write_run(self.results, name, {part.key: part.volatile}))
        self._know(with_run := replace(part, run=run))
        return with_run

    def compared(self, name: str) -> Path:
        """The marker file of a sweep's report."""
        return self.results / name / f".compared-{self.sweep_slice(name).key}"

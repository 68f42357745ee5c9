"""Create the slices of all stages of one experiment, in the order of the table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogtune.checkpoints.published import MODEL_DIR
from cogtune.checkpoints.text_encoder import tokenizer_beside
from cogtune.config import valid_data
from cogtune.config.annotate import annotated
from cogtune.config.errors import ConfigError
from cogtune.config.merge import Config
from cogtune.config.plugins import source_of, used_by
from cogtune.data.listing import assumed_columns, fingerprint
from cogtune.data.prompt_file import read_prompts
from cogtune.runtime.deferred import DeferredWrites
from cogtune.runtime.digest import DIGESTS, data_digests, digest
from cogtune.runtime.saved import how_to_repair, read_sealed
from cogtune.runtime.typed_json import is_mapping
from cogtune.work.batches import BatchMemo, plan_batches
from cogtune.work.content_hashes import ContentHashes, Source
from cogtune.work.experiment import BY_HAND
from cogtune.work.export_formats import export_formats
from cogtune.work.inputs import ScanInput
from cogtune.work.runs import run_path, write_run
from cogtune.work.slices import Slice, cut, reads_identity
from cogtune.work.stage_input import read_input
from cogtune.work.stages import Stage, jobs_of, stages_of
from cogtune.work.volatile import DataFolders, JobMachine, PromptsRun, ReportRun, UpstreamJob

_PROMPTS = "args.input_file"
LORA = "--lora"
"""Key of the sources of the LoRA file of `cogtune sample WEIGHTS`."""
MISSING = "missing"
"""In a plan, stands for the content of a file that does not exist."""


@dataclass(frozen=True)
class RunPaths:
    """Where an experiment runs: its store, results folder, and machine facts that are not identity. ``command``,
    ``made_from``: see `Experiment`."""

    store: Path
    results: Path
    ranks: int = 1
    experiment: str = BY_HAND
    command: str = ""
    made_from: str = ""

    def receipt(self, part: Slice) -> Path:
        """The receipt: the only file of this job that Snakemake knows."""
        return self.results / ".receipts" / f"{part.stage}-{part.key}.json"


def check_batch(config: Config, ranks: int, remembered: tuple[int, str] | None = None) -> None:
    """Raise ConfigError if the global batch cannot be split over the ranks. ``remembered``: (size, source) for a training
    that started without `args.global_batch_size`."""
    args = config.values["args"]
    if args.get("mode") == "inference":
        return
    total = remembered[0] if remembered else args["global_batch_size"]
    try:
        if total is not None:
            plan_batches(config.values["deepspeed"]["train_micro_batch_size_per_gpu"], total, ranks)
    except ConfigError as error:
        where = remembered[1] if remembered else f"set by {config.origin_of(error.key)}"
        raise ConfigError(f"{error.message} ({where})", key=error.key) from None


@dataclass
class Resolver:
    """Creates the slices of one merged config. ``loaded``: the train slice of the experiment in ``args.load``."""

    config: Config
    place: RunPaths
    hashes: ContentHashes
    loaded: Slice | None = None
    fingerprints: dict[str, str] = field(default_factory=dict[str, str])
    """Fingerprints by folders; shared by the experiments of a `Workspace`, as each needs two file system calls per clip."""
    writes: DeferredWrites = field(default_factory=DeferredWrites)
    """Writes slices and runs; shared by the experiments of a `Workspace`, which defers them until a run starts."""
    prompts: PromptsRun | None = None
    """The videos of `cogtune sample EXPERIMENT|WEIGHTS`."""
    assumed_clips: int | None = None
    """Plan for so many clips instead of the data folders, which need not exist; nothing may be written then."""
    batch_from: str = ""
    """The source of the global batch size; set by `all`."""
    _memo: BatchMemo | None = None
    _cut: dict[str, Slice] = field(default_factory=dict[str, Slice])

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages that this experiment may have."""
        return stages_of(self.config.values)

    @property
    def scans(self) -> bool:
        """Whether it reads a data set; then its other keys are known only after the scan."""
        return "scan" in self.stages

    def scan(self) -> Slice:
        """The scan slice; its key holds the fingerprint of the data folders (paths, sizes, mtimes)."""
        if "scan" not in self._cut:
            args = self.config.values["args"]
            if self.assumed_clips is not None:
                self._put(self.stages["scan"], {}, f"{self.assumed_clips} assumed clips")
                return self._cut["scan"]
            if not args["train_data"]:
                raise ConfigError("not set; expected a list of folders with videos/ and labels/", key="args.train_data")
            roots = {
                "train_data": _absolute(args["train_data"]),
                "valid_data": _absolute(valid_data.folders(args["valid_data"])),
            }
            follow = read_input(ScanInput, self.config.values).follow_links
            known = json.dumps([roots, follow])
            if known not in self.fingerprints:
                by_split = {"train": roots["train_data"], "valid": roots["valid_data"]}
                self.fingerprints[known] = fingerprint(by_split, follow)
            data_fingerprint = self.fingerprints[known]
            folder_values = {f"args.{name}": folders for name, folders in roots.items()}
            self._put(self.stages["scan"], {}, data_fingerprint, folder_values)
            self._cut |= self._with_run({"scan": self._cut["scan"]})
        return self._cut["scan"]

    def digests(self) -> dict[str, str]:
        """The data digests of the finished scan, or of the assumed clips. Raises UserError if they are missing or damaged."""
        if self.assumed_clips is not None:
            return data_digests(zip(*assumed_columns(self.assumed_clips), strict=True))
        folder = self.place.store / "scan" / self.scan().key
        return read_sealed(folder / "digests.json", dict.fromkeys(DIGESTS, str), how_to_repair(folder))

    def all(self) -> dict[str, Slice]:
        """The slices of all stages, with their run file. The scan, if any, must be finished."""
        digests = self.digests() if self.scans else {}
        digests |= {"formats": digest(sorted(export_formats(self.config.values)))}
        for name, stage in jobs_of(self.config.values).items():
            if name == "scan":
                self.scan()
                continue
            upstream = {part: self._cut[part] for part in stage.upstream if part != "scan" and part in self._cut}
            if self.loaded is not None and (stage.trains or "load" in stage.upstream):
                upstream["load"] = self.loaded
            self._put(stage, upstream, digests.get(stage.data) if stage.data else None)
        self.writes.do(self.place.store / "hashes.json", self.hashes.save)
        return self._with_run(self._cut)

    def _with_run(self, parts: Mapping[str, Slice]) -> dict[str, Slice]:
        """The slices with the run file of their volatile parts."""
        run_content = (self.place.results, self.place.experiment, {part.key: part.volatile for part in parts.values()})
        run = run_path(*run_content)
        self.writes.do(run, lambda: write_run(*run_content))
        return {name: replace(part, run=run) for name, part in parts.items()}

    def _put(
        self, stage: Stage, upstream: dict[str, Slice], data: str | None, more_values: Mapping[str, Any] | None = None
    ) -> None:
        """Cut a slice and keep it. ``more_values``: volatile values besides those of the config."""
        values, files = self._values(stage, upstream), self.config.files
        sources = {
            path: self._sources(path, file)
            for path, file in files.items()
            if not stage.publishes and reads_identity(stage, path)
        }
        hashes = {
            path: files[0].content if len(files) == 1 else self.hashes.joined(files) for path, files in sources.items()
        }
        if _PROMPTS in hashes and values["args"]["image2video"]:
            sources[_PROMPTS] += self._images_of(Path(files[_PROMPTS]))
            hashes[_PROMPTS] = "sha256:" + digest([source.content for source in sources[_PROMPTS]])
        part = self._with_plugins(cut(stage, values, hashes, files, upstream, data), sources)
        if stage.prompted and self.prompts is not None:
            part = self._with_prompts(part, self.prompts, sources)
        volatile = replace(
            part.volatile,
            values=part.volatile.values | dict(more_values or {}),
            jobs=part.volatile.jobs | self._scan_job(stage),
            machine=JobMachine(self.place.ranks),
            sources={key: [[file.path, file.content, file.stamp] for file in files] for key, files in sources.items()},
            report=self._report() if stage.publishes else None,
        )
        if stage.trains and self._memo:
            volatile = replace(volatile, batch_memo=self._memo.name)
            if not (self.place.store / stage.name / part.key / "final").is_dir():  # a finished training needs no ranks
                batch = part.identity["values"]["args"]["global_batch_size"]
                check_batch(self.config, self.place.ranks, (batch, self.batch_from))
        part = replace(part, volatile=volatile)
        self.writes.do(part.path(self.place.store), lambda: part.write(self.place.store))
        self._cut[stage.name] = part

    def _sources(self, key: str, file: str) -> list[Source]:
        """What the key's file or folder is identified by: itself, and the tokenizer beside a text encoder."""
        if key in self.config.missing:
            return [Source(file, MISSING, "", key)]
        tokenizer = tokenizer_beside(Path(file)) if key == MODEL_DIR else None
        sources = [self.hashes.source(path, key) for path in (file, tokenizer) if path is not None]
        for source in sources:
            if any(Path(path).is_relative_to(source.path) for path in self.config.pinned):
                self.hashes.check_pinned(source, self.config.pinned)
        return sources

    def _with_plugins(self, part: Slice, sources: dict[str, list[Source]]) -> Slice:
        """The slice with the plugin packages that its targets use: their source is identity, their path is not. They are
        added to ``sources``."""
        used = used_by(part.config())
        if not used:
            return part
        named = used_by(part.identity["values"])
        plugin_sources = {name: self.hashes.source(source_of(name), "plugins") for name in sorted(named)}
        sources |= {f"plugins.{name}": [source] for name, source in plugin_sources.items()}
        contents = {name: source.content for name, source in plugin_sources.items()}
        identity = part.identity | ({"plugins": contents} if contents else {})
        return Slice(part.stage, identity, replace(part.volatile, plugins=used))

    def _with_prompts(self, part: Slice, prompts: PromptsRun, sources: dict[str, list[Source]]) -> Slice:
        """The slice with the LoRA file, whose content is identity, and the videos to make, which are not: they are rows.
        The files are added to ``sources``."""
        identity = part.identity
        if prompts.lora is not None:
            sources[LORA] = [self.hashes.source(prompts.lora, LORA)]
            identity = identity | {"lora": sources[LORA][0].content}
        images = sorted({row.image for row in prompts.rows if row.image is not None})
        sources |= {_PROMPTS: [self.hashes.source(image, _PROMPTS) for image in images]} if images else {}
        return Slice(part.stage, identity, replace(part.volatile, prompts=prompts))

    def _images_of(self, prompts: Path) -> list[Source]:
        """The images in a prompt file, which its hash covers. Raises ConfigError for an invalid line."""
        return [self.hashes.source(line.image, _PROMPTS) for line in read_prompts(prompts, True) if line.image]

    def _values(self, stage: Stage, upstream: dict[str, Slice]) -> dict[str, Any]:
        values = self.config.values
        if stage.publishes:
            return values | {"experiment": self.place.experiment, "as_written": self.config.raw}
        args = dict(values["args"])
        held_out = args["valid_data"]
        if stage.name == "scan":
            args["valid_data"] = valid_data.folders(held_out)
        elif is_mapping(held_out):
            args["valid_data"] = {name: _absolute(listed) for name, listed in held_out.items()}
        elif held_out:
            args["valid_data"] = _absolute(held_out)
        if isinstance(args.get("load"), dict):
            args["load"] = None  # the other experiment's train key is an upstream identity
        if stage.trains:
            args["global_batch_size"] = self._global_batch(stage, values | {"args": args}, upstream)
        return values | {"args": args}

    def _scan_job(self, stage: Stage) -> dict[str, UpstreamJob]:
        """The scan, which every other stage reads for its manifest."""
        if stage.name == "scan" or not self.scans:
            return {}
        scan = self.scan()
        return {"scan": UpstreamJob("scan", scan.key, scan.items_key)}

    def _report(self) -> ReportRun:
        place, args = self.place, self.config.values["args"]
        folders = {
            name: DataFolders(valid_data.folders(args[name]), self.config.origin_of(f"args.{name}"))
            for name in ("train_data", "valid_data")
            if self.scans and args[name]
        }
        config_yaml = annotated(self.config.values, self.config)
        return ReportRun(place.experiment, config_yaml, place.command, place.made_from, folders)

    def _global_batch(self, stage: Stage, values: dict[str, Any], upstream: dict[str, Slice]) -> int:
        """Clips per optimizer step: ``args.global_batch_size``, else the value that an earlier training started with, else
        micro batch x accumulation x ranks."""
        configured = values["args"].get("global_batch_size")
        if configured:
            self.batch_from = "args.global_batch_size"
            return configured
        self._memo = BatchMemo(self.place.store, cut(stage, values, {}, {}, upstream, None).key)
        if (remembered := self._memo.read()) is None:
            self.batch_from = "args.global_batch_size is not set, so it depends on the ranks at the start of training"
            section = values["deepspeed"]
            passes = section["gradient_accumulation_steps"] * self.place.ranks
            return section["train_micro_batch_size_per_gpu"] * passes
        clips, train = remembered
        self.batch_from = (
            f"as at the start of training {train or 'of this config'}; args.global_batch_size overrides it"
        )
        return clips


def _absolute(folders: list[str]) -> list[str]:
    return [str(Path(folder).resolve()) for folder in folders]

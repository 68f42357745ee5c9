"""Stage `export`: writes the trained weights in the formats of other tools. Each file is loaded again and compared.

The key of the folder does not depend on the list of formats: a new format is a new job that adds a file to the same
folder, and samples stay cached.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogtune.checkpoints import read_header
from cogtune.checkpoints.lora import holds_lora
from cogtune.config.build import build, params_of
from cogtune.config.diffusers_limits import refusal
from cogtune.errors import UserError
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.lora import is_adapter
from cogtune.model.start import Start, initial_model, lora_of, trained_model
from cogtune.model.weights import foreign, load_weights
from cogtune.model.weights.formats import FORMATS, GIGABYTE, NetworkWeights, Settings, write
from cogtune.runtime.devices import device_for, dtype_of
from cogtune.runtime.digest import digest
from cogtune.runtime.paths import inside, remove_own
from cogtune.runtime.sums import write_sums
from cogtune.runtime.typed_json import to_json
from cogtune.stages.job import Job
from cogtune.stages.run_counts import RunCounts
from cogtune.stages.train import start_of, start_sources
from cogtune.train import result
from cogtune.work.content_hashes import proven
from cogtune.work.export_formats import written_formats
from cogtune.work.inputs import ExportInput, TrainInput
from cogtune.work.results import INDEX, ExportedFormat, ExportIndex, ForeignCheck, read_index

TOLERANCE = 1e-4
"""Largest accepted difference between the outputs (fp32, of order 1) of the trained and of a reloaded model."""

_LICENSES = {1920: "apache-2.0", 3072: "CogVideoX LICENSE (huggingface.co/THUDM/CogVideoX-5b)"}
"""Licences of the published models by hidden_size; they also apply to derived weights."""


@dataclass(frozen=True, kw_only=True)
class ExportCounts(RunCounts):
    """``format``: the default one; ``max_abs_error``: the largest of all formats; ``foreign``: for each format, the error of
    the library that it is for, or why it was not checked."""

    format: str
    max_abs_error: float
    foreign: dict[str, float | str]


def run(job: Job[ExportInput]) -> ExportCounts:
    """Write the default format, those beside it, and ``args.export_formats``, unless cached.

    Default: diffusers_lora with comfyui_lora for a LoRA, else diffusers; sat_lora and sat if diffusers cannot compute the
    network.

    index.json holds for each format its path, and by how much the output changes when the file is loaded by us and by
    the library that it is for. The library's output is compared twice: as loaded, and with the epsilon of its last norm
    set to ours. The second must pass, because diffusers uses another epsilon, whatever the weights are.
    Raises UserError if an error exceeds TOLERANCE.
    """
    folder = job.items_dir()
    index = _index(folder)
    if not index:
        remove_own(folder)  # left by a run that was killed before it wrote index.json
    default = index.format if index else _default(job)
    formats = written_formats(default, job.input.formats)
    missing_formats = [name for name in formats if index is None or name not in index.formats]
    if index is None or missing_formats:
        index = _export(job, folder, index, missing_formats)
    return ExportCounts(
        made=len(missing_formats),
        reused=len(formats) - len(missing_formats),
        format=index.format,
        max_abs_error=max(index.formats[name].max_abs_error for name in formats),
        foreign={name: _outcome(index.formats[name].foreign) for name in formats},
    )


def exported(folder: Path) -> Path:
    """The path of the weights in the default format, which `load_weights` reads."""
    index = read_index(folder)
    return inside(folder, index.formats[index.format].path, folder / INDEX)


def _index(folder: Path) -> ExportIndex | None:
    return read_index(folder) if (folder / INDEX).exists() else None


def _outcome(check: ForeignCheck) -> float | str:
    return f"not checked: {check.why}" if check.max_abs_error is None else check.max_abs_error


def _default(job: Job[ExportInput]) -> str:
    lora = holds_lora(read_header(_chosen(job)).tensors)
    if refusal(params_of(start_of(job.upstream_job("train", TrainInput)).network_config)):
        return "sat_lora" if lora else "sat"
    return "diffusers_lora" if lora else "diffusers"


def _export(job: Job[ExportInput], folder: Path, index: ExportIndex | None, names: list[str]) -> ExportIndex:
    train, weights = job.upstream_job("train", TrainInput), _chosen(job)
    start = start_of(train)
    facts = _facts(train, start, json.loads(read_header(weights).metadata["cogtune"]), job.input.license)
    index = index or ExportIndex(names[0], {}, {"source": str(weights), **facts})
    settings = Settings(
        dtype_of(job.input.precision),
        job.input.shard_gigabytes * GIGABYTE,
        facts,
        iteration=max(1, int(facts.get("steps") or 1)),
    )
    with proven(start_sources(train)):
        exporter = Exporter(start, weights, settings)
    for name in names:
        index.formats[name] = exporter.make(name, folder)
        written = folder / FORMATS[name].path
        write_sums(folder, [p for p in ([written] if written.is_file() else written.rglob("*")) if p.is_file()])
        index.write(folder)
    return index


def _facts(train: Job[TrainInput], start: Start, trained: dict[str, Any], license: str | None) -> dict[str, Any]:
    """The metadata of every exported file."""
    identity = train.slice.identity
    hidden = params_of(start.network_config).hidden_size
    base = identity["values"].get("args", {}).get("load")
    return trained | {
        "run": train.key,
        "config": digest(identity["values"]),
        "data": identity.get("data", ""),
        "base": _base(start),
        "base_digest": base if isinstance(base, str) else "",
        "license": license or _LICENSES.get(hidden, "not stated"),
    }


def _base(start: Start) -> str:
    if start.trained:
        return f"result of run {Path(start.trained).parent.parent.name}"
    return "/".join(Path(start.weights).parts[-2:]) if start.weights else start.origin()


def _chosen(job: Job[ExportInput]) -> Path:
    """The file to export: the trained parameters, or with args.ema_sampling their average."""
    return final(job.upstream_job("train", TrainInput), job.input.average)


def final(train: Job[TrainInput], average: bool) -> Path:
    """The file with a training's final parameters, or their ``average``. Raises UserError if it is missing."""
    path = train.job_dir() / "final" / (result.AVERAGE if average else result.MODEL)
    if not path.exists():
        reason = "args.ema_sampling needs an optimizer that keeps an average: sat.ops.FusedEmaAdam"
        raise UserError(f"{path}: missing; {reason if average else 'train first'}")
    return path


class Exporter:
    """The trained network and its output on the probe, computed once for all formats."""

    def __init__(self, start: Start, weights: Path, settings: Settings) -> None:
        self.start, self.device = start, device_for()
        trained = trained_model(start, weights)
        assert isinstance(trained, DiffusionTransformer)
        self.trained = trained
        lora = lora_of(start.network_config)
        alpha = lora.lora_alpha if lora else 1.0
        self.settings = replace(settings, sat_alpha=alpha)
        self.probe = foreign.probe_of(self.trained)
        _round_adapters(self.trained, settings.dtype)
        self.weights = NetworkWeights(self.trained.state_dict(), start.network_config, alpha)
        self.expected = foreign.output(self.trained, self.probe, self.device)

    def make(self, name: str, folder: Path) -> ExportedFormat:
        """Write one format, load it with our code and with the library that it is for, and return its index entry.
        Raises UserError if the output differs by more than TOLERANCE."""
        path = folder / FORMATS[name].path
        size = write(name, path, self.weights, self.settings)
        expected = self._expected(name)
        our_error = _difference(self._reloaded(name, path), expected)
        foreign_run = foreign.load_and_run(name, path, self.trained, self.probe, self.device)
        if foreign_run.output is None or foreign_run.like_ours is None:
            check, max_error = ForeignCheck(foreign_run.loader, why=foreign_run.why), our_error
        else:
            like_ours = _difference(foreign_run.like_ours, expected)
            check = ForeignCheck(foreign_run.loader, None, _difference(foreign_run.output, expected), like_ours)
            max_error = max(our_error, like_ours)
        if not max_error <= TOLERANCE:
            raise UserError(
                f"{path}: after reloading, the exported weights change the output by {max_error:.2e} "
                f"({to_json(check)}); expected at most {TOLERANCE:.0e}. This is a bug in the export; please report it. "
                f"Your training is not affected: its weights are in {self.start.origin()} and final/"
            )
        return ExportedFormat(FORMATS[name].path, size, max_error, our_error, check)

    def _expected(self, name: str) -> Tensor:
        """The trained network's output. If a full network is exported in another precision, rounding changes the
        output, so it is computed by a network with the rounded weights."""
        if FORMATS[name].adapters is not None or self.settings.dtype in (None, torch.float32):
            return self.expected
        with torch.device("meta"):
            network: DiffusionTransformer = build(self._node(name))
        state = self.settings.cast(self.weights.state if name == "sat" else self.weights.merged())
        computed = network.derived_state() if name == "diffusers" else {}
        network.load_state_dict({n: tensor.float() for n, tensor in (state | computed).items()}, assign=True)
        return foreign.output(network, self.probe, self.device)

    def _node(self, name: str) -> dict[str, Any]:
        return self.start.network_config if name == "sat" else self.weights.plain_node()

    def _reloaded(self, name: str, path: Path) -> Tensor:
        """The output of the exported file. Adapters are loaded into the network in memory: a second 5B model would need
        22 GB more."""
        if FORMATS[name].adapters is None:
            network: Any = initial_model(Start(self._node(name), seed=0, weights=str(path)))
            return foreign.output(network, self.probe, self.device)
        adapters = {n: p for n, p in self.trained.named_parameters() if is_adapter(n)}
        trained_values = {n: p.detach().clone() for n, p in adapters.items()}
        try:
            _fill(adapters, dict.fromkeys(adapters, torch.tensor(0.0)))  # to detect a load that does nothing
            load_weights(self.trained, path)
            return foreign.output(self.trained, self.probe, self.device)
        finally:
            _fill(adapters, trained_values)


@torch.no_grad()
def _round_adapters(network: torch.nn.Module, dtype: torch.dtype | None) -> None:
    """Round adapters to the precision of the export, so that the comparison excludes rounding."""
    for name, parameter in network.named_parameters():
        if dtype is not None and is_adapter(name):
            parameter.copy_(parameter.to(dtype))


@torch.no_grad()
def _fill(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _difference(output: Tensor, expected: Tensor) -> float:
    return float((output - expected).abs().max())

"""Stage `export`: the trained weights in the formats of other tools, each loaded again and compared before it counts.

The folder is that of the weights, not of a list of formats: another format is a new job over it that adds a file, and
nothing that was sampled from the weights is made again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogtune.checkpoints import read_header
from cogtune.checkpoints.lora import holds_lora
from cogtune.config.build import build, params_of
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
from cogtune.stages.train import start_of, start_sources
from cogtune.train import result
from cogtune.work.content_hashes import proven
from cogtune.work.inputs import ExportInput, TrainInput
from cogtune.work.results import INDEX, ExportedFormat, ExportIndex, ForeignCheck, read_index

TOLERANCE = 1e-4
"""Largest difference between outputs (fp32, of order 1) of the trained and of a reloaded model that passes."""

_LICENSES = {1920: "apache-2.0", 3072: "CogVideoX LICENSE (huggingface.co/THUDM/CogVideoX-5b)"}
"""Of the published models, by hidden_size; derived weights are under it too."""


def run(job: Job[ExportInput]) -> dict[str, Any]:
    """Write what is lacking of the default format (LoRA: diffusers_lora, else diffusers) and ``args.export_formats``.

    index.json says for each format where it is, and by how much the output changes when it is loaded by us and by the
    library that it is for: as that library loads it, and with the epsilon of its last norm made equal to ours, which
    is what has to pass (diffusers has an epsilon of its own, whatever the weights are).
    Returns how many were made and reused, the default format, the largest error, and what the foreign loaders said;
    UserError above TOLERANCE.
    """
    folder = job.items_dir()
    index = _index(folder)
    if not index:
        remove_own(folder)  # left over from a run that died before index.json
    wanted = dict.fromkeys([index.format if index else _default(job), *job.input.formats])
    missing = [name for name in wanted if index is None or name not in index.formats]
    if index is None or missing:
        index = _export(job, folder, index, missing)
    return {
        "made": len(missing),
        "reused": len(wanted) - len(missing),
        "format": index.format,
        "max_abs_error": max(index.formats[name].max_abs_error for name in wanted),
        "foreign": {name: _outcome(index.formats[name].foreign) for name in wanted},
    }


def exported(folder: Path) -> Path:
    """The weights in the default format, which `load_weights` reads."""
    index = read_index(folder)
    return inside(folder, index.formats[index.format].path, folder / INDEX)


def _index(folder: Path) -> ExportIndex | None:
    return read_index(folder) if (folder / INDEX).exists() else None


def _outcome(check: ForeignCheck) -> float | str:
    return f"not checked: {check.why}" if check.max_abs_error is None else check.max_abs_error


def _default(job: Job[ExportInput]) -> str:
    return "diffusers_lora" if holds_lora(read_header(_chosen(job)).tensors) else "diffusers"


def _export(job: Job[ExportInput], folder: Path, index: ExportIndex | None, names: list[str]) -> ExportIndex:
    given, train, weights = job.input, job.upstream_job("train", TrainInput), _chosen(job)
    start = start_of(train)
    facts = _facts(train, start, json.loads(read_header(weights).metadata["cogtune"]), given.license)
    index = index or ExportIndex(names[0], {}, {"source": str(weights), **facts})
    how = Settings(
        dtype_of(given.precision),
        given.shard_gigabytes * GIGABYTE,
        facts,
        iteration=max(1, int(facts.get("steps") or 1)),
    )
    with proven(start_sources(train)):
        work = Exporter(start, weights, how)
    for name in names:
        index.formats[name] = work.make(name, folder)
        written = folder / FORMATS[name].path
        write_sums(folder, [p for p in ([written] if written.is_file() else written.rglob("*")) if p.is_file()])
        index.write(folder)
    return index


def _facts(train: Job[TrainInput], start: Start, trained: dict[str, Any], license: str | None) -> dict[str, Any]:
    """What stands beside the weights in every file."""
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
    """What is exported: the trained parameters, or with args.ema_sampling their average."""
    return final(job.upstream_job("train", TrainInput), job.input.average)


def final(train: Job[TrainInput], average: bool) -> Path:
    """What a training left: its parameters, or their ``average``. Raises UserError if it is not there."""
    path = train.job_dir() / "final" / (result.AVERAGE if average else result.MODEL)
    if not path.exists():
        key = "args.ema_sampling: the optimizer kept no average; use sat.ops.FusedEmaAdam" if average else "train first"
        raise UserError(f"{path}: not there ({key})")
    return path


class Exporter:
    """The trained network, and its output on the probe, for all formats."""

    def __init__(self, start: Start, weights: Path, how: Settings) -> None:
        self.start, self.device = start, device_for()
        trained = trained_model(start, weights)
        assert isinstance(trained, DiffusionTransformer)
        self.trained = trained
        lora = lora_of(start.network_config)
        alpha = lora.lora_alpha if lora else 1.0
        self.how = Settings(how.dtype, how.shard, how.facts, how.iteration, alpha)
        self.probe = foreign.probe_of(self.trained)
        _round_adapters(self.trained, how.dtype)
        self.whole = NetworkWeights(self.trained.state_dict(), start.network_config, alpha)
        self.expected = foreign.output(self.trained, self.probe, self.device)

    def make(self, name: str, folder: Path) -> ExportedFormat:
        """Write one format, load it again both ways; returns its entry of the index."""
        path = folder / FORMATS[name].path
        size = write(name, path, self.whole, self.how)
        expected = self._expected(name)
        own = _difference(self._reloaded(name, path), expected)
        theirs = foreign.load_and_run(name, path, self.trained, self.probe, self.device)
        if theirs.output is None or theirs.like_ours is None:
            check, worst = ForeignCheck(theirs.loader, why=theirs.why), own
        else:
            like_ours = _difference(theirs.like_ours, expected)
            check = ForeignCheck(theirs.loader, None, _difference(theirs.output, expected), like_ours)
            worst = max(own, like_ours)
        if not worst <= TOLERANCE:
            raise UserError(
                f"{path}: the exported weights, loaded again, change the output by {worst:.2e} "
                f"({to_json(check)}); {TOLERANCE:.0e} passes. This is a defect of the export, not of your training: "
                f"the trained weights are in {self.start.origin()} and final/"
            )
        return ExportedFormat(FORMATS[name].path, size, worst, own, check)

    def _expected(self, name: str) -> Tensor:
        """Of the trained network. A whole network in another precision is a network of its own, since rounding changes
        the output; it is then built from what is written."""
        if FORMATS[name].adapters is not None or self.how.dtype in (None, torch.float32):
            return self.expected
        with torch.device("meta"):
            network: DiffusionTransformer = build(self._node(name))
        state = self.how.cast(self.whole.state if name == "sat" else self.whole.merged())
        computed = network.derived_state() if name == "diffusers" else {}
        network.load_state_dict({n: tensor.float() for n, tensor in (state | computed).items()}, assign=True)
        return foreign.output(network, self.probe, self.device)

    def _node(self, name: str) -> dict[str, Any]:
        return self.start.network_config if name == "sat" else self.whole.plain_node()

    def _reloaded(self, name: str, path: Path) -> Tensor:
        """The output by what was written. Adapters go over the weights that are here: no second 22 GB for a 5B model."""
        if FORMATS[name].adapters is None:
            network: Any = initial_model(Start(self._node(name), seed=0, weights=str(path)))
            return foreign.output(network, self.probe, self.device)
        adapters = {n: p for n, p in self.trained.named_parameters() if is_adapter(n)}
        kept = {n: p.detach().clone() for n, p in adapters.items()}
        try:
            _fill(adapters, dict.fromkeys(adapters, torch.tensor(0.0)))  # so that a reload that does nothing shows
            load_weights(self.trained, path)
            return foreign.output(self.trained, self.probe, self.device)
        finally:
            _fill(adapters, kept)


@torch.no_grad()
def _round_adapters(network: torch.nn.Module, dtype: torch.dtype | None) -> None:
    """To the precision that is written, so that what is compared is the file and not the rounding."""
    for name, parameter in network.named_parameters():
        if dtype is not None and is_adapter(name):
            parameter.copy_(parameter.to(dtype))


@torch.no_grad()
def _fill(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _difference(given: Tensor, expected: Tensor) -> float:
    return float((given - expected).abs().max())

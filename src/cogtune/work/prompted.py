"""The model of `cogtune sample EXPERIMENT|WEIGHTS`: the config of its videos, and where its weights come from."""

import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cogtune.checkpoints import Header, fit, kinds, read_header
from cogtune.checkpoints.lora import PROJECTIONS, read_lora
from cogtune.checkpoints.published import FIRST, NEWER
from cogtune.config.geometry import NETWORK_PREFIX, PIXELS_PER_LATENT, latent_frames
from cogtune.config.merge import Config
from cogtune.config.overrides import parse_overrides
from cogtune.config.schema.common import FRAMES
from cogtune.config.values import Values
from cogtune.errors import UserError
from cogtune.runtime.typed_json import is_mapping
from cogtune.work.experiment import Experiment
from cogtune.work.results import SUMMARY
from cogtune.work.runs import known_runs
from cogtune.work.sampled_weights import is_sampled, weights_at
from cogtune.work.slices import Slice, how_read
from cogtune.work.stages import PROMPTS, PROMPTS_MODE
from cogtune.work.workspace import Workspace

_SIZES = ("image_size", "num_frames", "fps")
_GUIDER = "model.sampler_config.params.guider_config"
_LORA = "model.network_config.params.modules.lora_config"


@dataclass(frozen=True)
class Options:
    """What the command line changes in the config; None: as in the config."""

    steps: int | None = None
    guidance: float | None = None
    frames: int | None = None


@dataclass(frozen=True)
class Prompted:
    """``config``: of the sample job. ``train``: the training whose result is sampled, else the weights are in
    ``args.load``, and ``lora`` is a LoRA file to add. ``has_lora``: its strength can be set; ``has_base``: the model before
    training is known. ``note``: what was decided, for the user."""

    config: Config
    ranks: int
    train: Slice | None = None
    lora: Path | None = None
    has_lora: bool = False
    has_base: bool = False
    note: str = ""

    @property
    def guided(self) -> bool:
        """Whether the sampler's guider is used, and is one."""
        values = Values(self.config.values)
        target = values.get(f"{_GUIDER}.target")
        return bool(values["args.sampling_guided"]) and target not in (None, "IdentityGuider")


def of_experiment(workspace: Workspace, name: str, options: Options) -> Prompted:
    """The result of an experiment that trains, or the weights of one that only samples. The scans of its chain must be
    done. Raises UserError with the command to run if its training is not finished."""
    experiment, config = workspace.experiments[name], workspace.config(name)
    source = name if workspace.resolver(name).scans else workspace.parent(config)
    sets = (*experiment.set, *_sets(config, options))
    config = workspace.load_config(replace(experiment, set=sets))
    train = None if source is None else workspace.slices(source)["train"]
    if train is not None:
        _require_finished(workspace, source or name, train)
    adapters = bool(Values(config.values).get(_LORA))
    return Prompted(_prompting(config, train is not None), experiment.ranks, train, None, adapters, train is not None)


def of_weights(
    workspace: Workspace, path: Path, base: Sequence[str], overrides: Sequence[str], options: Options, ranks: int
) -> Prompted:
    """The weights in a file or folder (`weights_at`): a LoRA with its base weights in ``args.load`` of ``base``, or a full network.
    ``base``: YAML files; none: those of the experiment that the file's metadata names. Raises UserError."""
    path, header = weights_at(path)
    is_lora = kinds.roles(header) == ["lora"]
    if not is_sampled(header):
        inside = " and ".join(kinds.WORDS[role] for role in kinds.roles(header)) or "no known weights"
        raise UserError(f"{path}: contains {inside}; expected a LoRA, a transformer, or the name of an experiment")
    experiment = Experiment("weights", tuple(base), tuple(overrides), ranks)
    note = ""
    if not base:
        known = _experiment_of(workspace, header)
        experiment = replace(known, set=(*known.set, *overrides), typed=len(overrides))
        note = f"base: the config of experiment {known.name}, which the file's metadata names"
    written = workspace.load_config(experiment, check_files=False, partial=True)
    if not Values(written.values).get("model.network_config"):
        raise UserError(f"{' '.join(experiment.base)}: no model section; expected the YAML of the network in --base")
    with tempfile.TemporaryDirectory() as folder:  # the check of mode inference wants a prompt file
        (Path(folder) / "prompts.txt").write_text("-")
        fixed = ["args.mode=inference", "args.input_type=txt", f"args.input_file={folder}/prompts.txt"]
        fixed.append("args.ema_sampling=false")
        if is_lora:
            fixed += _lora_sets(header, written)
        else:
            fixed.append(f"args.load={path.resolve()}")
        experiment = replace(experiment, set=(*experiment.set, *fixed, *_published_size(written)))
        config = workspace.load_config(experiment, check_files=False)
        weights = Path(config.files["args.load"]) if is_lora else path
        experiment = replace(experiment, set=(*experiment.set, *_sets(config, options), *_precision(config, weights)))
        config = workspace.load_config(experiment)
    if is_lora and (misfit := fit.fit(config.values["model"]["network_config"], header)):
        raise UserError(f"{path} does not fit the network of {' '.join(experiment.base)}:\n{misfit.listed()}")
    adapters = is_lora or any("matrix_A" in name for name in header.tensors)
    return Prompted(_prompting(config, False), ranks, None, path if is_lora else None, adapters, is_lora, note)


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError for an override that does not change a video, or that the command sets itself."""
    for one in parse_overrides(overrides):
        key = ".".join(one.path)
        if key == "args.mode" or not any(how_read(stage, key) for stage in PROMPTS.values()):
            raise UserError(f"{key}: does not affect the videos of `cogtune sample`; remove it")


def _sets(config: Config, options: Options) -> list[str]:
    """Overrides of the config for the options. Raises UserError for an option that cannot apply."""
    values, sets = Values(config.values), list[str]()
    if options.steps is not None:
        sets.append(f"args.sampling_steps={options.steps}")
    if options.guidance is not None:
        if values.get(f"{_GUIDER}.params.scale") is None:
            raise UserError(
                f"--guidance: the sampler of this config has no guider with a scale ({values.get(f'{_GUIDER}.target')})"
            )
        sets += [f"{_GUIDER}.params.scale={options.guidance}", "args.sampling_guided=true"]
    if options.frames is not None:
        if options.frames not in FRAMES or options.frames % 4 != 1:
            below = max(0, options.frames - 1) // 4 * 4 + 1
            raise UserError(f"--frames {options.frames}: the VAE makes 4k + 1 frames; expected {below} or {below + 4}")
        sections = is_mapping(config.raw.get("data"))
        latent = options.frames // 4 + 1
        sets.append(
            f"data.params.max_num_frames={options.frames}" if sections else f"args.sampling_num_frames={latent}"
        )
    return sets


def _published_size(config: Config) -> list[str]:
    """Size, length and rate for which the network's YAML was published, unless the config gives them."""
    args: dict[str, Any] = config.raw.get("args") or {}
    if is_mapping(config.raw.get("data")) or any(f"sampling_{name}" in args for name in _SIZES):
        return []
    network = config.values["model"]["network_config"]["params"]
    clips, size = FIRST, [network["latent_height"] * PIXELS_PER_LATENT, network["latent_width"] * PIXELS_PER_LATENT]
    if network["patch_size"][0] > 1:  # CogVideoX1.5, whose latent_height and latent_width are the largest possible
        clips, size = NEWER, list(NEWER.size)
    values = (size, latent_frames(network["num_frames"]), clips.fps)
    return [f"args.sampling_{name}={value}" for name, value in zip(_SIZES, values, strict=True)]


def _precision(config: Config, weights: Path | None) -> list[str]:
    """The precision: of the args; else of the deepspeed section, which mode inference does not read; else of ``weights``,
    the file with the network."""
    if config.values["args"]["bf16"] or config.values["args"]["fp16"]:
        return []
    written = Values(config.raw)
    sections = [name for name in ("bf16", "fp16") if written.get(f"deepspeed.{name}.enabled") is True]
    if not sections and weights is not None and weights.exists():
        most = kinds.dtypes(kinds.component(read_header(weights), NETWORK_PREFIX))[:1]
        sections = [name for name, dtype in (("bf16", "BF16"), ("fp16", "F16")) if [dtype] == most]
    return [f"args.{name}=true" for name in sections[:1]]


def _prompting(config: Config, trained: bool) -> Config:
    """The config of the sample job: no data set, and the weights of a training are upstream."""
    load = {"experiment": ""} if trained else config.values["args"]["load"]
    args = config.values["args"] | {"mode": PROMPTS_MODE, "load": load, "sampling_controls": []}
    files = {key: file for key, file in config.files.items() if not (trained and key == "args.load")}
    return replace(config, values=config.values | {"args": args}, files=files)


def _require_finished(workspace: Workspace, name: str, train: Slice) -> None:
    folder = workspace.store / "train" / train.key
    if (folder / "final" / SUMMARY).exists():
        return
    steps = [int(path.parent.name[5:]) for path in folder.glob("checkpoints/step-*/record.json")]
    state = (
        f"stopped at step {max(steps)}" if steps else "not started" if not folder.exists() else "has no checkpoint yet"
    )
    export = workspace.results / name / "export"
    earlier = (
        f"\nThe weights of an earlier config of {name} are in {export}: cogtune sample {export}/FILE --base YAML"
        if export.exists()
        else ""
    )
    raise UserError(
        f"{name}: the training of its present config is not finished ({state}; `cogtune plan {name}` says why), and a "
        f"checkpoint cannot be sampled; run first:\n  cogtune run {name}{earlier}"
    )


def _lora_sets(header: Header, config: Config) -> list[str]:
    """Overrides that give the network adapters of the file's rank and layers. Raises UserError."""
    load = config.values["args"]["load"]
    if not isinstance(load, str):
        kind = "the result of another experiment" if load else "not set"
        raise UserError(
            f"{header.path}: a LoRA needs the path of its base weights, but args.load is {kind} in the config of its base; "
            f"add `-- args.load=PATH`"
        )
    lora = read_lora(header)
    if len(lora.ranks) != 1:
        raise UserError(f"{header.path}: adapters of several ranks {lora.ranks}; a network supports one rank")
    layers = sorted({layer for layer, _ in lora.adapters})
    if any((layer, projection) not in lora.adapters for layer in layers for projection in PROJECTIONS):
        raise UserError(f"{header.path}: some layers lack adapters of {', '.join(PROJECTIONS)}; all four are needed")
    sets = [f"{_LORA}.target=Lora", f"{_LORA}.params.r={lora.ranks[0]}", f"{_LORA}.params.layer_range={layers}"]
    return [*sets, "model.lora_train=true"]


def _experiment_of(workspace: Workspace, header: Header) -> Experiment:
    """The experiment whose training made the file, by the metadata. Raises UserError."""
    facts = facts_of(header)
    for path, parts in known_runs(workspace.results):
        if facts.get("run") in parts:
            name = json.loads(path.read_text(encoding="utf-8")).get("experiment")
            if name in workspace.experiments:
                return workspace.experiments[name]
    named = f"; its metadata names {facts['base']}" if isinstance(facts.get("base"), str) else ""
    kind = "its base model, with args.load" if kinds.roles(header) == ["lora"] else "the network"
    again = f"cogtune sample {shlex.quote(str(header.path))} --base config/NAME.yaml …"
    raise UserError(f"{header.path}: give the YAML of {kind} with --base{named}:\n  {again}")


def facts_of(header: Header) -> Mapping[str, Any]:
    """The metadata that cogtune writes into weight files; empty for other files."""
    try:
        facts: Any = json.loads(header.metadata.get("cogtune", "{}"))
    except ValueError:
        return {}
    return facts if is_mapping(facts) else {}

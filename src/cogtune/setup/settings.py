"""Choose the settings of a new experiment: what its clips, its model and its device allow, each with a reason."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cogtune.config.merge import Config
from cogtune.config.paths import DATA, WEIGHTS
from cogtune.errors import UserError
from cogtune.plan.remedies import LORA_RANK
from cogtune.runtime.machines import Device
from cogtune.setup.clips import Data
from cogtune.setup.fitting import Candidate, Fit, candidates, fit, least_memory
from cogtune.setup.lengths import Length, choose_length, lengths, longer_and_shorter
from cogtune.setup.models import StartModel
from cogtune.work.load import load_config

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_SAMPLES = 4
_SAVE_INTERVAL = 100
_LORA_REASON = "for lora_alpha 1 (config/lora.yaml); 5e-4 to 1e-3"
_FULL_REASON = "of full tuning"
_FEWEST_FRAMES = 9


@dataclass(frozen=True)
class Wish:
    """What the user asks for; None: choose it. ``weights``: path of the model's weights."""

    name: str
    data: Data
    model: StartModel
    lora: bool
    device: Device
    ranks: int
    frames: int | None = None
    steps: int | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Setting:
    """A line of `set`. ``why``: in a few words."""

    key: str
    value: Any
    why: str

    @property
    def override(self) -> str:
        """As after `--`. A list with more than plain words is in JSON, so that any path can be in it."""
        value = self.value
        if isinstance(value, list) and all(_WORD.fullmatch(str(item)) for item in value):
            text = f"[{','.join(map(str, value))}]"
        elif isinstance(value, list | bool) or value is None:
            text = json.dumps(value, ensure_ascii=False)
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
        return f"{self.key}={text}"


@dataclass(frozen=True)
class NewExperiment:
    """``settings``: the lines of `set`. ``remarks``: for the user, one line each. ``config``: merged and checked. ``peaks``: bytes
    on a device by stage."""

    name: str
    base: tuple[str, ...]
    ranks: int
    settings: tuple[Setting, ...]
    remarks: tuple[str, ...]
    config: Config = field(repr=False)
    peaks: dict[str, float]


def choose(wish: Wish) -> NewExperiment:
    """The experiment. Raises UserError if no clip is long enough or nothing fits the device; ConfigErrors if the model's files
    do not fit."""
    model, training = wish.model, wish.model.training(wish.lora)
    skip, choices = _choices(wish)
    length = _length(wish, choices, skip)
    fixed = [*_data(wish), *_size(wish, length, skip), *_precision(wish)]
    length, fitting = _fitting(wish, training.base, fixed, length)
    settings = [
        *_data(wish),
        *_size(wish, length, skip),
        *_precision(wish),
        *_training(wish, fitting),
        *_sampling(wish),
    ]
    settings += [
        Setting(*_split(remedy.text), f"{stage} fits then")
        for stage, remedies in fitting.remedies.items()
        for remedy in remedies
    ]
    config = load_config(training.base, [setting.override for setting in settings], may_miss={WEIGHTS, DATA})
    remarks = (*_remarks(wish, length, choices), *([] if model.is_toy else config.notices))
    return NewExperiment(wish.name, training.base, wish.ranks, tuple(settings), remarks, config, fitting.peaks)


def _choices(wish: Wish) -> tuple[int, list[Length]]:
    """(source frames to leave out at either end, the lengths that remain): none where the clips are short."""
    model = wish.model
    choices = lengths(wish.data, model.frames, model.fps, model.skip)
    if model.skip and not (choices and choices[0].frames == model.frames and choices[0].kept == len(wish.data.rows)):
        return 0, lengths(wish.data, model.frames, model.fps, 0)
    return model.skip, choices


def _length(wish: Wish, choices: list[Length], skip: int) -> Length:
    if wish.frames is None:
        return choose_length(choices)
    kept = wish.data.usable(wish.frames, wish.model.fps, skip)
    if not kept:
        raise UserError(f"--frames {wish.frames}: all clips are shorter; {longest(choices)}")
    return Length(wish.frames, wish.model.fps, kept, len(wish.data.rows))


def longest(choices: list[Length]) -> str:
    """The longest possible choice, for a message."""
    return f"possible: {choices[0]}" if choices else "use longer clips"


def _fitting(wish: Wish, base: tuple[str, ...], fixed: list[Setting], length: Length) -> tuple[Length, Fit]:
    """Settings that fit, with fewer frames if need be (unless the user gave their number). Raises UserError."""
    values = load_config(base, [setting.override for setting in fixed], check_files=False).values
    tried = _candidates(wish, length.kept)
    frames = [length.frames]
    while wish.frames is None and frames[-1] > _FEWEST_FRAMES:
        frames.append(max(_FEWEST_FRAMES, frames[-1] // 8 * 4 + 1))
    for count in frames:
        values["data"]["params"]["max_num_frames"] = count
        if (fitting := fit(values, tried, wish.ranks, wish.device)) is not None:
            kept = wish.data.usable(count, length.fps, values["data"]["params"]["skip_frms_num"])
            return replace(length, frames=count, kept=kept), fitting
    raise UserError(_nothing_fits(wish, values, tried, frames[-1]))


def _candidates(wish: Wish, clips: int) -> list[Candidate]:
    training = wish.model.training(wish.lora)
    accumulate = wish.model.is_toy or not wish.lora
    return list(candidates(wish.ranks, clips, training.batch, wish.lora, accumulate))


def _nothing_fits(wish: Wish, values: dict[str, Any], tried: list[Candidate], frames: int) -> str:
    stage, needed = least_memory(values, tried, wish.ranks, wish.device)
    options = [f"use a GPU with {needed / 1e9:.1f} GB"]
    if stage == "train":
        options += [] if wish.lora else ["more GPUs (--ranks)", "--lora"]
    options += [] if wish.model.name == "cogvideox-2b" or stage == "text" else ["--model cogvideox-2b"]
    return (
        f"{wish.model.title} does not fit on {wish.device.name}: {stage} needs {needed / 1e9:.1f} GB of memory, with "
        f"{frames} frames and every setting that saves some; {', or '.join(options)}"
    )


def _data(wish: Wish) -> Iterator[Setting]:
    data, model = wish.data, wish.model
    yield Setting("args.train_data", [data.folder], f"{len(data.rows)} clips; captions: {data.captions}")
    if data.valid is not None:
        yield Setting("args.valid_data", [data.valid], f"{len(data.valid_rows)} clips, not trained on")
    elif model.is_toy:
        yield Setting("args.valid_data", None, "none given (--valid FOLDER)")
    if wish.weights is not None:
        pipeline = (Path(wish.weights).expanduser() / "transformer").is_dir()
        yield Setting("model.weights_dir" if pipeline else "args.load", wish.weights, f"weights of {model.title}")


def _size(wish: Wish, length: Length, skip: int) -> Iterator[Setting]:
    model = wish.model
    height, width = model.size
    if not model.is_toy:
        yield Setting("data.params.video_size", [height, width], "height, width of this model")
        yield Setting("data.params.fps", model.fps, "of this model")
    if skip != model.skip:
        yield Setting("data.params.skip_frms_num", skip, "the clips are short: no frame is left out at the ends")
    seconds = f"{(length.frames - 1) / length.fps:.1f} s"
    yield Setting(
        "data.params.max_num_frames", length.frames, f"{seconds}: {length.kept} of {length.total} clips are long enough"
    )


def _precision(wish: Wish) -> Iterator[Setting]:
    if wish.model.precision == "fp16":
        half = wish.device.gpu  # a CPU cannot train in fp16
        yield Setting("deepspeed.fp16.enabled", half, "as this model was trained" if half else "not on a CPU")
        yield Setting("deepspeed.bf16.enabled", not half, "")


def _training(wish: Wish, fitting: Fit) -> Iterator[Setting]:
    training, typed = wish.model.training(wish.lora), dict(fitting.candidate.typed)
    needed, memory = fitting.peaks["train"] / 1e9, wish.device.memory / 1e9
    size = f" ({needed:.0f} of {memory:.0f} GB)" if wish.device.gpu and memory else ""
    whys = {
        "args.checkpoint_activations": f"fits {wish.device.name}{size}" if not wish.model.is_toy else "it is small",
        "deepspeed.train_micro_batch_size_per_gpu": "clips at once on a device",
        "args.global_batch_size": f"clips a step, with any number of ranks; {wish.ranks} here",
        LORA_RANK: "rank; smaller, to save memory",
    }
    for key, value in typed.items():
        yield Setting(key, value, whys.get(key, "to save memory"))
    reason = _LORA_REASON if wish.lora and not wish.model.is_toy else _FULL_REASON
    if wish.model.is_toy:
        reason = "as in the demo"
    yield Setting("deepspeed.optimizer.params.lr", training.rate, reason)
    steps = wish.steps or training.steps
    passes = steps * fitting.candidate.clips / max(1, len(wish.data.rows))
    yield Setting(
        "args.train_iters",
        steps,
        f"{passes:.2g} passes over the clips" if passes < 10 else f"{passes:,.0f} passes over the clips",
    )
    if wish.lora and not wish.model.is_toy:
        yield Setting("args.save_interval", min(_SAVE_INTERVAL, steps), "a stop loses at most so many steps")


def _sampling(wish: Wish) -> Iterator[Setting]:
    count = min(_SAMPLES, len(wish.data.rows))
    yield Setting("args.sampling_count", count, "captions that the report samples")
    yield Setting("args.sampling_controls", ["base"], "before and after training")


def _remarks(wish: Wish, length: Length, choices: list[Length]) -> Iterator[str]:
    others = longer_and_shorter(choices, length)
    if length.frames < wish.model.frames or length.kept < length.total or others:
        alternatives = f". Other choices with --frames: {'; '.join(others)}" if others else ""
        yield f"{length}{alternatives}"
    if wish.data.valid is None:
        yield (
            "no validation clips, so the report cannot show overfitting. A folder is not split: move some clips, which are "
            "then not trained on, into another folder, and give it with --valid"
        )
    if wish.data.rejects:
        yield f"{len(wish.data.rejects)} files are not used; `cogtune plan {wish.name}` names the scan that lists them"


def _split(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    return key, json.loads(value) if value[:1] in "[0123456789" else value

"""The first lines of a report: what was trained, from what, how, and where."""

from typing import Any

from cogtune.checkpoints.kinds import family
from cogtune.checkpoints.shapes import shapes_of
from cogtune.config.build import params_of
from cogtune.evaluation.report.report_data import DataFacts
from cogtune.work.inputs import LoadedSampleInput, SampleInput, TrainInput
from cogtune.work.records import Record
from cogtune.work.results import TrainSummary

Facts = list[tuple[str, str]]


def trained_facts(
    train: TrainInput,
    sample: SampleInput,
    summary: TrainSummary,
    base: str,
    data: DataFacts,
    record: Record | None,
) -> Facts:
    """(term, value) of an experiment that trains. ``base``: the weights that it started from, in words; ``record``: of the
    train job."""
    accumulated = train.global_batch // (train.micro_batch * summary.ranks)
    split = [f"{train.micro_batch} per pass"]
    split += [f"{accumulated} passes"] if accumulated > 1 else []
    split += [f"{summary.ranks} ranks"] if summary.ranks > 1 else []
    return [
        ("Base model", f"{model_name(train.network)}, {base}"),
        ("Method", _method(train.network, summary)),
        ("Learning rate", f"{train.lr:.3g}, {train.lr_decay_style} schedule"),
        ("Steps", steps_text(summary)),
        ("Batch", f"{_count(train.global_batch, 'clip')} a step ({' × '.join(split)})"),
        ("Clips", _clips(data)),
        ("Clip size", _size(sample)),
        ("Device", _device(record)),
    ]


def steps_text(summary: TrainSummary) -> str:
    """The number of steps, and of those that changed nothing."""
    parts = [f"{summary.steps:,}"]
    if summary.skipped_steps:
        parts.append(f"{summary.skipped_steps:,} of them skipped, because loss or gradient was not finite")
    if summary.overflowed_steps:
        parts.append(f"{summary.overflowed_steps:,} of them without update, while fp16 searched its loss scale")
    return ", ".join(parts)


def sampled_facts(sample: LoadedSampleInput, weights: str, record: Record | None) -> Facts:
    """(term, value) of an experiment that only samples; ``weights``: what it loaded, in words."""
    return [
        ("Model", f"{model_name(sample.network)}, {weights}"),
        ("Sample size", _size(sample)),
        ("Device", _device(record)),
    ]


def model_name(network: dict[str, Any]) -> str:
    """The published model of this network's sizes, or its sizes."""
    shapes = shapes_of(network)
    name = family(shapes) if shapes else "custom"
    if name != "custom":
        return f"CogVideoX{'' if name[0:2] == '1.' else '-'}{name}"
    params = params_of(network)
    return f"a network of {_count(params.num_layers, 'layer')}, width {params.hidden_size}"


def _method(network: dict[str, Any], summary: TrainSummary) -> str:
    share = f"{_short(summary.parameters_trained)} of {_short(summary.parameters_total)} parameters"
    node = params_of(network).modules.get("lora_config")
    if node is None:
        return f"full training, {share}"
    lora = params_of(node)
    return f"LoRA, rank {lora.r}, alpha {lora.lora_alpha:g} (alpha / rank {lora.lora_alpha / lora.r:.3g}), {share}"


def _clips(data: DataFacts) -> str:
    text = f"{data.clips.get('train', 0)} for training"
    return (
        f"{text}, {data.clips['valid']} for validation" if data.clips.get("valid") else f"{text}, none for validation"
    )


def _size(sample: SampleInput) -> str:
    height, width = sample.video_size
    return f"{_count(sample.max_num_frames, 'frame')} of {width}×{height} at {sample.fps:g} per second"


def _device(record: Record | None) -> str:
    if record is None or not record.device:
        return "not recorded"
    return record.device if record.devices == 1 else f"{record.devices} × {record.device}"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _short(number: int) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return str(number)

"""THE TABLE: one row per stage with its input, upstream stages, unit and cost.

A stage receives the keys that its input declares (`inputs.py`) and nothing else (`slices.py` cuts them).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cogtune.errors import UserError
from cogtune.work.inputs import (
    EvaluateInput,
    ExportInput,
    ImagesInput,
    LatentsInput,
    LoadedSampleInput,
    PreprocessInput,
    PromptedInput,
    ReportInput,
    SampleInput,
    ScanInput,
    SweepInput,
    TextInput,
    TrainInput,
)
from cogtune.work.stage_input import reads_of


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    ``input``: the dataclass that declares what the stage reads. ``help``: description for the command line. ``unit``: unit
    of its work, in the plural unless there is only one. ``cost``: the class of plan/stage_costs.py that computes the
    remaining work and its cost; without it a plan prints ``?``. ``upstream``: the stages whose results it reads.
    ``items``: whether it keeps one row per clip or caption (or one file per format); then its folder is named by the
    *item key*, which excludes the data set. ``data``: the digest that the job depends on: one of
    `digest.data_digests`, or ``formats`` of export. ``version``: raised whenever the stage would write different
    results for the same slice. ``when``: a key that switches the stage on; if it is false, the stage does not exist, and
    downstream stages run without it. ``parts``: whether several jobs can make its rows, each a part of them. ``trains``:
    whether it runs on all ranks and resumes at a step; then its identity has the global batch, and it starts from
    ``args.load``. ``counted``: the fields of its receipt that add up to its units. ``publishes``: whether it writes
    results/<experiment>/; then it reads the whole config, and a marker there is its receipt. ``prompted``: whether its
    prompts come from the command line instead of the config.
    """

    name: str
    version: int
    input: type
    help: str
    unit: str
    cost: str | None = None
    upstream: tuple[str, ...] = ()
    items: bool = False
    data: str | None = None
    when: str | None = None
    parts: bool = False
    trains: bool = False
    counted: tuple[str, ...] = ("made", "reused")
    publishes: bool = False
    prompted: bool = False

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Patterns of the keys that enter the digest."""
        return tuple(pattern for reads in reads_of(self.input).values() for pattern in reads.identity)

    @cached_property
    def volatile(self) -> tuple[str, ...]:
        """Patterns of the keys that reach the stage without entering the digest."""
        return tuple(pattern for reads in reads_of(self.input).values() for pattern in reads.volatile)


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "scan",
            3,
            ScanInput,
            help="find videos and captions, reject unusable ones, write the data report",
            unit="files",
            cost="ScanCost",
        ),
        Stage(
            "preprocess",
            2,
            PreprocessInput,
            help="select the frames of every clip and check that they decode",
            unit="clips",
            cost="PreprocessCost",
            items=True,
            data="clips",
            parts=True,
        ),
        Stage(
            "latents",
            3,
            LatentsInput,
            help="encode every clip with the 3D VAE into the latent cache",
            unit="clips",
            cost="LatentsCost",
            upstream=("preprocess",),
            items=True,
            data="clips",
            parts=True,
        ),
        # A stage of its own, so that a text-to-video and an image-to-video config share the moments of their clips.
        Stage(
            "images",
            2,
            ImagesInput,
            help="image-to-video: encode the noised first frame of every clip",
            unit="clips",
            cost="ImagesCost",
            upstream=("preprocess",),
            items=True,
            data="clips",
            when="model.noised_image_input",
            parts=True,
        ),
        Stage(
            "text",
            1,
            TextInput,
            help="encode every caption with T5 into the text cache",
            unit="captions",
            cost="TextCost",
            items=True,
            data="captions",
            parts=True,
        ),
        Stage(
            "train",
            5,
            TrainInput,
            help="train the diffusion transformer (LoRA or full) with DeepSpeed; resumes automatically",
            unit="steps",
            cost="TrainCost",
            upstream=("latents", "images", "text"),
            data="train",
            trains=True,
            counted=("steps",),
        ),
        # The folder is named by the weights: another format is added to the existing ones, and changes nothing
        # downstream.
        Stage(
            "export",
            2,
            ExportInput,
            help="export the trained weights in formats of other tools, and check that they load",
            unit="model",
            cost="ExportCost",
            upstream=("train",),
            items=True,
            data="formats",
        ),
        Stage(
            "sample",
            5,
            SampleInput,
            help="sample videos from captions, with the base and the tuned model",
            unit="videos",
            cost="SampleCost",
            upstream=("export", "text", "images"),
            data="train",
            parts=True,
        ),
        Stage(
            "evaluate",
            2,
            EvaluateInput,
            help="compute metrics of samples and reconstructions, write metrics.json",
            unit="clips",
            cost="EvaluateCost",
            upstream=("sample", "preprocess", "latents"),
            data="pairs",
            parts=True,
        ),
        Stage(
            "report",
            5,
            ReportInput,
            help="publish results/<experiment>/: report.html, metrics, config, links",
            unit="report",
            cost="ReportCost",
            upstream=("scan", "preprocess", "latents", "images", "text", "train", "export", "sample", "evaluate"),
            data="pairs",
            publishes=True,
        ),
    )
}

SAMPLING: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        replace(STAGES["sample"], input=LoadedSampleInput, upstream=("load",), data=None),
        replace(STAGES["report"], upstream=("sample",), data=None),
    )
}
"""The stages with ``args.mode: inference``: no data set and no training; `load` is sampled."""


PROMPTS_MODE = "prompts"
"""`args.mode` in the slices of `cogtune sample EXPERIMENT|WEIGHTS`; no config may contain it."""
PROMPTS: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        replace(STAGES["text"], data=None),
        replace(
            STAGES["sample"], input=PromptedInput, upstream=("load", "text"), data=None, parts=False, prompted=True
        ),
    )
}
"""The stages of `cogtune sample EXPERIMENT|WEIGHTS`. A folder of samples gets a row for each prompt, seed and strength;
captions are rows of the text stage's own folder."""


def stages_of(values: Mapping[str, Any]) -> dict[str, Stage]:
    """The stages that an experiment can have, by its config. ``load`` among their upstream: another experiment's train."""
    args: dict[str, Any] = values.get("args") or {}
    return {"inference": SAMPLING, PROMPTS_MODE: PROMPTS}.get(args.get("mode", ""), STAGES)


def jobs_of(values: Mapping[str, Any]) -> dict[str, Stage]:
    """The stages that an experiment has: without those that a key of its config switches off."""
    stages = stages_of(values)
    return {name: stage for name, stage in stages.items() if stage.when is None or _switched_on(values, stage.when)}


def _switched_on(values: Mapping[str, Any], key: str) -> bool:
    section, name = key.split(".")
    return bool(values[section].get(name))


SWEEP = Stage(
    "sweep",
    3,
    SweepInput,
    help="compare the members of a sweep in one report, results/<sweep>/report.html",
    unit="report",
)
"""Compares the experiments of a sweep. It depends on their reports; sweeps exist only in config/config.yaml."""


def row_of(identity: Mapping[str, Any]) -> Stage:
    """The row of a slice's stage. Raises UserError if this version has no such stage."""
    rows = {SWEEP.name: SWEEP} | STAGES | stages_of(identity["values"])
    if (name := identity["stage"]) not in rows:
        raise UserError(f"no stage named {name!r}; run snakemake again")
    return rows[name]

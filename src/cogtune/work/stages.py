"""THE TABLE: one row for each stage says what it is: what it reads, what it stands on, how it is counted and what it costs.

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

    ``input``: the dataclass that declares what the stage reads. ``help``: what it does, for the command line. ``unit``:
    what it makes, in the plural unless there is one only. ``cost``: the class of plan/stage_costs.py that says how much
    is left and what it costs; without it a plan prints ``?``. ``upstream`` names the stages whose results it reads.
    ``items`` marks the stages that keep one row per clip or caption (or one file per format): their folder is named by
    the *item key*, which leaves the data set out. ``data`` names the digest that the job depends on: one of
    `digest.data_digests`, or ``formats``, those of export. ``version`` is raised whenever the stage would write something
    else for the same slice. ``when`` names a switch: where that key is false there is no such stage, and whoever lists it
    as upstream does without.
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
            help="find videos and captions, reject what cannot be used, write the data report",
            unit="files",
            cost="ScanCost",
        ),
        Stage(
            "preprocess",
            2,
            PreprocessInput,
            help="choose the frames of every clip and prove that they decode",
            unit="clips",
            cost="PreprocessCost",
            items=True,
            data="clips",
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
        ),
        Stage(
            "train",
            4,
            TrainInput,
            help="train the diffusion transformer (LoRA or full) with DeepSpeed; resumes by itself",
            unit="steps",
            cost="TrainCost",
            upstream=("latents", "images", "text"),
            data="train",
        ),
        # The folder is named by the weights: another format is written beside those that are there, and changes nothing
        # downstream.
        Stage(
            "export",
            2,
            ExportInput,
            help="write the trained weights in the format that other tools load, and prove that they load",
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
            help="make videos from captions, before and after training",
            unit="videos",
            cost="SampleCost",
            upstream=("export", "text", "images"),
            data="train",
        ),
        Stage(
            "evaluate",
            2,
            EvaluateInput,
            help="measure samples and reconstruction, write metrics.json",
            unit="clips",
            cost="EvaluateCost",
            upstream=("sample", "preprocess", "latents"),
            data="pairs",
        ),
        Stage(
            "report",
            3,
            ReportInput,
            help="publish results/<experiment>/: report.html, metrics, config, links",
            unit="report",
            cost="ReportCost",
            upstream=("scan", "preprocess", "latents", "images", "text", "train", "export", "sample", "evaluate"),
            data="pairs",
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
"""The stages with ``args.mode: inference``. There is no data set and no training: `load` is what is sampled."""


def stages_of(values: Mapping[str, Any]) -> dict[str, Stage]:
    """The stages that an experiment can have, by its config. ``load`` among their upstream: another experiment's train."""
    return SAMPLING if (values.get("args") or {}).get("mode") == "inference" else STAGES


SWEEP = Stage(
    "sweep",
    2,
    SweepInput,
    help="compare the members of a sweep in one report, results/<sweep>/report.html",
    unit="report",
)
"""Compares the experiments of a sweep. It stands on their reports, which only config/config.yaml can name."""


def row_of(identity: Mapping[str, Any]) -> Stage:
    """The row that a slice was cut by. Raises UserError where this version has no such stage."""
    rows = {SWEEP.name: SWEEP} | STAGES | stages_of(identity["values"])
    if (name := identity["stage"]) not in rows:
        raise UserError(f"no stage named {name!r}; run snakemake again")
    return rows[name]

"""What a report says about the experiment itself: its setup, its data, and how to use its weights."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cogtune.checkpoints.published import LOAD, MODEL_DIR, MODELS
from cogtune.checkpoints.text_encoder import read_text_encoder
from cogtune.config.build import params_of
from cogtune.errors import UserError
from cogtune.evaluation.report import gather, setup
from cogtune.evaluation.report.report_data import DataFacts, Exported, ReportRow, Use
from cogtune.evaluation.report.use import OWN_PIPELINE, OWN_TRANSFORMER, Base, Clip, use
from cogtune.stages.job import Job
from cogtune.work.inputs import LoadedSampleInput, ReportInput, SampleInput, TextInput, TrainInput
from cogtune.work.records import Record, read_record
from cogtune.work.results import ExportIndex, read_summary
from cogtune.work.volatile import ReportRun


class About:
    """Reads it from the upstream jobs of a report job. ``strips``: its samples."""

    def __init__(self, job: Job[ReportInput], run: ReportRun, strips: Sequence[ReportRow]) -> None:
        self._job, self._run, self._strips = job, run, strips
        self._trained = "train" in job.upstream

    @cached_property
    def data(self) -> DataFacts | None:
        """Facts about the data set; None without training."""
        if not self._trained:
            return None
        job = self._job
        return gather.data_facts(
            manifest=job.manifest(),
            rejects_file=job.job_dir("scan") / "rejects.jsonl",
            frames=job.rows("preprocess"),
            encoded=job.rows("text"),
            params=params_of(job.input.data),
            folders=gather.folders_of(self._run.data),
        )

    def setup(self, index: ExportIndex | None) -> setup.Facts:
        """The first lines of the page. ``index``: of the export, None without training."""
        if not self._trained or index is None or self.data is None:
            sample = self._job.upstream_job("sample", LoadedSampleInput)
            loaded = f"result of {sample.upstream_job('load').experiment}" if "load" in sample.upstream else ""
            return setup.sampled_facts(sample.input, loaded or str(sample.input.load), self._record("sample"))
        train, sample = self._job.upstream_job("train", TrainInput), self._job.upstream_job("sample", SampleInput)
        base = str(index.facts.get("base", ""))
        if "load" in train.upstream:
            base = f"result of {train.upstream_job('load').experiment}"
        summary = read_summary(self._job.job_dir("train"))
        return setup.trained_facts(train.input, sample.input, summary, base, self.data, self._record("train"))

    def use(self, exports: Sequence[Exported]) -> Use:
        """How to use the exported weights."""
        results = self._job.results
        root = Path.cwd() if results.is_relative_to(Path.cwd()) else results.parent
        folder = os.path.relpath(results / self._run.experiment / "export", root)
        train = self._job.upstream_job("train", TrainInput)
        text = self._job.upstream_job("text", TextInput)
        base = _base(train, text, root)
        return use(self._run.experiment, folder, root, exports, base, self._clip(train.input, text.input))

    def _clip(self, train: TrainInput, text: TextInput) -> Clip:
        sample = self._job.upstream_job("sample", SampleInput).input
        params = params_of(sample.sampler)
        guider = params.guider_config
        guidance = params_of(guider) if guider else None
        height, width = sample.video_size
        return Clip(
            caption=self._strips[0].caption if self._strips else "a prompt",
            height=height,
            width=width,
            frames=sample.max_num_frames,
            fps=sample.fps,
            steps=sample.steps or params.num_steps,
            guidance=getattr(guidance, "scale", 1.0),
            dynamic=hasattr(guidance, "exp"),
            dtype="bfloat16" if sample.bf16 else "float16" if sample.fp16 else "float32",
            image=train.image_input,
            tokens=params_of(params_of(text.conditioner).emb_models[0]).max_length,
        )

    def _record(self, stage: str) -> Record | None:
        return read_record(self._job.store / "records" / f"{stage}-{self._job.upstream[stage]}.json")


def _base(train: Job[TrainInput], text: Job[TextInput], root: Path) -> Base:
    """The weights that an exported LoRA belongs to. A LoRA that continues the same LoRA belongs to what that one was
    trained on; a full training before it, to that one's export."""
    if "load" not in train.upstream:
        return _published(train, text, root)
    before = train.upstream_job("load", TrainInput)
    base, adapters = _base(before, text, root), _adapters(before.input)
    if adapters is None:
        return replace(base, transformer=_name(before.results / before.experiment / "export" / "transformer", root))
    return base if adapters == _adapters(train.input) else replace(base, transformer=OWN_TRANSFORMER)


def _published(train: Job[TrainInput], text: Job[TextInput], root: Path) -> Base:
    """The pipeline of a training's initial weights: the local one that holds them, else the published one of these sizes."""
    for source in train.sources(LOAD):
        path = root / source.path
        for folder in (path, *path.parents[:2]):
            if (folder / "model_index.json").is_file() and (local := _local(folder, text, root)):
                return local
    model = MODELS.get(setup.model_name(train.input.network).lower())
    return Base(model.diffusers.repository if model else OWN_PIPELINE)


def _local(pipeline: Path, text: Job[TextInput], root: Path) -> Base | None:
    """A local ``pipeline``, with the T5 that was used if its folder has none; None if that is gone."""
    if (pipeline / "text_encoder").is_dir():
        return Base(_name(pipeline, root))
    try:
        t5 = read_text_encoder(root / text.sources(MODEL_DIR)[0].path)
    except (UserError, IndexError):
        return None
    return Base(_name(pipeline, root), text_encoder=(_name(t5.weights, root), _name(t5.tokenizer, root)))


def _name(path: Path, root: Path) -> str:
    """``path`` relative to ``root`` if it is below it."""
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)


def _adapters(train: TrainInput) -> Any:
    return params_of(train.network).modules.get("lora_config")

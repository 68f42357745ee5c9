"""The data of a report: `gather` reads it from the store, `page` renders it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ReportVideo:
    """One video of a row. ``hit``: whether its own clip is the nearest; None for clips and for prompts from a file.
    ``problem``: why its file is unusable, and how to write it again."""

    label: str
    path: Path
    psnr_db: float | None = None
    hit: bool | None = None
    nearest: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class ReportRow:
    """One caption with its clip and samples."""

    caption: str
    name: str
    videos: list[ReportVideo]


@dataclass(frozen=True)
class LossPoint:
    """One point of a loss curve; ``lr``: None for validation."""

    step: int
    loss: float
    lr: float | None = None


@dataclass(frozen=True)
class ValidationCurve:
    """``clips``: name of the validation set, or training clips if ``trained_on``; ``weights``: in words; ``quarters``: the
    last loss in each quarter of the noise schedule, from almost no noise to almost only noise, None without a draw;
    ``gap``: what the last loss of a set is above that of training clips, with raw weights, else None. All ``points`` are of
    the same draws."""

    clips: str
    weights: str
    trained_on: bool
    points: list[LossPoint]
    quarters: list[float | None]
    gap: float | None = None

    @property
    def label(self) -> str:
        return self.clips if self.weights == "raw" else f"{self.clips}, {self.weights}"

    @property
    def lowest(self) -> LossPoint:
        return min(self.points, key=lambda point: point.loss)


@dataclass(frozen=True)
class ClipFacts:
    """What was done to one clip. ``size``: (width, height) of its source; ``scale``: factor of the resize, above 1 for an
    enlarged clip; ``kept``: share of the picture inside the crop, 0 to 1; ``padded``: copies of the last frame at its end;
    ``repeated``: frames that repeat the one before, because the source is slower."""

    name: str
    split: str
    size: tuple[int, int]
    scale: float
    kept: float
    padded: int = 0
    repeated: int = 0

    @property
    def changed(self) -> bool:
        """Whether it was enlarged, cropped by more than half a percent, or has copied frames."""
        return self.scale > 1 or self.kept < 0.995 or bool(self.padded or self.repeated)


@dataclass(frozen=True)
class Folders:
    """Where the clips of a split come from: the folders of ``key`` and the place that sets it. ``inherited``: that place
    is another one than that of args.train_data, so these clips may belong to other data."""

    split: str
    key: str
    folders: list[str]
    origin: str
    inherited: bool = False


@dataclass(frozen=True)
class DataFacts:
    """Results of scan, preprocess and text. ``rejects``: (name, reason). ``others``: the same for files that are not
    videos, one entry per kind. ``links``: (path, target) of clips that are links. ``truncated``: captions with more
    tokens than T5's limit."""

    clips: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    height: int = 0
    width: int = 0
    target_fps: float = 0.0
    effective_fps: tuple[float, float] | None = None
    rejects: list[tuple[str, str]] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    trained_too: int = 0
    """Validation clips that are also training clips, so they are not held out."""
    stretched: int = 0
    """Clips with non-square pixels (sample aspect ratio), treated as square, as in upstream."""
    enlarged: int = 0
    """Clips that are smaller than the training size."""
    min_kept: float = 1.0
    """Smallest share of the picture that the crop keeps, over all clips."""
    each: list[ClipFacts] = field(default_factory=list)
    """All clips, by name."""
    folders: list[Folders] = field(default_factory=list)

    @property
    def held_out(self) -> int:
        """Number of validation clips that are not training clips."""
        return self.clips.get("valid", 0) - self.trained_too

    @property
    def off_rate(self) -> bool:
        """Whether the rate of a clip differs from the target by more than 1 %, the rounding of time stamps."""
        return self.effective_fps is not None and any(
            abs(fps - self.target_fps) > 0.01 * self.target_fps for fps in self.effective_fps
        )


@dataclass(frozen=True)
class StageFacts:
    """One row of the table of stages: seconds over all runs of the job, peak memory of one process; of GPUs the share of the
    time in which they computed, 0 to 1, and the peak memory of one."""

    stage: str
    key: str
    seconds: float | None
    runs: int
    peak_memory_mib: float | None
    gpu_busy: float | None = None
    peak_gpu_mib: float | None = None


@dataclass(frozen=True)
class Exported:
    """One exported format. Errors are the largest absolute difference between the outputs of the trained model and of the
    reloaded file: by cogtune (``own_error``), and by ``loader`` (``foreign_error``, with the epsilon of the last norm set
    to ours, as diffusers uses another; None if not checked, and ``why``)."""

    format: str
    path: str
    megabytes: float
    own_error: float
    loader: str
    foreign_error: float | None = None
    why: str = ""

    @property
    def size(self) -> str:
        return f"{self.megabytes:,.0f} MB" if self.megabytes >= 100 else f"{self.megabytes:.2g} MB"


@dataclass(frozen=True)
class Copied:
    """A file that another program wants in a folder of its own. ``what``: for whom."""

    what: str
    file: str
    folder: str


@dataclass(frozen=True)
class Use:
    """How to use the exported weights. ``folder``: the path of the export; ``notes``: sentences; ``diffusers``: Python lines,
    "" if diffusers cannot compute the network; ``comfyui``: the files for ComfyUI. Paths are relative to ``root``."""

    folder: str
    root: str
    notes: list[str]
    diffusers: str = ""
    comfyui: list[Copied] = field(default_factory=list)


@dataclass(frozen=True)
class ReportData:
    """The content of a report. ``data``: None without training (``args.mode: inference``). ``setup``: (term, value) of the
    first lines; ``curves``: losses of validations; ``best``: a sentence on the step that was kept;
    ``command``: what made it, with ``made_from`` as the files and settings; ``use``: None without an export."""

    experiment: str
    metrics: dict[str, Any]
    timings: dict[str, Any]
    strips: list[ReportRow]
    training: list[LossPoint]
    validation: list[LossPoint]
    data: DataFacts | None
    stages: list[StageFacts]
    exports: list[Exported]
    config_yaml: str
    run: dict[str, Any]
    curves: list[ValidationCurve] = field(default_factory=list)
    best: str = ""
    setup: list[tuple[str, str]] = field(default_factory=list)
    use: Use | None = None
    command: str = ""
    made_from: str = ""

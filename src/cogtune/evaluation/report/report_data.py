"""What the page is made of, as plain values: `gather` fills it from the store, `page` renders it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ReportVideo:
    """One video of a strip. ``hit``: nearest to its own clip; None for the clip itself and for a user's own prompts.
    ``problem``: what is wrong with its file, and how it is made again."""

    label: str
    path: Path
    psnr_db: float | None = None
    hit: bool | None = None
    nearest: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class ReportRow:
    """One caption with its clip and samples, side by side."""

    caption: str
    name: str
    videos: list[ReportVideo]


@dataclass(frozen=True)
class LossPoint:
    """One point of a loss curve; ``lr`` of training only."""

    step: int
    loss: float
    lr: float | None = None


@dataclass(frozen=True)
class DataFacts:
    """What scan, preprocess and text found. Rejects are (name, reason), ``others`` too: of files that are no videos, by
    kind. ``links``: (path, where it leads) of clips behind links. ``truncated``: captions cut at T5's limit."""

    clips: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    height: int = 0
    width: int = 0
    asked_fps: float = 0.0
    effective_fps: tuple[float, float] | None = None
    rejects: list[tuple[str, str]] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    trained_too: int = 0
    """Validation clips that are training clips as well: they are not held out."""
    stretched: int = 0
    """Clips whose pixels are not square (sample aspect ratio): they are taken as square, as upstream does."""
    enlarged: int = 0
    """Clips of fewer pixels than are trained on."""
    least_kept: float = 1.0
    """Share of the picture that the crop leaves of the clip that loses most."""

    @property
    def held_out(self) -> int:
        """Validation clips that nothing was trained on."""
        return self.clips.get("valid", 0) - self.trained_too

    @property
    def off_rate(self) -> bool:
        """Whether some clip runs at another rate than asked, by more than the rounding of time stamps (1 %)."""
        return self.effective_fps is not None and any(
            abs(fps - self.asked_fps) > 0.01 * self.asked_fps for fps in self.effective_fps
        )


@dataclass(frozen=True)
class StageFacts:
    """One line of the table of stages; seconds over all runs of the job, peak memory of one process."""

    stage: str
    key: str
    seconds: float | None
    runs: int
    peak_memory_mib: float | None


@dataclass(frozen=True)
class Exported:
    """A format that the weights were written in. Errors are largest absolute differences of one step's output between
    what was trained and the file loaded again: by cogtune, and by the foreign ``loader``, None where there is none, and
    then ``why`` (at the epsilon of the last norm that was trained with, in which diffusers differs)."""

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
class ReportData:
    """All that a report shows. ``data``: None where nothing was trained, but given weights were sampled."""

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

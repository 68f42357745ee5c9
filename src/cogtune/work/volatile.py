"""The volatile part of a slice: what a run tells one job besides its identity. Run files (`runs.py`) hold it."""

from dataclasses import dataclass, field
from typing import Any

from cogtune.runtime.typed_json import from_json, to_json

_RECORDED = ("values", "jobs", "machine")


@dataclass(frozen=True)
class UpstreamJob:
    """A job whose result another one reads. ``items``: its item key; ``run``: the name of its run file, if another
    experiment's."""

    stage: str
    key: str
    items: str
    run: str | None = None


@dataclass(frozen=True)
class JobMachine:
    """``ranks``: processes that train together."""

    ranks: int = 1


@dataclass(frozen=True)
class DataFolders:
    """The folders of args.train_data or args.valid_data as they are written, and the place that sets them."""

    folders: list[str]
    origin: str


@dataclass(frozen=True)
class ReportRun:
    """For `report`: the experiment that it publishes, its config as YAML with the origin of each value, the command that
    runs it, its files and settings in words, and the folders of ``train_data`` and ``valid_data``, if set."""

    experiment: str
    config_yaml: str
    command: str = ""
    made_from: str = ""
    data: dict[str, DataFolders] = field(default_factory=dict[str, DataFolders])


@dataclass(frozen=True)
class SweepRun:
    """For `sweep`: the name of its folder of results."""

    name: str


@dataclass(frozen=True)
class PromptRow:
    """One video to make. ``id``: of its row, a digest of all that distinguishes it from the others; ``caption_id``, and
    ``negative_id`` of the caption that guidance leads away from (None: zeros, as in training): ids of text's rows.
    ``strength`` of the LoRA; ``image``: the path of the input image."""

    id: str
    caption: str
    caption_id: str
    seed: int
    strength: float
    negative: str | None = None
    negative_id: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class PromptsRun:
    """For `cogtune sample EXPERIMENT|WEIGHTS`: the videos to make; ``lora``: a LoRA file to add to ``args.load``."""

    rows: list[PromptRow]
    lora: str | None = None


@dataclass(frozen=True)
class Volatile:
    """Parameters of a job that do not affect its result.

    ``values``: dotted config keys outside the digest; ``files``: dotted keys of files and their absolute paths;
    ``jobs``: upstream jobs by name; ``sources``: for each key of a file the [path, content hash, stamp] of what it
    names; ``plugins``: folders of plugin packages by name; ``batch_memo``: the memo of the global batch size, if the
    training that starts first decides it.
    """

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    files: dict[str, str] = field(default_factory=dict[str, str])
    jobs: dict[str, UpstreamJob] = field(default_factory=dict[str, UpstreamJob])
    sources: dict[str, list[list[str]]] = field(default_factory=dict[str, list[list[str]]])
    plugins: dict[str, str] = field(default_factory=dict[str, str])
    machine: JobMachine = JobMachine()
    batch_memo: str | None = None
    report: ReportRun | None = None
    sweep: SweepRun | None = None
    prompts: PromptsRun | None = None

    def to_json(self) -> dict[str, Any]:
        """As a run file holds it."""
        return to_json(self) | {"jobs": {name: to_json(job) for name, job in self.jobs.items()}}

    def recorded(self) -> dict[str, Any]:
        """The part that a job's record keeps, for plans."""
        content = self.to_json()
        return {name: content[name] for name in _RECORDED}


def earlier_volatile(value: Any) -> Volatile:
    """What a record, or a run file of any version, says of an earlier job; empty if it is damaged."""
    try:
        return from_json(Volatile, {name: value[name] for name in (*_RECORDED, "files") if name in value})
    except (ValueError, TypeError):
        return Volatile()

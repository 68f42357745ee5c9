"""The page of `cogtune sample EXPERIMENT|WEIGHTS`: prompts, and for each a table of videos, strength x seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cogtune.config.schema.common import number
from cogtune.evaluation.report.page import MAX_VIDEO_BYTES, Embedded, embedded, environment
from cogtune.evaluation.report.publish import link_files, to_json
from cogtune.evaluation.report.report_data import ReportVideo
from cogtune.runtime.atomic import write_text
from cogtune.runtime.paths import inside
from cogtune.work.volatile import PromptRow

PAGE, LIST, VIDEOS = "index.html", "prompts.json", "videos"


@dataclass(frozen=True)
class PromptsPage:
    """``model``: what was sampled, as typed; ``weights``: its absolute path, if it is no experiment. ``counts`` and
    ``settings``: how many videos and how made, in words. ``files``: row -> file name; ``images``: row -> file with its
    input image."""

    model: str
    weights: str | None
    counts: str
    settings: str
    rows: Sequence[PromptRow]
    files: Mapping[str, str]
    images: Mapping[str, Path]


@dataclass(frozen=True)
class _Prompt:
    """``seeds``: (seed, the videos of all strengths)."""

    caption: str
    image: Embedded | None
    seeds: list[tuple[int, list[Embedded]]]


def publish_prompts(folder: Path, page: PromptsPage, samples: Path) -> Path:
    """Write the page, the list of its videos, and links with readable names to the videos in ``samples``, the folder of the
    job in the store. What an earlier page of this name linked is no longer linked. Returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = {page.files[row.id]: inside(samples / "videos", f"{row.id}.mp4", folder) for row in page.rows}
    link_files(folder / VIDEOS, targets)
    listed = [
        {
            "file": f"{VIDEOS}/{page.files[row.id]}",
            "prompt": row.caption,
            "strength": row.strength,
            "seed": row.seed,
            "negative": row.negative,
            "image": row.image,
        }
        for row in page.rows
    ]
    made_of = {"model": page.model} | ({} if page.weights is None else {"weights": page.weights})
    write_text(folder / LIST, to_json(made_of | {"settings": page.settings, "videos": listed}))
    write_text(folder / PAGE, render(page, folder / VIDEOS))
    return folder / PAGE


def render(page: PromptsPage, folder: Path) -> str:
    """The page as HTML, with the videos in ``folder``. All texts are escaped; it loads nothing from the network or other
    files."""
    embedded_videos, used = dict[str, Embedded](), 0
    for row in page.rows:
        path = folder / page.files[row.id]
        used += path.stat().st_size
        if used > MAX_VIDEO_BYTES and embedded_videos:
            break
        embedded_videos[row.id] = embedded(ReportVideo(f"strength {number(row.strength)}", path))
    prompts = list[_Prompt]()
    for _, group in groupby(page.rows, key=lambda row: (row.caption, row.image)):
        rows = list(group)
        image = None if rows[0].image is None else embedded(ReportVideo("First frame given", page.images[rows[0].id]))
        by_seed = [
            (seed, [embedded_videos[row.id] for row in rows if row.seed == seed and row.id in embedded_videos])
            for seed in dict.fromkeys(row.seed for row in rows)
        ]
        if videos := [(seed, videos) for seed, videos in by_seed if videos]:
            prompts.append(_Prompt(rows[0].caption, image, videos))
    return (
        environment()
        .get_template("prompts.html.j2")
        .render(page=page, prompts=prompts, counts=page.counts, left_out=len(page.rows) - len(embedded_videos))
    )

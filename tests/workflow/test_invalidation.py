"""The table of docs/architecture.md, row by row: what an edit makes again, and that putting it back makes nothing.

Real runs of the whole workflow. What was made is read from the receipts written since the edit ("made 1, reused 2"); a
stage that wrote no receipt, or one with ``made`` 0, did nothing.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.workflow.project import REPO, STAGES, Project, add_clip, environment

pytestmark = pytest.mark.workflow
TUNED = {"train": 1, "export": 1, "sample": None, "evaluate": None}  # None: any number above zero


@dataclass(frozen=True)
class Row:
    """``made`` by stage; stages that are absent must have made nothing. ``report``: whether it is published anew."""

    name: str
    edit: Callable[[Project], object]
    made: dict[str, int | None] = field(default_factory=dict)
    report: bool = True
    undo: Callable[[Project], object] | None = None


def replaced(old: str, new: str) -> dict[str, Any]:
    return {"edit": lambda p: p.edit(old, new), "undo": lambda p: p.edit(new, old)}


def sampler_steps(project: Project, old: int, new: int) -> None:
    """Of the sampler and of its guider, whose ramp is as long."""
    project.edit(f"num_steps: {old}\n", f"num_steps: {new}\n")
    project.edit(f"num_steps: {old}}}", f"num_steps: {new}}}")


def caption(text: str) -> Callable[[Project], object]:
    return lambda p: (p.root / "data/train/labels/wave.txt").write_text(text)


def remove(name: str) -> Callable[[Project], object]:
    def edit(project: Project) -> None:
        (project.root / f"data/train/videos/{name}.mp4").unlink()
        (project.root / f"data/train/labels/{name}.txt").unlink()

    return edit


def touch_everything(project: Project) -> None:
    now = time.time() + 5
    for path in (project.root / "data").rglob("*"):
        os.utime(path, (now, now))


def lose(*folders: str) -> Callable[[Project], object]:
    return lambda p: [shutil.rmtree(p.root / folder) for folder in folders] and None


SIZES = [
    ("video_size: [32, 48]", "video_size: [16, 32]"),
    ("latent_height: 4", "latent_height: 2"),
    ("latent_width: 6", "latent_width: 4"),
]


def smaller(project: Project) -> None:
    for old, new in SIZES:
        project.edit(old, new)


def larger(project: Project) -> None:
    for old, new in SIZES:
        project.edit(new, old)


def move_vae(project: Project) -> None:
    (project.root / "assets/3d-vae.pt").rename(project.root / "assets/moved.pt")
    project.edit("assets/3d-vae.pt", "assets/moved.pt")


def move_vae_back(project: Project) -> None:
    (project.root / "assets/moved.pt").rename(project.root / "assets/3d-vae.pt")
    project.edit("assets/moved.pt", "assets/3d-vae.pt")


def new_weights(seed: int) -> Callable[[Project], object]:
    """Other weights under the same name, as an overwritten download."""

    def edit(project: Project) -> None:
        words = [
            sys.executable,
            "-c",
            f"import tests.workflow.weights as w, pathlib; w.make_vae(pathlib.Path({str(project.root / 'assets/3d-vae.pt')!r}), {seed})",
        ]
        subprocess.run(words, cwd=REPO, env=environment(), check=True)

    return edit


def more_ranks(project: Project) -> None:
    project.edit("ranks: 2", "ranks: 1", project.root / "config/config.yaml")


def fewer_ranks(project: Project) -> None:
    project.edit("ranks: 1", "ranks: 2", project.root / "config/config.yaml")


VOLATILE = [
    ("log_interval: 1", "log_interval: 2\n  snapshot_interval: 5"),
    ("steps_per_print: 50", "flops_profiler: {enabled: true}\n  steps_per_print: 49"),
    ("overlap_comm: true", "overlap_comm: false"),
    ("zero_optimization: {stage: 2", "zero_optimization: {stage: 1"),
]
"""Of each kind one; `tests/unit/work/test_engine_keys.py` has all keys of deepspeed."""


def log_and_profile(project: Project) -> None:
    for old, new in VOLATILE:
        project.edit(old, new)


def log_and_profile_no_more(project: Project) -> None:
    for old, new in VOLATILE:
        project.edit(new, old)


ROWS = [
    Row("nothing", lambda p: None, report=False),
    Row("learning rate", made=TUNED, **replaced("lr: 0.001", "lr: 0.002")),
    Row("video size", smaller, {"preprocess": 3, "latents": 3, **TUNED}, undo=larger),
    Row(
        "one caption",
        caption("a wave of another kind"),
        {"text": 1, **TUNED},
        undo=caption("a wave rolls over the sand"),
    ),
    Row(
        "one video added",
        lambda p: add_clip(p.root / "data/train", "new", 3, "other words"),
        {"preprocess": 1, "latents": 1, "text": 1, **TUNED},
        undo=remove("new"),
    ),
    Row(
        "one video removed",
        remove("stripes"),
        TUNED,
        undo=lambda p: add_clip(p.root / "data/train", "stripes", 2, "stripes move to the left"),
    ),
    Row(
        "sampler steps",
        made={"sample": None, "evaluate": None},
        edit=lambda p: sampler_steps(p, 3, 2),
        undo=lambda p: sampler_steps(p, 2, 3),
    ),
    Row(
        "another export format",
        made={"export": 1},
        **replaced("log_interval: 1", "log_interval: 1\n  export_formats: [merged]"),
    ),
    Row("links are not followed", **replaced("skip_frms_num: 0", "skip_frms_num: 0, follow_links: false")),
    Row("log interval", log_and_profile, undo=log_and_profile_no_more),
    Row("save folder", **replaced("save: checkpoints", "save: elsewhere")),
    Row("touch of every video and caption", touch_everything, report=False),
    Row("lost .snakemake", lose(".snakemake"), report=False),
    Row("lost receipts", lose("results/.receipts"), report=False),
    Row("lost both", lose(".snakemake", "results/.receipts"), report=False),
    Row("VAE weights moved", move_vae, undo=move_vae_back),
    Row("VAE weights replaced", new_weights(9), {"latents": 3, **TUNED}, undo=new_weights(0)),
    Row("ranks", more_ranks, report=False, undo=fewer_ranks),
]


def made_since(project: Project, before: dict[str, int]) -> dict[str, int]:
    """Items made by stage, from the receipts written since ``before``."""
    counts: dict[str, int] = {}
    stamps = project.stamps()
    for name, receipt in project.receipts().items():
        if stamps[name] != before.get(name) and receipt["stage"] in STAGES and receipt["made"]:
            counts[receipt["stage"]] = counts.get(receipt["stage"], 0) + receipt["made"]
    return counts


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_row(project: Project, row: Row) -> None:
    before, metrics = project.stamps(), project.metrics()
    row.edit(project)
    project.snakemake()
    made = made_since(project, before)
    made.pop("scan", None)  # reading the listing again is what finds the edit
    assert set(made) == set(row.made), f"made {made}, expected {row.made}"
    assert all(row.made[stage] in (None, count) for stage, count in made.items()), f"made {made}, expected {row.made}"
    markers = {name for name in project.stamps() if name.startswith(".published-")}
    assert len(markers) == 1
    assert (markers != {name for name in before if name.startswith(".published-")}) == row.report
    if row.undo:
        middle = project.stamps()
        row.undo(project)
        project.snakemake()
        back = made_since(project, middle)
        back.pop("scan", None)
        assert back == {}, f"put back, yet made {back}"
    assert project.metrics() == metrics, "put back, yet the published metrics are not those of before"

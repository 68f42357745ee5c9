"""SIGKILL in the middle of a stage, of whoever; then the same command again.

It finishes; rows that were on disk are not made again; final weights and metrics are those of a run that nobody
disturbed, to the byte (bf16, upstream's deepspeed section, two ranks of one thread).
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.workflow.project import Project, add_clip, environment, lay_out

pytestmark = pytest.mark.workflow
CLIPS = 24
ORDER = ("latents", "text", "train", "export", "sample", "evaluate")
NEEDS = {"latents": ("train", "export", "sample", "evaluate"), "text": ("train", "export", "sample", "evaluate")}
FIRST_SIGN = {  # what is on disk when a stage is well under way
    "latents": "store/latents/*/*.safetensors",
    "text": "store/text/*/*.safetensors",
    "train": "store/train/*/checkpoints/step-*/record.json",
    "sample": "store/sample/*/*.safetensors",
}
EDITS = [
    ("train_iters: 6", "train_iters: 12"),
    ("save_interval: 2", "save_interval: 3"),
    ("sampling_count: null", "sampling_count: 4"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of more clips, so that a stage has a middle, run to the end undisturbed."""
    project = lay_out(tmp_path_factory.mktemp("survival"))
    for number in range(CLIPS):
        add_clip(project.root / "data/train", f"more{number}", 10 + number, f"pattern number {number} moves")
    for old, new in EDITS:
        project.edit(old, new)
    project.config.write_text(
        project.config.read_text().replace("  flush_seconds: 0.01\n", "  flush_seconds: 0.0\n  text_batch: 1\n")
    )
    project.snakemake()
    return project


def copy_without(finished: Project, stage: str, root: Path) -> Project:
    """The same project as it was just before ``stage`` ran."""
    shutil.copytree(finished.root, root, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(root / "results")
    shutil.rmtree(root / ".snakemake")
    gone = ORDER[ORDER.index(stage) :] if stage not in NEEDS else (stage, *NEEDS[stage])
    for name in gone:
        shutil.rmtree(root / "store" / name)
    return Project(root)


def start(project: Project) -> subprocess.Popen[bytes]:
    """`make demo` in a process group of its own, with the interpreter of the tests in place of a .venv."""
    log = (project.root / "make.log").open("ab")
    return subprocess.Popen(
        ["make", "-o", ".venv/.installed", "demo", "CORES=2"],
        cwd=project.root,
        env=environment(),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def processes(project: Project, words: str) -> list[int]:
    """Live processes of this project whose command line holds ``words``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words in command and Path(os.readlink(folder / "cwd")) == project.root.resolve():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_for_sign(project: Project, stage: str, make: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not any(project.root.glob(FIRST_SIGN[stage])):
        assert make.poll() is None, (project.root / "make.log").read_text()[-4000:]
        assert time.monotonic() < deadline, f"{stage} sent no heartbeat"
        time.sleep(0.002)


def rows(project: Project, stage: str) -> dict[Path, set[str]]:
    """Item ids by shard."""
    found = {}
    for path in project.root.glob(f"store/{stage}/*/*.safetensors"):
        with safe_open(path, "numpy") as shard:
            found[path] = {name.split("/")[0] for name in shard.keys()}  # noqa: SIM118  not a dict
    return found


def kill(project: Project, stage: str, victim: str, make: subprocess.Popen[bytes]) -> None:
    if victim == "group":
        os.killpg(make.pid, signal.SIGKILL)
    words = {"stage": f"cogtune {stage} --slice", "snakemake": "snakemake --cores"}.get(victim)
    for pid in processes(project, words) if words else []:
        os.kill(pid, signal.SIGKILL)
    make.wait(timeout=240)
    if victim != "snakemake":  # the stage was killed, so its children must be gone: no writer is left
        deadline = time.monotonic() + 5
        while processes(project, "cogtune.train.worker") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not processes(project, "cogtune.train.worker")


SCENARIOS = [(stage, victim) for stage in FIRST_SIGN for victim in ("stage", "snakemake", "group")]
QUICK = {("latents", "group"), ("text", "stage"), ("train", "stage"), ("train", "snakemake"), ("sample", "group")}


@pytest.mark.parametrize(
    ("stage", "victim"),
    [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in SCENARIOS],
)
def test_killed_in_the_middle(finished: Project, tmp_path: Path, stage: str, victim: str) -> None:
    project = copy_without(finished, stage, tmp_path / "copy")
    make = start(project)
    wait_for_sign(project, stage, make)
    kill(project, stage, victim, make)
    if stage == "train" and victim != "snakemake":
        assert not any(project.root.glob("store/train/*/final/summary.json")), "it had finished: no middle was tested"
    before = rows(project, stage)
    again = start(project)
    assert again.wait(timeout=240) == 0, (project.root / "make.log").read_text()[-6000:]

    after = rows(project, stage)
    if stage != "train":
        assert before.keys() <= after.keys(), "a finished shard was lost"
        ids = [item for shard in after.values() for item in shard]
        assert len(ids) == len(set(ids)), "rows that were on disk were made again"
        if victim != "snakemake":
            assert len(before) < len(after), "the stage had finished before it was killed: no middle was tested"
    for path in sorted(finished.root.glob("store/train/*/final/*.safetensors")):
        assert (project.root / path.relative_to(finished.root)).read_bytes() == path.read_bytes(), path.name
    assert project.metrics() == finished.metrics()

"""Whole runs by the shipped profiles, all at the same time: the bytes of a local run, whatever happens to a config meanwhile.

Slurm and Snakemake wait more than they compute, so three runs together take little longer than one.
"""

import hashlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cogtune.data.shards import Shard
from cogtune.data.store import shard_paths
from tests.slurm.cluster import NODES, Cluster, JobState, profile_command, wait_until
from tests.workflow.project import Project, add_clip

ROWS = ("preprocess", "latents", "text", "sample", "evaluate")
LIMIT = 900
CONFIG = """
ranks: 2
experiments:
  tiny:
    base: [config/tiny.yaml]
  more:
    base: [config/tiny.yaml]
    set: ["args.train_data=[data/train,data/more]"]
"""
Row = tuple[Any, dict[str, bytes]]


def rows(project: Project) -> dict[str, Row]:
    """Every row of the store: its meta and its tensors. Fails if a row is in two shards."""
    found: dict[str, Row] = {}
    for folder in (path for stage in ROWS for path in (project.root / "store" / stage).glob("*")):
        for shard in map(Shard, shard_paths(folder)):
            for name in shard.rows():
                row = f"{folder.parent.name}/{folder.name}/{name}"
                assert row not in found
                tensors = {key: tensor.numpy().tobytes() for key, tensor in shard.tensors(name).items()}
                found[row] = shard.meta[name], tensors
    return found


def weights(project: Project) -> dict[str, str]:
    """Digests of the final weights of trainings, and of the exported ones."""
    store = project.root / "store"
    files = [*store.glob("train/*/final/*.safetensors"), *store.glob("export/**/*.safetensors")]
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class MainProcess:
    """A run of Snakemake in the folder of a project."""

    project: Project
    log: Path
    process: "subprocess.Popen[str]"

    @classmethod
    def start(cls, cluster: Cluster, project: Project, *arguments: str, profile: str = "slurm") -> "MainProcess":
        log = project.root / "main.log"
        command = profile_command(*arguments, profile=profile)
        return cls(project, log, cluster.popen(command, cwd=project.root, log=log))

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.log.read_text() or self.process.poll() is not None, text, LIMIT)

    def finish(self) -> None:
        assert self.process.wait(timeout=LIMIT) == 0, self.log.read_text()[-6000:]

    def jobs(self, cluster: Cluster) -> list[JobState]:
        return [job for job in cluster.jobs() if job.fields["WorkDir"] == str(self.project.root)]


class UsedGpus:
    """The GPUs of jobs while they run: Slurm forgets them when a job ends."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._ended = cluster, threading.Event()
        self.of_start: dict[tuple[int, int], set[str]] = {}
        """(job, its restarts) -> GPUs. A job that requeues itself behind the owner of a lock may get another one."""
        self.shared: set[str] = set()
        """GPUs that two jobs had at the same time."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        watching = threading.Thread(target=self._watch)
        watching.start()
        try:
            yield
        finally:
            self._ended.set()
            watching.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            text = self._cluster.run("scontrol", "show", "job", "--details", "--oneliner").stdout
            used: set[str] = set()
            for line in text.splitlines():
                if "JobState=RUNNING" in line and (match := re.match(r"JobId=(\d+)", line)):
                    gpus = gpus_of(line)
                    self.shared |= used & gpus
                    used |= gpus
                    start = int(match[1]), int(re.findall(r"Restarts=(\d+)", line)[0])
                    self.of_start.setdefault(start, set()).update(gpus)

    def of_job(self, number: int) -> list[set[str]]:
        """The GPUs of each start of a job."""
        return [gpus for (job, _), gpus in sorted(self.of_start.items()) if job == number]


def gpus_of(line: str) -> set[str]:
    """As n1:0 and n1:1 of `Nodes=n1 … GRES=gpu:2(IDX:0-1)`; of both nodes for `Nodes=n[1-2] …`."""
    found: set[str] = set()
    for nodes, first, last in re.findall(r"Nodes=(\S+) CPU_IDs=\S* Mem=\d+ GRES=gpu:\d+\(IDX:(\d+)(?:-(\d+))?\)", line):
        for node in NODES if nodes == "n[1-2]" else (nodes,):
            found |= {f"{node}:{number}" for number in range(int(first), int(last or first) + 1)}
    return found


@dataclass(frozen=True)
class Runs:
    """The three runs, finished, and the jobs of each."""

    whole: MainProcess
    two_data_sets: MainProcess
    two_nodes: MainProcess
    gpus: UsedGpus
    configs: dict[Path, str]


@pytest.fixture(scope="module")
def start_runs(
    running_cluster: Cluster, laid_out: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MainProcess, MainProcess, UsedGpus]]:
    """Two runs that need no local one, started before it."""
    folder = tmp_path_factory.mktemp("runs")
    gpus = UsedGpus(running_cluster)
    two = Project(Path(shutil.copytree(laid_out.root, folder / "two-data-sets")))
    add_clip(two.root / "data/more", "rings", 7, "rings grow on the water")
    (two.root / "config/config.yaml").write_text(CONFIG)
    two.snakemake("--until", "scan")
    with gpus.watched():
        whole = MainProcess.start(running_cluster, Project(Path(shutil.copytree(laid_out.root, folder / "whole"))))
        scatter = ("--set-scatter", "preprocess=2", "latents=3", "text=2", "--until", "latents", "text")
        yield whole, MainProcess.start(running_cluster, two, *scatter), gpus
    running_cluster.cancel_all()


@pytest.fixture(scope="module")
def runs(
    running_cluster: Cluster,
    start_runs: tuple[MainProcess, MainProcess, UsedGpus],
    local: Project,
    tmp_path_factory: Any,
) -> Runs:
    whole, two_data_sets, gpus = start_runs
    two_nodes = MainProcess.start(
        running_cluster,
        without_training(local, tmp_path_factory.mktemp("nodes") / "two-nodes"),
        *("--until", "train"),
        profile="mycluster",
    )
    configs = {path: path.read_text() for path in (whole.project.root / "config").iterdir()}
    for stage in (
        "text_part",
        "train",
        "sample",
    ):  # each time the main process has read its configs, and the job has not
        whole.wait_for(f"rule_{stage}/")
        for path in configs:
            path.write_text("model: [broken")
    for run in (whole, two_data_sets, two_nodes):
        run.process.wait(timeout=LIMIT)
    for path, text in configs.items():
        path.write_text(text)
    return Runs(whole, two_data_sets, two_nodes, gpus, configs)


def without_training(local: Project, root: Path) -> Project:
    """A copy with a profile for two nodes of one GPU, as docs/cluster.md has a user change the shipped one."""
    project = Project(Path(shutil.copytree(local.root, root, symlinks=True)))
    for name in ("train", "export", "sample", "evaluate", "records", "locks"):
        shutil.rmtree(root / "store" / name)
    for name in ("train", "export", "sample", "evaluate"):
        for path in (root / "results/.receipts").glob(f"{name}-*.json"):
            path.unlink()
    shutil.rmtree(root / "results/tiny")  # with its marker that all is published
    shutil.copytree(root / "profiles/slurm-multinode", root / "profiles/mycluster")
    config = root / "profiles/mycluster/config.yaml"
    project.edit("tasks: 16", "tasks: 2", config)
    project.edit("gpu:8", "gpu:1", config)
    project.snakemake("--until", "scan")  # the files of the copy are new ones
    return project


def stage_of(job: JobState) -> str:
    return job.fields["Comment"].removeprefix("rule_").partition("_wildcards_")[0]


def test_the_whole_workflow_equals_a_local_run_although_its_configs_break_while_jobs_are_queued(
    cluster: Cluster, runs: Runs, local: Project
) -> None:
    """By the shipped profile, so each stage is cut into parts."""
    runs.whole.finish()
    project = runs.whole.project
    assert rows(project) == rows(local)
    assert weights(project) == weights(local)
    assert project.metrics() == local.metrics()
    assert json.loads(local.metrics())
    jobs = runs.whole.jobs(cluster)
    assert {job.state for job in jobs} == {"COMPLETED"}
    cut = {"preprocess": 3, "latents": 3, "text": 2, "sample": 8, "evaluate": 1}
    stages = [stage_of(job) for job in jobs]
    assert {name: stages.count(f"{name}_part") for name in cut} == cut
    assert {name: stages.count(name) for name in (*cut, "scan", "train", "export", "report")} == dict.fromkeys(
        (*cut, "scan", "train", "export", "report"), 1
    )
    for job in jobs:
        stage = stage_of(job)
        on_gpu = stage in ("train", "latents_part", "text_part", "sample_part", "evaluate_part")
        assert job.fields["Partition"] == ("gpu" if on_gpu else "cpu"), stage
        assert bool(job.fields.get("TresPerJob")) == on_gpu, stage
        assert int(job.fields["NumCPUs"]) == (32 if stage == "train" else 8 if stage.endswith("_part") else 1), stage
    for arguments in ((), ("--set-scatter", "latents=2", "text=3")):
        assert "Nothing to be done" in cluster.snakemake(project.root, *arguments).stderr


def test_two_data_sets_over_one_folder_make_no_row_twice(cluster: Cluster, runs: Runs, local: Project) -> None:
    """Their parts run at the same time, each on a GPU of its own."""
    runs.two_data_sets.finish()
    made, expected = rows(runs.two_data_sets.project), rows(local)
    assert made.items() >= {name: row for name, row in expected.items() if name.split("/")[0] in ROWS[:3]}.items()
    assert len({name.rpartition("/")[0] for name in made}) == 3, "both data sets use the same folders"
    assert len(made) == 3 * 4
    receipts = [one for name, one in runs.two_data_sets.project.receipts().items() if name.startswith("latents-")]
    assert [(one["made"], one["reused"]) for one in receipts] == [(0, 3), (0, 4)] or [
        (one["made"], one["reused"]) for one in receipts
    ] == [(0, 4), (0, 3)]
    parts = [job for job in runs.two_data_sets.jobs(cluster) if stage_of(job) in ("latents_part", "text_part")]
    assert len(parts) == 2 * (3 + 2)
    assert {len(gpus) for job in parts for gpus in runs.gpus.of_job(job.number)} == {1}


def test_no_gpu_is_given_to_two_jobs(runs: Runs) -> None:
    assert len(set[str]().union(*runs.gpus.of_start.values())) > 1
    assert not runs.gpus.shared


def test_training_on_two_nodes_by_the_shipped_profile_gives_the_bytes_of_one(
    cluster: Cluster, runs: Runs, local: Project
) -> None:
    runs.two_nodes.finish()
    project = runs.two_nodes.project
    finals = {name: digest for name, digest in weights(local).items() if name.startswith("train/")}
    assert {name: digest for name, digest in weights(project).items() if name.startswith("train/")} == finals
    (job,) = runs.two_nodes.jobs(cluster)
    assert (stage_of(job), job.fields["NumNodes"], job.fields["NumTasks"]) == ("train", "2", "2")
    (gpus,) = runs.gpus.of_job(job.number)
    assert [gpu.partition(":")[0] for gpu in sorted(gpus)] == ["n1", "n2"]
    (log,) = (project.root / "results/.logs").glob("train-*.log")
    assert f"2 ranks, Slurm job {job.number}" in log.read_text()

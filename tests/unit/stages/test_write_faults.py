"""Every write, fsync and rename of a stage may fail: one sentence, exit code 1, and the same command then gives the same.

Each run is a process of its own that has everything imported. In all runs of the default
suite the first and the last call of each line of ours fail; as `slow`, every call does.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cogtune.__main__ import main
from cogtune.data.shards import Shard
from cogtune.stages.job import Job
from cogtune.train.checkpoint import verify
from tests.faults import BROKEN, FULL, MAIN, Call, Faults, calls_of
from tests.forked import forked
from tests.forked_ranks import fork_ranks
from tests.unit.stages.caching import TINY, Caching
from tests.unit.stages.finished import Finished

pytestmark = pytest.mark.heavy

MADE_FROM_DATA = ("scan", "preprocess", "latents", "images", "text", "train")
MADE_FROM_TRAINING = ("export", "sample", "evaluate", "report")
I2V = TINY.with_name("tiny_i2v.yaml")
RANKS = 2
_TIMES = {
    "seconds",
    "data_wait",
    "seconds_mean",
    "tokens_per_second",
    "steps_per_second",
    "data_wait_fraction",
    "peak_memory",
    "checksum",
    "crc32",
}
_VARYING = {"made", "reused", "peak_memory_mib"} | _TIMES


def _work(command: list[str], where: Path, calls: Path, call: Call | None, how: str) -> int:
    """Run a command in folder ``where``, in whose files one call fails."""
    os.chdir(where)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    tempfile.tempdir = str(where / "tmp")  # what ranks are told, and their errors, are on the same disk
    faults = Faults(where, call, how)
    fork_ranks(faults)
    faults.install(calls)
    return main(command)


class Line:
    """Stages one after the other; ``before(stage)`` is what each found, ``right[stage]`` what it left."""

    def __init__(self, root: Path, commands: dict[str, list[str]]) -> None:
        self.root, self.commands = root, commands
        self.right: dict[str, dict[str, Any]] = {}
        self.calls: dict[str, list[Call]] = {}

    def run(self, stage: str, where: Path, call: Call | None = None, how: str = FULL) -> tuple[int, str]:
        (where / "tmp").mkdir(exist_ok=True)
        work = partial(_work, self.commands[stage], where, self.root / "calls.jsonl", call, how)
        return forked(work, self.root / "output.txt")

    def make(self, stage: str) -> None:
        """Run a stage where nothing fails."""
        here = self.root / "here"
        shutil.copytree(here, self.root / "before" / stage, symlinks=True)
        code, said = self.run(stage, here)
        assert code == 0, said
        self.right[stage] = content(here)
        self.calls[stage] = calls_of(self.root / "calls.jsonl")

    def disturbed(self, stage: str, call: Call, how: str) -> str:
        """What is wrong when ``call`` fails; empty if nothing is. For when all stages are made."""
        what = f"{stage}: call {call.number} of {call.process} ({call.kind} at {call.site}, disk {how})"
        where = self.root / "here"  # one path for all: an export says where its source is
        shutil.rmtree(where)
        shutil.copytree(self.root / "before" / stage, where, symlinks=True)
        code, said = self.run(stage, where, call, how)
        told = [line for line in said.splitlines() if line.startswith("cogtune: ")]
        if code != 0 and (code != 1 or "Traceback" in said or len(told) != 1):
            return f"{what}: exit code {code}, said:\n{said[-3000:]}"
        if code == 0 and content(where) != self.right[stage]:
            return f"{what}: exit code 0, and this differs:\n{differing(content(where), self.right[stage])}"
        code, said = self.run(stage, where)
        if code != 0:
            return f"{what}: the second run has exit code {code}:\n{said[-3000:]}"
        if content(where) != self.right[stage]:
            return f"{what}: the second run left something else:\n{differing(content(where), self.right[stage])}"
        return ""


def content(root: Path) -> dict[str, Any]:
    """What must come out the same: files by their bytes, rows by what they hold, JSON without seconds."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name, parent = path.relative_to(root).as_posix(), path.parent.relative_to(root).as_posix()
        index = path.name == "index.json" and "/export/" not in name
        if index or "/locks/" in name or path.name in ("memo.jsonl", "timings.json", "hashes.json"):
            continue
        if name.startswith("results/.logs/starts/"):
            continue  # where a log is kept; without links, beside that folder
        if path.name.startswith("training.") or (name.startswith("results/.logs/") and path.suffix == ".html"):
            continue  # a view of the training, which goes on without it
        if "/tensorboard/" in name:
            continue  # also by reading: a file of a start that failed holds points of its own
        if path.suffix == ".log" or name.endswith("report.html"):
            found[name] = "there"
        elif "/checkpoints/" in name:
            if path.name == "record.json":  # DeepSpeed's files hold times and settings
                found[name] = verify(path.parent).step
        elif path.name in ("log.jsonl", "summary.json"):
            lines = path.read_text().splitlines() if path.name == "log.jsonl" else [path.read_text()]
            found[name] = [
                {key: value for key, value in json.loads(line).items() if key not in _VARYING} for line in lines
            ]
        elif path.suffix == ".safetensors" and len(path.stem) == 32:
            shard = Shard(path)
            for row in shard.rows():
                tensors = {key: (str(t.dtype), t.tolist()) for key, t in shard.tensors(row).items()}
                found[f"{parent}:{row}"] = (tensors, shard.meta[row])
        elif any(part in name for part in ("/records/", "/.receipts/", "/.published-")):
            told = json.loads(path.read_text())
            found[name] = sorted(key for key in told if key not in _VARYING)
        else:
            found[name] = path.read_bytes()
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    return "\n".join(sorted(name for name in one | other if one.get(name) != other.get(name))[:10])


def command(job: Job[Any], root: Path) -> list[str]:
    """The line that the workflow would run."""
    stage, key = job.slice.stage, job.key
    receipt = f"results/tiny/.published-{key}" if stage == "report" else f"results/.receipts/{stage}-{key}.json"
    run = job.run_file.relative_to(root.resolve())
    files = ["--slice", f"store/slices/{key}.json", "--run", str(run), "--receipt", receipt]
    return [stage, *files, "--log", f"results/.logs/{stage}-{key}.log", "--plain"]


@pytest.fixture(scope="module")
def data_line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    root = tmp_path_factory.mktemp("faults")
    project = Caching(root, I2V)
    project.add("a", "one", 1)
    project.add("b", "two", 2)
    here = root / "here"
    here.mkdir()
    (here / "config.yaml").write_text("experiments: {other: {base: [none.yaml]}}\n")
    values = [
        f"args.train_data=[{root}/data/train]",
        "args.valid_data=null",
        "args.keep_checkpoints=1",
        f"model.first_stage_config.params.ckpt_path={root}/assets/3d-vae.pt",
        f"model.conditioner_config.params.emb_models.0.params.model_dir={root}/assets/t5",
    ]
    base = ["--base", str(I2V), "--workflow", "config.yaml", "--name", "tiny", "--log", "results/.logs/scan.log"]
    line = Line(root, {"scan": ["scan", *base, "--plain", "--", *values]})
    line.make("scan")
    project.store = here / "store"
    resolver = project.resolver()
    resolver.place = replace(resolver.place, store=project.store, results=here / "results", ranks=RANKS)
    slices = resolver.all()
    for stage in MADE_FROM_DATA[1:]:
        line.commands[stage] = command(Job(slices[stage], project.store), here)
        line.make(stage)
    return line


@pytest.fixture(scope="module")
def training_line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    root = tmp_path_factory.mktemp("faults")
    finished = Finished(root / "here", "args.sampling_controls=[base]", clips=2).fill()
    line = Line(root, {stage: command(finished.job(stage), root / "here") for stage in MADE_FROM_TRAINING})
    for stage in MADE_FROM_TRAINING:
        line.make(stage)
    return line


def line_of(request: pytest.FixtureRequest, stage: str) -> Line:
    return request.getfixturevalue("data_line" if stage in MADE_FROM_DATA else "training_line")


def ends(calls: Sequence[Call]) -> list[tuple[Call, str]]:
    """(call, how) of the first and the last call of each process, kind and line."""

    def place(call: Call) -> tuple[str, ...]:
        return call.process, call.kind, "" if call.kind == "print" else call.site

    trials: dict[Call, str] = {}
    for each in dict.fromkeys(map(place, calls)):
        same = [call for call in calls if place(call) == each]
        trials[same[0]] = FULL
        trials.setdefault(same[-1], BROKEN)
    return list(trials.items())


def failures(line: Line, stage: str, trials: list[tuple[Call, str]]) -> str:
    wrong = [text for call, how in trials if (text := line.disturbed(stage, call, how))]
    return f"{len(wrong)} of {len(trials)}:\n" + "\n\n".join(wrong) if wrong else ""


@pytest.mark.parametrize("stage", [*MADE_FROM_DATA, *MADE_FROM_TRAINING])
def test_a_disk_that_fails(request: pytest.FixtureRequest, stage: str) -> None:
    line = line_of(request, stage)
    seen = {call.process for call in line.calls[stage]}
    assert seen == ({MAIN, "rank 0", "rank 1"} if stage == "train" else {MAIN})
    assert len(line.calls[stage]) > 10, "the calls are not seen"
    assert not (told := failures(line, stage, ends(line.calls[stage]))), told


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*MADE_FROM_DATA, *MADE_FROM_TRAINING])
def test_every_call_that_fails(request: pytest.FixtureRequest, stage: str) -> None:
    line = line_of(request, stage)
    trials = [(call, how) for call in line.calls[stage] for how in (FULL, BROKEN)]
    print(f"{stage}: {len(trials)} trials")
    assert not (told := failures(line, stage, trials)), told

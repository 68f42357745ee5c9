"""Parts of a job: the rows of one job, each made once, however many jobs make them."""

import copy
import json
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cogtune.data.shards import Shard
from cogtune.data.store import ShardWriter, shard_paths
from cogtune.runtime.atomic import write_json
from cogtune.stages import evaluate, export, latents
from cogtune.stages.execute import execute
from cogtune.stages.job import Job
from cogtune.stages.make_rows import make_rows
from cogtune.stages.run_counts import RunCounts
from cogtune.work.parts import Part, part_receipts
from cogtune.work.records import read_record
from tests.forked import forked
from tests.unit.stages.caching import TINY, Caching
from tests.unit.stages.finished import Finished

pytestmark = pytest.mark.heavy
CLIPS = 7
Rows = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Caching:
    """Six training clips, of which one is too short, one validation clip, and all caches, image-to-video included."""
    project = Caching(tmp_path_factory.mktemp("parts") / "project", TINY.with_name("tiny_i2v.yaml"))
    for number in range(CLIPS - 2):
        project.add(f"clip{number}", f"caption {number}", number + 1)
    project.add("short", "short", 50, frames=4)
    project.add("held", "held out", 60, split="valid")
    project.run_all()
    project.run("images")
    return project


@pytest.fixture
def project(made: Caching, tmp_path: Path) -> Caching:
    return made.with_store(tmp_path / "store")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    finished = Finished(tmp_path_factory.mktemp("finished")).fill()
    for stage in ("sample", "evaluate"):
        finished.slices[stage].write(finished.store)
    export.run(finished.job("export"))
    return finished


def rows_of(folder: Path) -> Rows:
    """The checksums of each row. Fails for a row that is there twice."""
    shards = [Shard(path) for path in shard_paths(folder)]
    names = Counter(row for shard in shards for row in shard.rows())
    assert set(names.values()) <= {1}, names.most_common(3)
    return {row: shard.sums(row) for shard in shards for row in shard.rows()}


def parts_of(job: Job[Any], count: int) -> list[Job[Any]]:
    return [replace(job, part=Part(number, count), waits=[]) for number in range(1, count + 1)]


def receipt_of(job: Job[Any]) -> Path:
    whole = job.store.parent / "results/.receipts" / f"{job.slice.stage}-{job.key}.json"
    return job.part.receipt(whole) if job.part else whole


def run(job: Job[Any]) -> RunCounts:
    return execute(job, receipt_of(job))


def at_once(work: Iterable[Callable[[], RunCounts]]) -> list[RunCounts]:
    """Run all at the same time; raises the error of one."""
    results: dict[int, Any] = {}

    def one(number: int, call: Callable[[], RunCounts]) -> None:
        try:
            results[number] = call()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return [results[number] for number in range(len(threads))]


def check_parts(job: Job[Any], count: int, total: int) -> None:
    """Run all parts, then the stage itself: each row is made once, by the part that counts it, at its cost."""
    record_path = job.store / "records" / f"{job.slice.stage}-{job.key}.json"
    record_path.unlink(missing_ok=True)
    counts = [run(part) for part in parts_of(job, count)]
    assert sum(one.made for one in counts) == total
    assert {one.reused for one in counts} == {0}, "a part counts its own rows only"
    assert max(one.made for one in counts) - min(one.made for one in counts) <= 1 or job.slice.stage == "evaluate"
    assert len(part_receipts(receipt_of(job))) == count
    receipts = [json.loads(path.read_text()) for path in part_receipts(receipt_of(job))]
    assert {one["part"] for one in receipts} == {f"{number}-of-{count}" for number in range(1, count + 1)}
    record = read_record(record_path)
    assert record is not None
    assert record.made == total
    assert record.runs == sum(one.made > 0 for one in counts)
    assert record.seconds == pytest.approx(sum(one["seconds"] for one in receipts if one["made"]), abs=0.01)
    assert record.device_seconds == pytest.approx(record.seconds, abs=0.01)
    gathered = run(job)
    assert (gathered.made, gathered.reused) == (0, total)
    assert read_record(record_path) == record, "finding all rows costs nothing"
    assert part_receipts(receipt_of(job)) == []
    assert not list(job.lock_path.with_suffix(".parts").iterdir())
    assert [run(part).made for part in parts_of(job, count + 1)] == [0] * (count + 1), "another number changes nothing"


@pytest.mark.parametrize("count", [1, 2, 3, CLIPS + 2])
@pytest.mark.parametrize("stage", ["preprocess", "latents", "images", "text"])
def test_parts_make_the_rows_of_one_job(project: Caching, stage: str, count: int) -> None:
    job = project.job(stage)
    expected = rows_of(job.folder)
    shutil.rmtree(job.folder)
    check_parts(job, count, len(expected))
    assert rows_of(job.folder) == expected


@pytest.mark.parametrize("count", [2, 3, 17])
def test_parts_sample_and_measure_what_one_job_does(finished: Finished, tmp_path: Path, count: int) -> None:
    job, measuring = finished.job("sample"), finished.job("evaluate")
    run(job)
    run(measuring)
    kept = [(one, one.folder.rename(tmp_path / one.slice.stage)) for one in (job, measuring)]
    try:
        check_parts(job, count, 15)
        check_parts(measuring, count, 4)
        for one, folder in kept:
            assert rows_of(one.folder) == rows_of(folder)
            names = {path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".mp4", ".json", "")}
            for name in names:
                if (folder / name).is_file() and name.name != "index.json":
                    assert (one.folder / name).read_bytes() == (folder / name).read_bytes(), name
    finally:
        for one, folder in kept:
            shutil.rmtree(one.folder, ignore_errors=True)
            folder.rename(one.folder)


def test_parts_at_once_with_another_data_set_make_no_row_twice(
    project: Caching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two experiments over one folder, cut differently, one of them also as a whole."""
    other = copy.copy(project)
    other.overrides = ["args.valid_data=null"]
    other.run("scan")
    other.run("preprocess")
    job, without = project.job("latents"), other.job("latents")
    assert job.folder == without.folder
    assert job.key != without.key
    expected = rows_of(job.folder)
    shutil.rmtree(job.folder)
    monkeypatch.setattr(latents, "prepare_torch", lambda threads: None)  # the threads of a process are for all its jobs
    jobs = [*parts_of(job, 3), *parts_of(without, 2), without]
    counts = at_once([lambda job=job: run(job) for job in jobs])
    assert rows_of(job.folder) == expected
    assert sum(one.made for one in counts) == len(expected)
    assert (run(job).made, run(without).made) == (0, 0)


def test_few_new_rows_are_split_evenly(project: Caching) -> None:
    """Two rows are missing that are neighbours: with one split of all rows, both would be in one part."""
    job = project.job("text")
    names = sorted(rows_of(job.folder))
    shutil.rmtree(job.folder)
    made: list[list[str]] = []

    def make(rows: list[str]) -> None:
        made.append(rows)
        with ShardWriter(job.folder) as writer:
            for row in rows:
                writer.add(row, {}, {})

    make(names[2:])
    made.clear()
    units = [[name] for name in names]
    for part in parts_of(job, 2):
        make_rows(part, units, make)
    assert made == [[names[0]], [names[1]]]


def test_the_first_part_decides_for_all(project: Caching) -> None:
    """A part that starts late, or again, makes its own rows: not a share of what is missing by then."""
    job = project.job("text")
    total = len(rows_of(job.folder))
    shutil.rmtree(job.folder)
    parts = parts_of(job, 3)
    assert [run(part).made for part in (parts[2], parts[0])] == [3, 2]
    (split,) = job.lock_path.with_suffix(".parts").iterdir()
    assert run(parts[0]).made == 0
    split.write_text("{damaged")
    assert run(parts[1]).made <= 2
    assert run(job).made + len(rows_of(job.folder)) >= total
    assert len(rows_of(job.folder)) == total, "whatever the split says, the stage itself finds what is missing"


class Dying(ShardWriter):
    """Kills its process after the first row."""

    def add(self, *row: Any, **more: Any) -> None:
        super().add(*row, **more)
        os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(job: Job[Any]) -> int:
    latents.ShardWriter = Dying
    run(job)
    return 0


def test_a_killed_part_resumes(project: Caching, tmp_path: Path) -> None:
    """SIGKILL after one row on disk: its reservation is void at once, and the same part makes the rest."""
    project.overrides = ["args.flush_seconds=0.0"]
    job = project.job("latents")
    expected = rows_of(job.folder)
    shutil.rmtree(job.folder)
    first, second = parts_of(job, 2)

    code, output = forked(partial(run_and_die, first), tmp_path / "output")
    assert code == -signal.SIGKILL, output
    reserved = list(job.lock_path.with_suffix(".reserved").iterdir())
    assert len(reserved) == 1, "what the killed process left"
    assert not receipt_of(first).exists()
    assert run(second).made == 3
    resumed = run(first)
    assert (resumed.made, resumed.reused) == (2, 1)
    assert rows_of(job.folder) == expected
    assert not list(job.lock_path.with_suffix(".reserved").iterdir())


def test_the_gathering_job_waits_for_rows_of_other_nodes(project: Caching, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node may have no GPU, and may see the rows of parts later than their receipts."""
    monkeypatch.setattr("cogtune.data.store._LIST_SECONDS", 0.05)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    job = project.job("text")
    hidden = job.folder.rename(job.folder.with_name("hidden"))
    names = [[name] for name in rows_of(hidden)]
    receipts = [part.receipt(job.results / f".receipts/text-{job.key}.json") for part in (Part(1, 2), Part(2, 2))]
    for receipt in receipts:
        write_json(receipt, {})
    showing = threading.Timer(0.5, lambda: hidden.rename(job.folder))
    showing.start()
    assert make_rows(job, names, lambda missing: pytest.fail(f"made {missing}")).made == 0
    showing.join()
    hidden = job.folder.rename(job.folder.with_name("hidden"))
    made: list[list[str]] = []
    receipts[0].unlink()
    make_rows(job, names, made.append)
    receipts[1].unlink()
    assert made == [[name for (name,) in names]], "one part has not said that it is done"


def test_seconds_of_waiting_are_not_the_cost_of_a_part(project: Caching) -> None:
    job = project.job("text")
    part = parts_of(job, 2)[0]
    part.note_wait(3600.0)
    run(part)
    receipt = json.loads(receipt_of(part).read_text())
    assert receipt["seconds"] < 0


def test_a_part_of_evaluate_writes_no_figures(finished: Finished, tmp_path: Path) -> None:
    run(finished.job("sample"))
    job = finished.job("evaluate")
    kept = job.folder.rename(tmp_path / "kept") if job.folder.exists() else None
    assert sum(evaluate.run(part).made for part in parts_of(job, 2)) == 4
    assert not (job.folder / "metrics.json").exists()
    shutil.rmtree(job.folder)
    if kept:
        kept.rename(job.folder)

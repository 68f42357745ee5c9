"""Who shares a store, or a results folder, shares work and nothing of where and how it is done."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cogtune.commands.store import drop
from cogtune.config.errors import ConfigError
from cogtune.runtime.atomic import write_json
from cogtune.stages.job import Job
from cogtune.work.inputs import ScanInput
from cogtune.work.slices import Slice, read_slice
from cogtune.work.workspace import Workspace
from tests.unit.plan.world import World


def told(world: World, part: Slice) -> Job[Any]:
    """The job as its process is told it by the rule's two files."""
    assert part.run is not None
    return Job(read_slice(world.store / "slices" / f"{part.key}.json", part.run), world.store)


def colleague(world: World, root: Path) -> Workspace:
    """Another working directory on the same store: equal clips elsewhere, other ranks, other results."""
    shutil.copytree(world.root / "data", root / "data")
    shutil.copy(world.config, root / "tiny.yaml")
    text = (root / "tiny.yaml").read_text().replace("log_interval: 1", "log_interval: 5")
    (root / "tiny.yaml").write_text(text)
    words = ", ".join(f"'args.{split}_data=[{root}/data/{split}]'" for split in ("train", "valid"))
    lines = [f"store_dir: {world.store}", f"results_dir: {root}/results", "ranks: 1", "experiments:"]
    # the global batch is named, so that other ranks are not another training
    lines += [f"  tiny: {{base: [{root}/tiny.yaml], set: [args.global_batch_size=4, {words}]}}"]
    (root / "config.yaml").write_text("\n".join(lines))
    workspace = Workspace.load(root / "config.yaml")
    world.scan(workspace, "tiny")
    return workspace


def test_a_colleagues_parse_changes_nothing_of_what_jobs_are_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.root)
    world.experiments(tiny="args.global_batch_size=4")
    mine = world.slices()
    before = {stage: told(world, part).slice.volatile for stage, part in mine.items()}
    theirs = colleague(world, tmp_path / "colleague").slices("tiny")
    shared = [stage for stage in mine if mine[stage].key == theirs[stage].key]
    assert {"preprocess", "latents", "text", "train"} <= set(shared)
    for stage, part in mine.items():
        assert told(world, part).slice.volatile == before[stage] == part.volatile
    train, other = told(world, mine["train"]), told(world, theirs["train"])
    assert (train.ranks, other.ranks) == (2, 1)
    assert (train.input.log_interval, other.input.log_interval) == (1, 5)
    assert (train.results, other.results) == (world.results.resolve(), (tmp_path / "colleague/results").resolve())
    for job, root in ((train, world.root), (other, tmp_path / "colleague")):
        scan = job.upstream_job("latents").upstream_job("scan", ScanInput)
        assert scan.input.train_data == [str((root / "data/train").resolve())]
        assert {Path(row.path).parents[3] for row in job.manifest()} == {root}


def test_a_process_that_runs_one_job_finds_it_in_the_config(world: World) -> None:
    """A cluster's node reads the Snakefile again, for one job only."""
    world.experiments("tiny", more="args.load.experiment=tiny")
    first = world.slices("more")["train"]
    again = world.open().job(first.key)
    assert (again, again.run) == (first, first.run)
    load = told(world, again).upstream_job("load")
    assert load.key == world.slices("tiny")["train"].key
    assert load.upstream["scan"] == first.volatile.jobs["scan"].key
    with pytest.raises(ConfigError, match="no experiment has a job 000000000000"):
        world.open().job("0" * 12)


def test_experiments_that_share_a_job_are_told_of_it_by_the_first(world: World) -> None:
    world.experiments("tiny", quick="args.flush_seconds=7")
    workspace = world.open()
    world.scan(workspace, "tiny")
    first, second = workspace.slices("tiny")["text"], workspace.slices("quick")["text"]
    assert first.key == second.key
    assert first.run != second.run
    assert workspace.job(first.key).run == first.run


def files(world: World) -> set[Path]:
    return {path for path in world.root.rglob("*") if path.is_file()}


def test_nothing_is_written_before_a_run_starts(world: World) -> None:
    """The same keys and the same run are known, and `release` writes both."""
    world.experiments("tiny", more="args.load.experiment=tiny")
    workspace = world.open()
    workspace.writes.held = True
    scan = workspace.resolver("tiny").scan()
    before = files(world)
    workspace.scan_receipts("more")
    assert files(world) == before
    world.scan(workspace, "tiny")
    before = files(world)
    parts = [*workspace.slices("tiny").values(), *workspace.slices("more").values(), scan]
    assert files(world) == before
    workspace.writes.release()
    assert {part.path(world.store) for part in parts} <= files(world)
    for part in parts:
        assert told(world, part).slice == part
    assert (world.store / "hashes.json").exists()


def test_a_process_that_runs_one_job_takes_what_the_main_process_wrote(world: World) -> None:
    """Of two experiments that share a job, only the second one was started."""
    world.experiments("tiny", quick="args.flush_seconds=7")
    main, node = world.open(), world.open()
    main.writes.held = node.writes.held = True
    world.scan(main, "tiny")
    part = main.slices("quick")["text"]
    with pytest.raises(ConfigError, match=f"no started run has a job {part.key}"):
        node.started_job(part.key)
    main.writes.release()
    assert node.job(part.key).run != part.run, "the first experiment's, which nobody wrote"
    before = files(world)
    assert node.started_job(part.key).run == part.run
    assert files(world) == before


@pytest.mark.parametrize("left", ["runs", "records", "volatile of an earlier version"])
def test_a_dropped_key_takes_every_receipt_behind_it(world: World, left: str) -> None:
    """Whatever is left that tells who stands on whom is enough."""
    parts = world.run()
    write_json(
        world.store / "records" / f"report-{parts['report'].key}.json", {"run": parts["report"].volatile.recorded()}
    )
    if left != "runs":
        shutil.rmtree(world.results / ".runs")
    if left != "records":
        shutil.rmtree(world.store / "records")
    if left.startswith("volatile"):
        for part in parts.values():
            (world.store / "slices" / f"{part.key}.volatile.json").write_text(json.dumps(part.volatile.to_json()))
    drop(world.store, parts["latents"].items_key, world.results)
    kept = {path.name.split("-")[0] for path in (world.results / ".receipts").glob("*.json")}
    assert kept == {"scan", "preprocess", "text"}
    assert not list((world.results / "tiny").glob(".published-*"))


def test_a_store_with_runs_of_an_earlier_version_is_used(world: World) -> None:
    """They are read for history only: a plan still knows what differs from the run before."""
    parts = world.run()
    for part in parts.values():
        (world.store / "slices" / f"{part.key}.volatile.json").write_text(json.dumps(part.volatile.to_json()))
        record = world.store / "records" / f"{part.stage}-{part.key}.json"
        if record.exists():
            record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "run"}))
    world.clip("new", "one more")
    assert "1 new clip" in " ".join(world.why("latents"))

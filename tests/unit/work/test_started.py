"""What jobs on other machines read: what the main process wrote, whatever the configs say by then."""

from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.work.started import load_started, save_started
from tests.unit.plan.world import World


def test_a_job_finds_its_run_without_any_config(world: World, tmp_path: Path) -> None:
    world.experiments("tiny", quick="args.flush_seconds=7")
    main, file = world.open(), tmp_path / "jobs.json"
    world.scan(main, "tiny")
    parts = main.slices("quick") | main.slices("tiny")
    save_started(main, file)
    expected = {part.key: (main.job(part.key), main.upstream(part)) for part in parts.values()}
    world.workflow.write_text("experiments: [broken")
    started = load_started(file)
    for key, (part, receipts) in expected.items():
        assert started.job(key) == part
        assert started.upstream(part) == receipts
    with pytest.raises(UserError, match=f"unknown job {'0' * 12}; run snakemake again"):
        started.job("0" * 12)


def test_jobs_of_an_earlier_main_process_are_kept(world: World, tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    for values in ((), ("args.seed=12",)):
        world.experiments(tiny=" ".join(values))
        main = world.open()
        world.scan(main, "tiny")
        main.slices("tiny")
        save_started(main, file)
        if not values:
            earlier = main.runs()
    assert set(load_started(file).runs) > set(earlier)
    stamp = file.stat().st_mtime_ns
    save_started(main, file)
    assert file.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", '{"store": "s"}', '{"store": "s", "results": "r", "runs": 1}']
)
def test_a_damaged_file_ends_the_job(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "jobs.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match="missing or damaged"):
        load_started(file)

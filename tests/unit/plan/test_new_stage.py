"""A new stage is its row, its file, its rule and its tests: with the row alone, every command knows it and a plan says `?`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cogtune.__main__ import main
from cogtune.commands import stage
from cogtune.evaluation.report.gather import stages
from cogtune.work.stage_input import identity, volatile
from cogtune.work.stages import STAGES, Stage
from tests.unit.plan.world import World


@dataclass(frozen=True)
class GradeInput:
    rate: float = identity("args.lr")
    batch: int = volatile("args.text_batch")


ROWS = (
    Stage("grade", 1, GradeInput, "grade every caption", "captions", upstream=("text",), items=True, data="captions"),
    Stage("grade", 1, GradeInput, "grade the clips", "clips", upstream=("preprocess",), items=True, data="clips"),
    Stage("grade", 1, GradeInput, "grade the training", "grades", upstream=("train",), data="train"),
)


@pytest.fixture(params=ROWS, ids=lambda row: row.unit)
def row(request: pytest.FixtureRequest, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The row in the table, before the report, which reads it."""
    monkeypatch.setattr(stage, "scan_first", lambda workspace, name, plain: world.scan(workspace, name))
    before = dict(STAGES)
    report = STAGES.pop("report")
    STAGES["grade"] = request.param
    STAGES["report"] = replace(report, upstream=(*report.upstream, "grade"))
    yield request.param
    STAGES.clear()
    STAGES.update(before)


def test_help_and_explain(row: Stage, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert row.help in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["grade", "--help"])
    assert row.help in capsys.readouterr().out
    assert main(["config", "explain", "args.text_batch"]) == 0
    assert "(text), (grade)" in capsys.readouterr().out
    assert main(["config", "show", "--stage", "grade", "--base", str(world.config)]) == 0
    assert "text_batch: 8" in capsys.readouterr().out


@pytest.mark.heavy
def test_plan(row: Stage, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--workflow", str(world.workflow), "--device", "H100"]
    assert main(words) == 0
    text = capsys.readouterr().out
    (line,) = (line.split() for line in text.splitlines() if line.strip().startswith("grade"))
    count = "5" if row.items else "1"
    assert line == ["grade", "stale", count, row.unit if row.items else row.unit.removesuffix("s"), "?"]
    assert "no time estimate for 1 jobs: their stage, or a plugin, has no cost model" in " ".join(text.split())
    assert main([*words, "--format", "json"]) == 0
    graded = json.loads(capsys.readouterr().out)["experiments"][0]["stages"][-2]
    assert (graded["stage"], graded["estimate"]["seconds"]) == ("grade", None)
    world.run()
    assert main(words) == 0
    assert "up to date" in capsys.readouterr().out
    world.edit("lr: 0.001", "lr: 0.002")
    assert main(words) == 0
    assert "grade" in capsys.readouterr().out


def test_store_and_report(row: Stage, world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    parts = world.run()
    keys = {name: part.key for name, part in parts.items() if name != "report"}
    assert [facts.stage for facts in stages(world.store / "records", keys)][-1] == "grade"
    assert main(["store", "list", "--store", str(world.store), "--results", str(world.results)]) == 0
    assert main(["store", "verify", "--store", str(world.store), "--results", str(world.results)]) in (0, 1)

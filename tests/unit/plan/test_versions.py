"""What a plan says after an update of cogtune that raised the version of a stage."""

import json
import shutil

import pytest

from cogtune.runtime.atomic import write_json
from cogtune.runtime.digest import key_of
from tests.unit.plan.world import World

pytestmark = pytest.mark.heavy


def test_another_version_of_a_stage(world: World) -> None:
    parts = world.run()
    for stage in ("text", "train"):
        path = world.store / "slices" / f"{parts[stage].key}.json"
        path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    shutil.rmtree(world.store / "text")
    shutil.rmtree(world.results / ".receipts")
    next((world.results / "tiny").glob(".published-*")).unlink()
    run = world.results / "tiny/run.json"
    earlier = key_of(json.loads((world.store / "slices" / f"{parts['text'].key}.json").read_text()))
    run.write_text(run.read_text().replace(parts["text"].key, earlier))
    path = world.store / "slices" / f"{parts['text'].key}.json"
    path.rename(path.with_name(f"{earlier}.json"))
    assert world.why("text") == ["stage version changed (0 → 1)"]


def test_another_version_of_the_report(world: World) -> None:
    """After an update of cogtune nothing else needs to run; the config is the same."""
    report = world.run()["report"]
    identity = json.loads((world.store / "slices" / f"{report.key}.json").read_text())
    version = identity["version"]
    identity["version"] = version - 1
    earlier = key_of(identity)
    write_json(world.store / "slices" / f"{earlier}.json", identity)
    run = world.results / "tiny/run.json"
    run.write_text(run.read_text().replace(report.key, earlier))
    next((world.results / "tiny").glob(".published-*")).unlink()
    assert world.why("report") == [f"stage version changed ({version - 1} → {version})"]

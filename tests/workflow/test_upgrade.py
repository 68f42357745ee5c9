"""A store that an earlier commit of cogtune wrote, opened by this one.

`stores/store-0.1.0-d4b319d.tar.xz` is the finished tiny project of commit d4b319d: config, weights, clips, store, results, without
its older checkpoint and its logs. Rows that mean the same today are used; the rest is made again, and `cogtune plan` says so
beforehand, with the reason and the cost.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.workflow.project import COPIED, REPO, Project
from tests.workflow.test_plan import plan, reasons

pytestmark = pytest.mark.workflow
OLD_STORE = Path(__file__).parent / "stores/store-0.1.0-d4b319d.tar.xz"
ROWS = ("preprocess", "latents", "text", "sample", "evaluate")
VERSION = "stage version changed"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The old project with today's workflow beside it."""
    root = tmp_path_factory.mktemp("upgrade")
    with tarfile.open(OLD_STORE) as archive:
        archive.extractall(root, filter="data")
    for name in COPIED:
        copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy2
        copy(REPO / name, root / name)
    return Project(root)


def rows_of(project: Project, stage: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (project.root / "store" / stage).rglob("*.safetensors")}


def test_the_plan_names_what_is_made_again_and_the_run_makes_just_that(old: Project) -> None:
    stages = plan(old.root)
    todo = {name: stage["todo"] for name, stage in stages.items() if stage["todo"]}
    why = {name: " ".join(reasons(stage)) for name, stage in stages.items()}
    again = {name for name, words in why.items() if VERSION.format(name) in words}
    assert again >= {"preprocess", "latents"}, why
    assert "text" not in todo
    assert all(stages[name]["estimate"]["seconds"] > 0 for name in todo)

    captions, stamps = rows_of(old, "text"), old.stamps()
    assert captions
    done = old.snakemake()
    assert "Traceback" not in done.stderr
    assert rows_of(old, "text") == captions
    ran = [receipt for name, receipt in old.receipts().items() if old.stamps()[name] != stamps.get(name)]
    made = {receipt["stage"]: receipt["made"] for receipt in ran if receipt.get("made")}
    assert made.keys() == todo.keys() - {"report"}
    assert {name: made[name] for name in ROWS if name in made} == {name: todo[name] for name in ROWS if name in todo}
    assert json.loads(old.metrics())
    assert all(stage["state"] == "up to date" for stage in plan(old.root).values())

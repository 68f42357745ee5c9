"""`cogtune store drop`: what it removes, and that no other name removes anything. The remover is guarded, or a stub."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogtune.__main__ import main
from cogtune.commands.store import drop
from cogtune.errors import UserError
from cogtune.work.runs import write_run
from cogtune.work.slices import Slice
from cogtune.work.stages import STAGES
from cogtune.work.volatile import UpstreamJob, Volatile
from tests.removal import only_below


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """store/latents with rows of two keys and the slices behind them, receipts of both; nothing else can be removed."""
    for folder in ("store/latents", "results/.receipts", "results/demo", "outside"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "outside/file").write_text("x")
    with only_below(tmp_path):
        yield tmp_path


def add(project: Path, stage: str, upstream: dict[str, str] | None = None) -> str:
    """A finished job of a stage; returns its key."""
    jobs = {name: UpstreamJob(name, key, key) for name, key in (upstream or {}).items()}
    values = {"values": {"stage": stage}, "format": "cogtune-slice-1", "stage": stage, "version": 1, "upstream": {}}
    part = Slice(stage, values, Volatile(jobs=jobs))
    part.write(project / "store")
    write_run(project / "results", stage, {part.key: part.volatile})
    (project / f"store/{stage}/{part.key}").mkdir(parents=True)
    (project / f"store/{stage}/{part.key}/rows").write_text("x")
    (project / f"results/.receipts/{stage}-{part.key}.json").write_text("{}")
    return part.key


def files(project: Path) -> set[str]:
    found = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    return {name for name in found if "/locks/" not in name}


def test_a_key_goes_with_the_receipts_behind_it(project: Path) -> None:
    kept = add(project, "text")
    latents = add(project, "latents")
    train = add(project, "train", {"latents": latents})
    before = files(project)
    removed = drop(project / "store", latents, project / "results")
    gone = {
        f"store/latents/{latents}/rows",
        f"results/.receipts/latents-{latents}.json",
        f"results/.receipts/train-{train}.json",
    }
    assert before - files(project) == gone
    assert project / f"store/latents/{latents}" in removed
    assert (project / f"store/text/{kept}/rows").exists()


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../latents", "/", "{outside}", "{key}/", "{key}/..", "0123456789AB", "*", "{key}\n"]
)
def test_no_other_name_removes_anything(project: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = key.format(outside=project / "outside", key=add(project, "latents"))
    before, removed = files(project), []
    monkeypatch.setattr(shutil, "rmtree", removed.append)
    with pytest.raises(UserError, match="12 hex digits"):
        drop(project / "store", name, project / "results")
    places = ["--store", str(project / "store"), "--results", str(project / "results")]
    assert main(["store", "drop", name, *places]) == 1
    assert not removed
    assert files(project) == before


@pytest.mark.parametrize("linked", ["store/latents/{key}", "store/latents"])
def test_nothing_is_removed_through_a_link(project: Path, linked: str) -> None:
    key = add(project, "latents")
    add(project, "text")
    real = project / linked.format(key=key)
    shutil.move(real, project / "elsewhere")
    real.symlink_to(project / "elsewhere")
    before = files(project)
    with pytest.raises(UserError, match=r"a symbolic link to .*elsewhere.*; nothing was removed"):
        drop(project / "store", key, project / "results")
    assert files(project) == before


def test_receipts_behind_a_link_stay(project: Path) -> None:
    """results/<sweep>/ links to other experiments' results, whose receipts are found where they are."""
    key = add(project, "latents")
    marker = project / f"outside/.published-{key}"
    marker.write_text(json.dumps({}))
    (project / "results/linked").symlink_to(project / "outside")
    drop(project / "store", key, project / "results")
    assert marker.exists()


def test_every_stage_is_looked_at(project: Path) -> None:
    for stage in STAGES:
        key = add(project, stage)
        drop(project / "store", key, project / "results")
        assert not (project / f"store/{stage}/{key}").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["store", "list", "--", "args.seed=1"], "store takes no overrides"),
        (["config", "explain", "lr", "--", "args.lr=1"], "config explain takes no overrides"),
    ],
)
def test_overrides_that_an_action_does_not_use_are_an_error(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert message in capsys.readouterr().err


OPTIONS = {
    "list": [],
    "drop": [],
    "verify": ["--repair"],
    "gc": ["--yes", "--older-than=0", "--forget=x", "--superseded", "-v"],
}


@pytest.mark.parametrize("action", OPTIONS)
def test_each_action_has_its_own_help_and_options(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    key = ["0123456789ab"] if action == "drop" else []
    others = [
        ["--yes"],
        ["--repair"],
        ["--older-than=0"],
        ["--forget=x"],
        *([["0123456789ab"]] if action != "verify" else []),
    ]
    for words in (words for words in others if words[0] not in OPTIONS[action]):
        with pytest.raises(SystemExit) as ended:
            main(["store", action, *key, *words])
        assert ended.value.code == 2
        assert words[0] in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["store", action, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"examples:\n  cogtune store {action}" in printed
    assert all(option.split("=")[0] in printed for option in OPTIONS[action])

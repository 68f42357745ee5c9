"""`cogtune run`: Snakemake's command line, and nothing else."""

import os
import sys
from pathlib import Path

import pytest

from cogtune.__main__ import main
from cogtune.commands import run
from cogtune.commands.run import command_line

REPO = Path(__file__).parents[3]


class Executed(Exception):  # noqa: N818
    """In place of Snakemake."""


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be executed."""
    words: list[str] = []

    def execv(program: str, arguments: list[str]) -> None:
        assert program == sys.executable
        words.extend(arguments)
        raise Executed

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.chdir(REPO)
    return words


def test_it_executes_what_it_shows(executed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Executed):
        main(["run", "demo_lora", "-n", "--quiet", "all"])
    assert executed[1:] == ["-m", "snakemake", "experiment_demo_lora", "-n", "--quiet", "all"]
    assert capsys.readouterr().err == "snakemake experiment_demo_lora -n --quiet all\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["t", "--cores", "all"]),
        (["--retries", "2"], ["t", "--cores", "all", "--retries", "2"]),
        (["--cores", "4"], ["t", "--cores", "4"]),
        (["--cores=4"], ["t", "--cores=4"]),
        (["-c4"], ["t", "-c4"]),
        (["--config", "ranks=1"], ["t", "--cores", "all", "--config", "ranks=1"]),
        (["--workflow-profile", "p"], ["t", "--workflow-profile", "p"]),
    ],
)
def test_cores_are_all_unless_given(options: list[str], expected: list[str]) -> None:
    assert command_line("t", options) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo_lor"], "unknown experiment 'demo_lor'; did you mean 'demo_lora'?"),
        (
            ["other"],
            "unknown experiment 'other'; expected one of demo, demo_lora; `cogtune new other --data FOLDER` adds one",
        ),
        (["demo", "--", "args.seed=1"], "run takes no config values"),
    ],
)
def test_refusals(executed: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *words]) == 1
    assert message in capsys.readouterr().err
    assert executed == []


def test_outside_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "demo"]) == 1
    assert "run this command in your clone" in capsys.readouterr().err


def test_sweeps_have_a_target(tmp_path: Path) -> None:
    from cogtune.work.workspace import Workspace

    path = tmp_path / "config.yaml"
    path.write_text("experiments: {a: {base: [x.yaml]}}\nsweep: {lr: {experiment: a, grid: {args.lr: [1e-3]}}}\n")
    assert run.target_of(Workspace.load(path), "lr") == "sweep_lr"


@pytest.mark.heavy
def test_an_option_of_another_command_is_refused(executed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Snakemake would end in its usage. Options that both have are Snakemake's."""
    assert main(["run", "demo_lora", "--lora"]) == 1
    assert "--lora: cogtune run passes options to Snakemake, which has no --lora; it belongs to cogtune new" in (
        capsys.readouterr().err
    )
    with pytest.raises(Executed):
        main(["run", "demo_lora", "--dry-run"])
    assert executed[-1] == "--dry-run"

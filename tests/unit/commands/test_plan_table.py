"""`cogtune plan` through the command line, as people and programs read it."""

import json

import pytest

from cogtune.__main__ import main
from cogtune.commands import stage
from cogtune.commands.plan_table import duration, size
from tests.unit.plan.world import World


@pytest.fixture(autouse=True)
def scanned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of a made-up world cannot be decoded, so its own scan stands in for the stage."""
    monkeypatch.setattr(stage, "scan_first", lambda workspace, name, plain: world.scan(workspace, name))


def told(world: World, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", "--workflow", str(world.workflow), "--device", "H100", *words]) == 0
    return capsys.readouterr().out


def test_fits_into_100_columns_and_says_it(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    world.edit("lr: 0.001", "lr: 0.002")
    world.clip("new", "one more")
    text = told(world, capsys)
    lines = text.splitlines()
    assert max(len(line) for line in lines if str(world.root) not in line) <= 100
    flat = " ".join(text.split())
    assert "train stale 6 steps" in flat
    assert "latents stale 1 of 6 clips" in flat
    assert "deepspeed.optimizer.params.lr 0.001 → 0.002" in flat
    assert "export, sample, evaluate, report: because train is stale" in flat
    assert "estimated for 2 x H100" in flat


def test_nothing_to_do(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run()
    text = told(world, capsys)
    assert "up to date: nothing to run (5 clips, 5 captions, 6 steps)" in text
    assert text.endswith("nothing to do\n")


def test_json(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(world, capsys, "--format", "json"))
    (experiment,) = found["experiments"]
    train = experiment["stages"][4]
    assert (train["stage"], train["state"], train["todo"]) == ("train", "stale", 6)
    assert train["why"] == [{"kind": "never", "text": "never run"}]
    assert train["estimate"]["devices"] == 2
    assert found["total"]["jobs"] == 8
    assert found["total"]["seconds"] == pytest.approx(
        sum(stage["estimate"]["seconds"] for stage in experiment["stages"] if stage["estimate"])
    )
    assert found["device"]["name"] == "H100"


def test_one_config_by_hand_and_a_name(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert "by-hand" in told(world, capsys, "--base", str(world.config), "--", "--train-iters", "12")
    world.experiments("tiny", second="args.seed=3")
    assert "second" not in told(world, capsys, "tiny")
    assert "600 steps" in told(world, capsys, "tiny", "--", "args.train_iters=600")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nobody"], 1, "unknown experiment 'nobody'; expected one of tiny"),
        (["--device", "Voodoo2"], 1, "--device Voodoo2: unknown GPU; expected one of"),
        (["--", "args.sede=1"], 1, "cannot plan tiny: command line: args.sede: unknown key; did you mean 'seed'"),
    ],
)
def test_errors_in_one_sentence(
    world: World, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert main(["plan", "--workflow", str(world.workflow), *words]) == code
    assert message in capsys.readouterr().err


def test_durations_and_sizes() -> None:
    assert [duration(s) for s in (0.2, 8, 89, 700, 12600, 500_000, 9e7)] == [
        "1 s", "8 s", "89 s", "12 min", "3.5 h", "5.8 days", "1,042 days"
    ]  # fmt: skip
    assert [size(b) for b in (10, 2.5e6, 44e9, 3.2e12)] == ["1 kB", "2.5 MB", "44 GB", "3.2 TB"]

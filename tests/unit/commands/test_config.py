"""`cogtune config …`, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from cogtune.__main__ import main
from tests.layouts import empty_t5
from tests.unit.plan.world import World

CONFIG = Path(__file__).parents[3] / "config"
FILES = [str(CONFIG / "cogvideox_2b_lora.yaml"), str(CONFIG / "sft.yaml")]


def test_show(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "show", "--base", *FILES, "--", "model.scale_factor=0.7", "--train-iters", "10"]) == 0
    shown = capsys.readouterr().out
    assert "train_iters: 10 " in shown
    assert "# command line" in shown
    assert main(["config", "show", "--base", *FILES, "--format", "json", "--stage", "text"]) == 0
    assert json.loads(capsys.readouterr().out)["args"]["text_batch"] == 8


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--no-files", "--base", *FILES], 0, ""),
        (["--base", *FILES], 2, "sft.yaml:6:16: args.train_data.0: {folder with videos/ and labels/} is a placeholder"),
        (["--no-files", "--base", *FILES, "--", "args.sede=1"], 2, "args.sede: unknown key; did you mean 'seed'"),
        (["--no-files", "--base", *FILES, "--", "--sede", "1"], 2, "unknown option --sede; did you mean --seed?"),
        (
            ["--no-files", "--base", *FILES, "--", "args.global_batch_size=3", "--train-micro-batch-size-per-gpu", "2"],
            2,
            "unknown option --train-micro-batch-size-per-gpu",
        ),
        (
            [
                "--no-files",
                "--base",
                *FILES,
                "--",
                "args.global_batch_size=3",
                "deepspeed.train_micro_batch_size_per_gpu=2",
            ],
            2,
            "args.global_batch_size: 3 clips per rank (3 / 1 ranks) are not a multiple of",
        ),
        (["--no-files", "--base", "nowhere.yaml"], 2, "cogtune: nowhere.yaml: no such file"),
    ],
)
def test_check(words: list[Any], code: int, message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["config", "check", *words]) == code
    assert message in capsys.readouterr().err


def test_check_of_all_experiments_names_each_error_once(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("args: {sede: 1}\n")
    base = ", ".join([*FILES, str(bad)])
    workflow = tmp_path / "config.yaml"
    workflow.write_text(
        f"experiments: {{a: {{base: [{base}]}}, b: {{base: [{base}]}}, c: {{base: [{FILES[0]}, {FILES[1]}]}}}}"
    )
    assert main(["config", "check", "--no-files", "--workflow", str(workflow)]) == 2
    told = capsys.readouterr()
    assert told.err.count("unknown key") == 1
    assert "c: ok" in told.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"a": "args.load.experiment=nowhere"}, "unknown experiment 'nowhere'; expected one of tiny, a"),
        ({"a": "args.load.experiment=a"}, "circular chain of experiments: a -> a"),
        ({"a": "args.load.experiment=b", "b": "args.load.experiment=a"}, "circular chain of experiments: b -> a -> b"),
    ],
)
def test_check_follows_the_experiments_that_a_config_starts_from(
    more: dict[str, Any], message: str, world: World, capsys: pytest.CaptureFixture[str]
):
    world.experiments("tiny", **more)
    assert main(["config", "check", "--workflow", str(world.workflow)]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == "tiny: ok\n"
    start = next(iter(more.values()))
    code = main(["config", "check", "--workflow", str(world.workflow), "--base", str(world.config), "--", start])
    assert code == 2
    world.experiments("tiny", a="args.load.experiment=tiny")
    assert main(["config", "check", "--workflow", str(world.workflow)]) == 0


def test_diff_and_explain(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "diff", str(CONFIG / "cogvideox_2b.yaml"), str(CONFIG / "cogvideox_2b_lora.yaml")]) == 0
    assert "lora_config.params.r: (absent) → 128 " in capsys.readouterr().out
    assert main(["config", "diff", FILES[1], FILES[1]]) == 0
    assert capsys.readouterr().out == "no differences\n"
    assert main(["config", "explain", "scale_factor"]) == 0
    assert "read by        train" in capsys.readouterr().out
    assert main(["config", "explain", "scale_facto"]) == 2


def test_check_reads_the_lines_of_a_prompt_file(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog@@dog.png\n")
    words = [
        f"args.input_file={prompts}",
        "args.load.experiment=tiny",
        "model.first_stage_config.params.ckpt_path=null",
    ]
    words += [f"model.conditioner_config.params.emb_models.0.params.model_dir={empty_t5(tmp_path / 't5')}"]
    files = [str(CONFIG / "cogvideox1.5_5b_i2v.yaml"), str(CONFIG / "inference.yaml")]
    check = ["config", "check", "--workflow", str(world.workflow), "--base", *files, "--", *words]
    assert main(check) == 2
    assert "args.input_file: " in (told := capsys.readouterr().err)
    assert "prompts.txt:1: no such image: 'dog.png'" in told
    (tmp_path / "dog.png").touch()
    assert main(check) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["train", "--base", "a.yaml", "--seed", "42", "--train-iters=3"],
            "--seed 42 --train-iters=3: put config values after `--`: "
            "cogtune train --base a.yaml -- --seed 42 --train-iters=3",
        ),
        (["config", "show", "--base", "a.yaml", "--fp16"], "cogtune config show --base a.yaml -- --fp16"),
        (["train", "--base", "a.yaml", "--debug"], "before the command: cogtune --debug train --base a.yaml"),
        (["config", "explain", "lr", "--base", "a.yaml"], "unrecognized arguments: --base a.yaml"),
        (["train", "--base", "a.yaml", "--sede", "1"], "unrecognized arguments: --sede 1"),
        (["train", "--base", "a.yaml", "--ranks", "0"], "expected an integer from 1 to 1024; found '0'"),
    ],
)
def test_values_before_the_dashes_are_told_where_they_go(
    words: list[Any], told: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_an_override_among_the_files_is_told_where_it_goes(capsys: pytest.CaptureFixture[str]):
    assert main(["config", "show", "--base", FILES[0], "args.seed=3"]) == 2
    assert "args.seed=3: no such file; key=value follows `--`" in capsys.readouterr().err


def test_store_list_reads_the_store_of_the_workflow_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there/train/0123456789ab").mkdir(parents=True)
    (tmp_path / "w.yaml").write_text("store_dir: there\nexperiments: {}\n")
    assert main(["store", "list", "--workflow", "w.yaml"]) == 0
    assert "0123456789ab" in capsys.readouterr().out
    assert main(["store", "list", "--workflow", "w.yaml", "--store", "nowhere"]) == 1
    assert main(["store", "list"]) == 1

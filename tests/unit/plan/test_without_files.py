"""A plan without weights, and without data: the network's size is in the YAML."""

import hashlib
import json
from pathlib import Path

import pytest

from cogtune.__main__ import main
from cogtune.commands import stage
from cogtune.config.errors import ConfigErrors
from cogtune.config.paths import WEIGHTS
from cogtune.work.load import load_config
from cogtune.work.workspace import Workspace
from tests.unit.plan.world import World

CONFIG = Path(__file__).parents[3] / "config"


@pytest.fixture(autouse=True)
def scanned(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def scan_first(workspace: Workspace, name: str, plain: bool) -> None:
        if name not in workspace.assumed_clips:
            world.scan(workspace, name)

    monkeypatch.setattr(stage, "scan_first", scan_first)


@pytest.fixture
def bare(world: World) -> World:
    """The world after a run, its VAE and T5 gone."""
    world.run()
    (world.root / "assets/3d-vae.pt").unlink()
    (world.root / "assets/t5/config.json").unlink()
    for path in (world.root / "assets/t5").iterdir():
        path.unlink()
    (world.root / "assets/t5").rmdir()
    return world


def files(root: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and "hashes" not in path.name
    }


def test_missing_weights_are_a_line_below_the_table(bare: World, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(bare.root)
    assert main(["plan", "--workflow", str(bare.workflow), "--device", "24GB"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "missing: text encoder" in told
    assert "VAE" in told
    assert "preprocess up to date" in told, "it reads no weights"
    assert "latents stale 5 clips" in told
    assert "a file → missing" in told
    assert "estimated for 2 x GPU with 24 GB (2 ranks, one on each; --ranks N changes it)" in told
    assert files(bare.root) == before, "a key of a missing file must not be written"


def test_a_run_still_needs_them(bare: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--workflow", str(bare.workflow)]) == 2
    assert "no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["args.train_data=[nowhere]", "args.input_file=nowhere.txt args.input_type=txt"])
def test_data_and_prompts_must_exist(bare: World, capsys: pytest.CaptureFixture[str], key: str) -> None:
    assert main(["plan", "--workflow", str(bare.workflow), "--", *key.split()]) == 1
    out, err = capsys.readouterr()
    assert "no such file or folder: 'nowhere" in err
    assert out == ""
    assert ("--clips 100" in err) == ("train_data" in key)


def test_assumed_clips(bare: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--workflow", str(bare.workflow), "--clips", "1000", "--", "args.train_data=[nowhere]"]
    assert main(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "latents stale 1,000 clips" in told
    assert "1,000 clips and captions are assumed" in told
    assert "scan" not in told.split("to make")[1].split("why")[0]
    assert main([*words[:5], "--format", "json", *words[5:]]) == 0
    (experiment,) = json.loads(capsys.readouterr().out)["experiments"]
    assert len(experiment["assumptions"]) == 2


@pytest.mark.parametrize("word", ["0", "-1", "many", "1" * 10])
def test_a_number_of_clips(word: str) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--clips", word])


@pytest.mark.parametrize("model", ["cogvideox_5b_i2v_lora", "cogvideox1.5_5b", "cogvideox_2b_lora"])
def test_shipped_models_are_planned_in_a_fresh_clone(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").symlink_to(CONFIG)
    monkeypatch.chdir(tmp_path)
    size = ["data.params.video_size=[768,1360]", "data.params.max_num_frames=81"] if "1.5" in model else []
    bases = ["--base", "config/sft.yaml", f"config/{model}.yaml"]
    assert main(["plan", *bases, "--clips", "8", "--device", "A100", "--ranks", "1", "--", *size]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 x A100 (1 rank; --ranks N changes it)" in told
    assert "train stale 1,000 steps" in told
    assert not (tmp_path / "store").exists()


def test_a_wrong_file_is_no_missing_file(tmp_path: Path) -> None:
    """A file where a folder is expected stays an error."""
    wrong = tmp_path / "file"
    wrong.touch()
    base = [CONFIG / "sft.yaml", CONFIG / "cogvideox_5b.yaml"]
    model_dir = "model.conditioner_config.params.emb_models.0.params.model_dir"
    data = f"args.train_data=[{tmp_path}]"
    config = load_config(base, [data], may_miss={WEIGHTS})
    assert set(config.missing) == {"args.load", "model.first_stage_config.params.ckpt_path", model_dir}
    with pytest.raises(ConfigErrors, match="is a file; expected a folder"):
        load_config(base, [data, f"{model_dir}={wrong}"], may_miss={WEIGHTS})


def test_an_experiment_without_its_files_keeps_no_other_from_running(world: World) -> None:
    """It is refused when it is asked for; every other mistake ends the parsing."""
    world.experiments("tiny", absent="args.load=nowhere", child="args.load.experiment=absent")
    workspace = world.open()
    assert [name for name in workspace.experiments if workspace.available(name)] == ["tiny"]
    assert not workspace.knows("0" * 12)
    with pytest.raises(ConfigErrors, match="no such file or folder: 'nowhere'"):
        workspace.scan_receipts("child")
    world.experiments("tiny", wrong="args.sede=1, args.load=nowhere")
    with pytest.raises(ConfigErrors, match="did you mean 'seed'"):
        world.open().available("wrong")

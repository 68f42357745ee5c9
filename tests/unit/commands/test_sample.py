"""Which options of `cogtune sample` go together; what is made is tested with a finished project."""

import json
import os
from pathlib import Path

import pytest

from cogtune.__main__ import main
from cogtune.commands.sample import weights_of_page
from cogtune.evaluation.report.prompts_page import PromptsPage, publish_prompts
from cogtune.work.prompt_rows import asked_prompts, file_names, rows_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "expected EXPERIMENT|WEIGHTS, or --base FILE for the stage"),
        ("--prompt sea", "--prompt: give the model too: cogtune sample EXPERIMENT|WEIGHTS --prompt"),
        ("--base a.yaml --steps 3", "--steps: give the model too"),
        ("mine", "expected --prompt TEXT or --prompts FILE"),
        ("mine --prompt sea --part 1-of-2", "--part: belongs to the stage"),
        ("mine --prompt sea --receipt a.json", "--receipt: belongs to the stage"),
        ("mine --prompt sea --slice a.json --run b.json", "--slice: belongs to the stage"),
        ("mine --prompt sea --max-restarts 3", "--max-restarts: belongs to the stage"),
        ("mine --prompt sea --seed 0", "--seed 0: expected a number from 1 to"),
        ("mine --prompt sea --strength 0.5 nan", "--strength nan: expected a number from -10 to 10"),
        ("mine --prompt sea --steps 0", "--steps 0: expected a number from 1 to"),
        ("mine --prompt sea --guidance -1", "--guidance -1: expected a number from 0 to 100"),
        ("mine --prompt sea --negative a\udcff", "--negative: is not valid UTF-8 text"),
        ("mine --prompt sea --name ../x", "--name '../x': invalid folder name"),
    ],
)
def test_options_that_do_not_go_together(
    words: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_neither_an_experiment_nor_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text("experiments: {mine: {base: [a.yaml]}}\n")
    assert main(["sample", "mien", "--workflow", "w.yaml", "--prompt", "sea"]) == 1
    assert (
        "mien: no such experiment (mine), and no such file or folder; did you mean 'mine'?" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "words",
    ["sample mine --prompt sea", "store gc --yes", "store drop 0123456789ab", "config check", "doctor", "new mine"],
)
def test_a_missing_workflow_config_is_not_replaced_by_defaults(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([*words.split(), "--workflow", "typo.yaml"])
    assert "--workflow: typo.yaml: no such file" in capsys.readouterr().err


def test_the_page(tmp_path: Path) -> None:
    """Texts are text; files have readable names; an earlier page of the name leaves nothing behind."""
    hostile = "<script>alert(1)</script>\"&'"
    asked = asked_prompts([hostile, "sea"], None, None, False).prompts
    rows = rows_of(asked, [0, 0.5], [1, 2], "<b>", str)
    samples = tmp_path / "store/sample/0123456789ab"
    (samples / "videos").mkdir(parents=True)
    for row in rows:
        (samples / "videos" / f"{row.id}.mp4").write_bytes(b"video of " + row.id.encode())
    folder = tmp_path / "results/mine/prompts/p"
    made = PromptsPage("mine", None, "8 videos", "5 frames", rows, file_names(rows), {})
    page = publish_prompts(folder, made, samples).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Negative prompt: &lt;b&gt;" in page
    assert page.count("data:video/mp4;base64,") == 8
    files = {path.name: path for path in (folder / "videos").iterdir()}
    assert files["02-sea_strength-0.5_seed-2.mp4"].read_bytes() == b"video of " + rows[-1].id.encode()
    assert not os.path.isabs(os.readlink(files["02-sea_strength-0.5_seed-2.mp4"]))
    listed = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))["videos"]
    assert {one["prompt"] for one in listed} == {hostile, "sea"}
    assert all((folder / one["file"]).is_file() for one in listed)
    publish_prompts(folder, PromptsPage("mine", None, "1 video", "5 frames", rows[:1], file_names(rows), {}), samples)
    assert len(list((folder / "videos").iterdir())) == 1
    assert len(list((samples / "videos").iterdir())) == 8


def test_weights_of_one_name_in_two_folders_have_pages_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a page of an earlier version, which has the path as typed only."""
    monkeypatch.chdir(tmp_path)
    assert weights_of_page(Path("results/by-hand/prompts/lora-sea")) is None
    for made_of in (
        {"model": "a/lora.safetensors", "weights": str(tmp_path / "a/lora.safetensors")},
        {"model": "a/lora.safetensors"},
    ):
        (tmp_path / "prompts.json").write_text(json.dumps(made_of))
        assert weights_of_page(tmp_path) == str(tmp_path / "a/lora.safetensors")
    (tmp_path / "prompts.json").write_text("[]")
    assert weights_of_page(tmp_path) is None

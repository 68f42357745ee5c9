"""`cogtune new` as typed: what it needs, refuses, writes and says."""

import shutil
from pathlib import Path

import pytest
import yaml

from cogtune.__main__ import main
from cogtune.commands import new, new_questions
from tests.unit.data.footage import write_video

REPO = Path(__file__).parents[3]
CLIPS = "my clips, ü"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory like a fresh clone, with three clips of the user."""
    shutil.copytree(REPO / "config", tmp_path / "config")
    (tmp_path / CLIPS).mkdir()
    for number in range(3):
        write_video(tmp_path / CLIPS / f"clip {number}.mp4", 60 + number, fps=8)
        (tmp_path / CLIPS / f"clip {number}.txt").write_text(f"a caption {number}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(clone: Path) -> dict[str, dict[str, object]]:
    return yaml.safe_load((clone / "config/config.yaml").read_text())["experiments"]


def made(*words: str) -> int:
    return main(["new", "mine", "--yes", *words])


def test_from_a_folder_to_a_plan(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (clone / "config/config.yaml").read_text()
    assert made("--data", CLIPS, "--model", "cogvideox-5b", "--lora", "--device", "4090") == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        "  mine:  # cogtune new mine --data 'my clips, ü' --model cogvideox-5b --device 4090 --lora\n"
    )
    assert "3 clips of 7.5 to 7.8 s, captions: a .txt beside each clip" in err
    assert "`cogtune weights get cogvideox-5b` downloads them" in err
    assert "`cogtune plan mine --device 4090`" in err
    text = (clone / "config/config.yaml").read_text()
    assert text == before + out
    assert list(read(clone)) == ["demo", "demo_lora", "mine"]
    assert main(["plan", "mine", "--device", "4090"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert not (clone / "data").exists(), "the demo's clips are not needed"
    assert "latents stale 3 clips" in told
    assert "does not fit" not in told
    assert "estimated for 1 x RTX 4090" in told
    assert "cogtune weights get cogvideox-5b" in told


def test_dry_run_shows_what_is_written(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", CLIPS, "--model", "cogvideox-2b", "--device", "24GB", "--steps", "7"]
    before = (clone / "config/config.yaml").read_bytes()
    assert made(*words, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert (clone / "config/config.yaml").read_bytes() == before
    assert made(*words) == 0
    assert capsys.readouterr().out == shown
    assert "args.train_iters=7" in shown


def test_a_list_of_captions(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"clip {number}.mp4,one of {number}\n" for number in range(3))
    (clone / CLIPS / "metadata.csv").write_text("file_name,text\n" + rows)
    for path in (clone / CLIPS).glob("*.txt"):
        path.unlink()
    assert made("--data", f"{CLIPS}/metadata.csv", "--model", "toy") == 0
    assert "captions: metadata.csv" in capsys.readouterr().err
    assert read(clone)["mine"]["set"][0] == f'args.train_data=["{CLIPS}"]'  # pyright: ignore


def test_validation_clips(clone: Path) -> None:
    for part in ("train", "valid"):
        shutil.copytree(clone / CLIPS, clone / "both" / part)
    assert made("--data", "both", "--model", "toy") == 0
    assert {"args.train_data=[both/train]", "args.valid_data=[both/valid]"} <= set(read(clone)["mine"]["set"])  # pyright: ignore


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "toy"], 1, "needed, and not given: --data FOLDER"),
        (["--data", CLIPS], 1, "--model cogvideox-2b|"),
        (["--data", CLIPS, "--model", "cogvideox-5b"], 1, "--device NAME, because no GPU was found here"),
        (["--data", "my", "--model", "toy"], 1, "'my': no such folder; put a name with spaces in quotes"),
        (["--data", "nowhere", "--model", "toy"], 1, "'nowhere': no such folder"),
        (["--data", f"{CLIPS}/clip 1.mp4", "--model", "toy"], 1, "is a video; give the folder"),
        (
            ["--data", "config/config.yaml", "--model", "toy"],
            1,
            "this list is not read; expected a folder, or metadata.csv",
        ),
        (["--data", "config", "--model", "toy"], 1, "no usable clip. A clip needs a caption"),
        (["--data", CLIPS, "--model", "tooy"], 1, "unknown model; did you mean 'toy'?"),
        (["--data", CLIPS, "--model", "cogvideox-5b", "--device", "Voodoo2"], 1, "unknown GPU"),
        (["--data", CLIPS, "--model", "toy", "--frames", "10"], 2, "10 is not 4k + 1"),
        (["--data", CLIPS, "--model", "toy", "--", "args.seed=1"], 1, "new takes no config values"),
    ],
)
def test_refusals(
    clone: Path,
    words: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(new, "gpu_count", lambda: 0)
    before = (clone / "config/config.yaml").read_bytes()
    assert made(*words) == code
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("cogtune: ") == 1
    assert out == ""
    assert (clone / "config/config.yaml").read_bytes() == before


def test_without_captions_or_all_too_short(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clone / CLIPS / "clip 0.txt").unlink()
    assert made("--data", CLIPS, "--model", "toy", "--dry-run") == 0
    assert "not used: clip 0.mp4: no caption" in capsys.readouterr().err
    for path in (clone / CLIPS).glob("*.txt"):
        path.unlink()
    assert made("--data", CLIPS, "--model", "toy") == 1
    assert "3 files, e.g. clip 0.mp4: no caption" in capsys.readouterr().err


def test_a_name_that_exists(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "demo", "--yes", "--data", CLIPS, "--model", "toy"]) == 2
    assert "has an experiment 'demo'; choose another name" in capsys.readouterr().err


def test_without_a_terminal_it_asks_for_yes(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--data", CLIPS, "--model", "toy"]) == 1
    assert "no terminal to ask questions on; add --yes" in capsys.readouterr().err


@pytest.mark.parametrize("agreed", [True, False])
def test_questions_on_a_terminal(clone: Path, monkeypatch: pytest.MonkeyPatch, agreed: bool) -> None:
    """Only for what is unknown; a wrong folder or GPU is asked for again."""
    answers = iter(["nowhere", CLIPS, "cogvideox-2b", "Voodoo2", "A5000"])
    monkeypatch.setattr("rich.prompt.Prompt.ask", lambda *_, **__: next(answers))
    monkeypatch.setattr("rich.prompt.Confirm.ask", lambda *_, **__: agreed)
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    monkeypatch.setattr(new, "gpu_count", lambda: 0)
    before = (clone / "config/config.yaml").read_bytes()
    assert main(["new", "mine"]) == 0
    assert next(answers, None) is None
    assert ("mine" in read(clone)) == agreed
    assert ((clone / "config/config.yaml").read_bytes() == before) != agreed


def test_a_closed_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> str:
        raise EOFError

    monkeypatch.setattr("rich.prompt.Prompt.ask", closed)
    with pytest.raises(Exception, match="the terminal was closed"):
        new_questions.ask(new_questions.Answers("", "toy", ""), False)

"""What a job prints reaches the terminal and its log; a bar reaches the terminal alone."""

import io
import re
import sys
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.runtime import progress as module
from cogtune.runtime.log import last_lines, tee_to
from cogtune.runtime.progress import Progress, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_everything_goes_to_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tee_to(tmp_path / "logs/job.log"):
        print("to out")
        print("to err", file=sys.stderr)
    print("outside")
    captured = capsys.readouterr()
    assert captured.out == "to out\noutside\n"
    assert captured.err == "to err\n"
    assert last_lines(tmp_path / "logs/job.log", 2) == ["to out", "to err"]


def test_a_second_run_appends(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with tee_to(tmp_path / "job.log"):
            print(text)
    lines = last_lines(tmp_path / "job.log", 10)
    assert [line for line in lines if not line.startswith("---")] == ["first", "second"]


@pytest.mark.parametrize(
    ("error", "end", "traced"),
    [(ValueError("boom"), "ValueError: boom", True), (UserError("no such thing"), "no such thing", False)],
)
def test_an_error_is_in_the_log(tmp_path: Path, error: Exception, end: str, traced: bool) -> None:
    with pytest.raises(type(error)), tee_to(tmp_path / "job.log"):
        raise error
    lines = last_lines(tmp_path / "job.log", 30)
    assert lines[-1] == end
    assert any("Traceback" in line for line in lines) == traced


def test_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert last_lines(path, 3) == []
    path.write_text("".join(f"line {i}\n" for i in range(50_000)))
    assert last_lines(path, 2) == ["line 49998", "line 49999"]
    assert last_lines(path, 0) == []


def test_plain_lines_come_rarely_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lines: list[str] = []
    bar = Progress(40, "latents", "clips", lines.append)
    for _ in range(40):
        now[0] += 0.5
        bar.advance()
    bar.close()
    bar.close()
    assert lines == [
        "[latents] 10/40 clips (25 %), 2.00 clips/s, 0:00:15 left",
        "[latents] 20/40 clips (50 %), 2.00 clips/s, 0:00:10 left",
        "[latents] 30/40 clips (75 %), 2.00 clips/s, 0:00:05 left",
        "[latents] 40/40 clips (100 %), 2.00 clips/s, took 0:00:20",
    ]


def test_slow_rates_read_as_seconds_each(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    bar = Progress(10, "train", "steps", lambda line: None)
    now[0] = 40.0
    bar.advance(2)
    assert "20.0 s per step, 0:02:40 left" in bar.line()


@pytest.mark.parametrize("plain", [True, False])
def test_nothing_to_do_says_nothing(plain: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(0, "latents", plain=plain):
        pass
    assert capsys.readouterr().err == ""


def test_a_bar_on_the_terminal_and_lines_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with tee_to(tmp_path / "job.log"), progress(3, "text", "captions") as bar:
        bar.advance(3)
    log = (tmp_path / "job.log").read_text()
    assert re.search(r"3/3", terminal.getvalue())
    assert "\x1b" not in log
    assert last_lines(tmp_path / "job.log", 1)[0].startswith("[text] 3/3 captions (100 %)")


def test_plain_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(2, "text", "captions", plain=True) as bar:
        bar.advance(2)
    assert terminal.getvalue().count("\n") == 1
    assert "\x1b" not in terminal.getvalue()

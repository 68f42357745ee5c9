"""A job's messages reach the terminal and its log; a bar reaches the terminal alone."""

import io
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.runtime import progress as module
from cogtune.runtime.log import last_lines, log_of_all_starts, log_to_file, log_to_terminal
from cogtune.runtime.progress import Progress, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal_log() -> Iterator[None]:
    """Messages reach the terminal, as they do in a command."""
    log_to_terminal()
    yield
    logging.captureWarnings(False)


def messages(path: Path) -> list[str]:
    """The lines of a log without their times."""
    return [re.sub(r"^[\d-]+ [\d:]+ ", "", line) for line in path.read_text().splitlines()]


def test_a_message_goes_to_terminal_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("cogtune.somewhere")
    with log_to_file(tmp_path / "logs/job.log"):
        logger.info("begun")
        logger.warning("odd")
        logging.getLogger("py.warnings").warning("a library says so")
    logger.info("outside")
    shown = capsys.readouterr().err
    assert shown.splitlines()[:2] == ["begun", "warning: odd"]
    assert "a library says so" in shown
    assert shown.endswith("outside\n")
    assert messages(tmp_path / "logs/job.log")[:2] == ["begun", "warning: odd"]
    assert "a library says so" in (tmp_path / "logs/job.log").read_text()
    assert "outside" not in (tmp_path / "logs/job.log").read_text()


def test_a_second_run_appends(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with log_to_file(tmp_path / "job.log"):
            logging.getLogger("cogtune.somewhere").info(text)
    assert messages(tmp_path / "job.log") == ["first", "second"]


def test_a_terminal_is_added_once(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_terminal()
    logging.getLogger("cogtune.somewhere").info("once")
    assert capsys.readouterr().err == "once\n"


def test_a_training_rank_writes_times(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log_to_terminal(times=True)
    logging.getLogger("cogtune.somewhere").warning("odd")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d warning: odd\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("error", "end", "traced"),
    [(ValueError("boom"), "ValueError: boom", True), (UserError("no such thing"), "no such thing", False)],
)
def test_an_error_is_in_the_log(tmp_path: Path, error: Exception, end: str, traced: bool) -> None:
    with pytest.raises(type(error)), log_to_file(tmp_path / "job.log"):
        raise error
    lines = messages(tmp_path / "job.log")
    assert lines[-1] == end
    assert any("Traceback" in line for line in lines) == traced


def test_a_full_disk_costs_the_log_and_not_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "job.log").symlink_to(full)
    with log_to_file(tmp_path / "job.log"):
        logging.getLogger("cogtune.somewhere").info("first")
        logging.getLogger("cogtune.somewhere").info("second")
    first, warning, second = capsys.readouterr().err.splitlines()
    assert (first, second) == ("first", "second")
    assert "job.log: stopped writing this log" in warning


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
    with log_to_file(tmp_path / "job.log"), progress(3, "text", "captions") as bar:
        bar.advance(3)
    log = (tmp_path / "job.log").read_text()
    assert re.search(r"3/3", terminal.getvalue())
    assert "\x1b" not in log
    assert messages(tmp_path / "job.log")[-1].startswith("[text] 3/3 captions (100 %)")


def test_plain_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(2, "text", "captions", plain=True) as bar:
        bar.advance(2)
    assert terminal.getvalue().count("\n") == 1
    assert "\x1b" not in terminal.getvalue()


def test_a_log_that_snakemake_deletes_keeps_all_starts(tmp_path: Path) -> None:
    """Also while the first start still writes: it and the second write to one file."""
    log = tmp_path / "logs/train-1.log"
    first = log_of_all_starts(log)
    with first.open("a") as still_open:
        still_open.write("first\n")
        still_open.flush()
        log.unlink()
        second = log_of_all_starts(log)
        with second.open("a") as stream:
            stream.write("second\n")
        still_open.write("first again\n")
    assert log.read_text() == "first\nsecond\nfirst again\n"
    assert log_of_all_starts(log).samefile(log)


def test_a_log_that_is_a_file_is_kept(tmp_path: Path) -> None:
    """From an earlier version, or from a start that could make no link because the disk was full."""
    log = tmp_path / "train-1.log"
    log.write_text("before\n")
    with log_of_all_starts(log).open("a") as stream:
        stream.write("now\n")
    assert log.is_symlink()
    assert log.read_text() == "before\nnow\n"


def test_without_links_the_log_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert log_of_all_starts(tmp_path / "train-1.log") == tmp_path / "train-1.log"

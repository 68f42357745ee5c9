"""Logging: each module has a logger; handlers on the root logger write to the terminal and to a job's log."""

import io
import logging
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from cogtune.errors import UserError

FILE_ONLY = {"file_only": True}
"""``extra`` of a message that the terminal shows in a different form."""

STARTS = "starts"
"""Folder of the logs of all starts, beside the logs that Snakemake knows."""
_TAIL_BYTES = 1 << 16
_WITH_TIME = ("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
_log = logging.getLogger(__name__)


class _Formatter(logging.Formatter):
    """The message; warnings get a prefix."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        if record.levelno == logging.WARNING:
            record.message = f"warning: {record.message}"
        return super().formatMessage(record)


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`: a progress bar replaces it temporarily."""

    def __init__(self, times: bool) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_Formatter(*_WITH_TIME) if times else _Formatter())
        self.addFilter(lambda record: not hasattr(record, "file_only"))

    @property
    def stream(self) -> TextIO:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sys.stderr


class _FileHandler(logging.FileHandler):
    """If the log cannot be written (full disk), stops logging with one warning; the job continues."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        logging.getLogger().removeHandler(self)
        _log.warning("%s: stopped writing this log (%s)", self.baseFilename, sys.exc_info()[1])


def log_to_terminal(times: bool = False) -> None:
    """Show the messages of this process on stderr: of cogtune from INFO, of libraries from WARNING. For commands only;
    Python programs that use cogtune configure logging themselves.

    ``times``: with timestamps, for a process whose stderr is a job's log (a training rank).
    """
    root = logging.getLogger()
    if not any(isinstance(handler, TerminalHandler) for handler in root.handlers):
        root.addHandler(TerminalHandler(times))
    logging.getLogger("cogtune").setLevel(logging.INFO)
    logging.captureWarnings(True)


@contextmanager
def log_to_file(path: Path) -> Generator[None, None, None]:
    """Inside the block, append messages and Python warnings to ``path``, with timestamps, flushed per line.

    An error that leaves the block is logged too, with traceback unless it is a UserError. Output of child processes
    and prints of plugins are not logged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Formatter(*_WITH_TIME))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.getLogger("cogtune").setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    except UserError as error:
        _log.error("%s", error, extra=FILE_ONLY)
        raise
    except BaseException as error:
        expected = isinstance(error, KeyboardInterrupt | SystemExit)
        _log.error("%s: %s", type(error).__name__, error, exc_info=not expected, extra=FILE_ONLY)
        raise
    finally:
        root.removeHandler(handler)
        with suppress(OSError):  # after a full disk, data is still in the buffer
            handler.close()


def log_of_all_starts(path: Path) -> Path:
    """The file for the log of a job that a scheduler starts, perhaps several times: ``starts/<name>`` beside ``path``, which
    becomes a link to it. Snakemake deletes a rule's log whenever the job starts, also while an earlier start still writes
    it: so it deletes the link only. A file at ``path`` is moved there. Returns ``path`` itself if that is not possible, for
    example on a file system without links.
    """
    kept = path.parent / STARTS / path.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        if path.is_file() and not path.is_symlink() and not kept.exists():
            path.rename(kept)
        path.symlink_to(Path(STARTS, path.name))
    return kept if path.is_symlink() else path


def last_lines(path: Path, n: int) -> list[str]:
    """The last ``n`` lines of a text file (of its last 64 KiB), without line ends; empty if there is no such file."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, io.SEEK_END) - _TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-n:] if n > 0 else []


def append_note(path: Path, text: str) -> None:
    """Append one line with the time to a log that this process does not hold open."""
    with path.open("a") as stream:
        stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

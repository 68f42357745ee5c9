"""One log file per job: what goes to the terminal goes there too, at once, so that a kill loses no line."""

import io
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from cogtune.errors import UserError

_TAIL_BYTES = 1 << 16


class Tee(io.TextIOBase):
    """A text stream that passes everything to ``terminal`` and to ``log``.

    It is a terminal if ``terminal`` is; what is drawn there over and over (a bar) is written to ``terminal`` alone, and
    a plain account of it to ``log``.
    """

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self.terminal, self.log = terminal, log
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            self.terminal.write(text)
            self.log.write(text)
            if "\n" in text:
                self.flush()
        return len(text)

    def flush(self) -> None:
        with self._lock:
            self.terminal.flush()
            self.log.flush()

    def isatty(self) -> bool:
        return self.terminal.isatty()

    def fileno(self) -> int:
        return self.terminal.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.terminal.encoding


@contextmanager
def tee_to(path: Path) -> Iterator[None]:
    """Inside the block, everything that Python code prints, logs or warns also goes to the end of ``path``.

    An error that leaves the block is written there too, with its traceback unless the user is meant to read it. What
    child processes print does not pass through here: give them the file, or read their pipes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    out, err = sys.stdout, sys.stderr
    with path.open("a", encoding="utf-8") as log:
        log.write(f"--- {datetime.now().astimezone().isoformat(timespec='seconds')}\n")
        sys.stdout, sys.stderr = Tee(out, log), Tee(err, log)
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            log.write(f"{type(error).__name__}: {error}\n")
            raise
        except UserError as error:
            log.write(f"{error}\n")
            raise
        except BaseException:
            log.write(traceback.format_exc())
            raise
        finally:
            with suppress(ValueError):  # a terminal that was closed meanwhile
                sys.stdout.flush()
            sys.stdout, sys.stderr = out, err


def last_lines(path: Path, n: int) -> list[str]:
    """The last ``n`` lines of a text file (of its last 64 KiB), without line ends; none if there is no such file."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, io.SEEK_END) - _TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-n:] if n > 0 else []

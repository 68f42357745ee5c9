"""The end of a workflow that was stopped on request: one sentence, in place of Snakemake's messages about failed jobs.

Snakemake takes every exit code but 0 for an error, and prints the exception, the job, the shell command and the paths of
its logs after the job has said where it stopped. Its own log file keeps all of that.
"""

import logging
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TextIO

from cogtune.runtime.log import last_lines
from cogtune.runtime.stopping import RESUME

_STOPPED = re.compile(r"exit status (130|143)\b|died with <Signals\.SIG(INT|TERM): ")
"""A job ended by Ctrl-C or SIGTERM, in the message of a CalledProcessError."""
_REQUESTED = ("Terminating processes on user request", "Will exit after finishing currently running jobs")
_END = "At least one job did not complete successfully."
_DETAILS = (
    "Exiting because a job execution failed",
    "Shutting down, this might take some time",
    "Removing output files of failed job",
    "Complete log(s): ",
    "Elapsed time: ",
)


class StopSentence(logging.Filter):
    """For the handler that writes Snakemake's messages to the terminal. It hides those about stopped jobs, and writes the
    closing sentence to ``stream`` unless a stopped job has said it. If a job failed, Snakemake's messages stay."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._lock = Lock()
        self._requested = self._failed = self._explained = False
        self._errors: list[str] = []
        """Messages of the exceptions of stopped jobs, each with its shell command."""
        self._stages: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the terminal shows ``record``. Snakemake's threads may call it at the same time."""
        with self._lock:
            return self._shows(record, record.getMessage())

    def _shows(self, record: logging.LogRecord, text: str) -> bool:
        if text.startswith(_REQUESTED):
            self._requested = True
        elif "CalledProcessError" in text and _STOPPED.search(text):
            self._errors.append(text)
            return False
        elif (command := getattr(record, "shellcmd", None)) and record.levelno >= logging.ERROR:
            return self._shows_failed_job(record, str(command))
        if self._failed or not (self._requested or self._stages):
            return True
        if text.endswith(_END):
            self.say()
            return False
        return not text.startswith(_DETAILS)

    def _shows_failed_job(self, record: logging.LogRecord, command: str) -> bool:
        if not any(command.strip() in error for error in self._errors):
            self._failed = True
            return True
        self._stages.append(str(getattr(record, "rule_name", "a job")))
        self._explained |= _is_explained(getattr(record, "log", ()))
        return False

    def say(self) -> None:
        """The closing sentence, unless a job has said it in its last lines."""
        if self._explained:
            return
        place = f" in {', '.join(sorted(set(self._stages)))}" if self._stages else ""
        print(f"cogtune: stopped{place}; finished work is kept. {RESUME}", file=self._stream or sys.stderr)

    def excepthook(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        """Of `sys`: Ctrl-C while Snakemake reads the Snakefile, or a second one."""
        if issubclass(kind, KeyboardInterrupt):
            self.say()
        else:
            sys.__excepthook__(kind, error, traceback)


def _is_explained(logs: Iterable[str]) -> bool:
    return any(RESUME in line for path in logs for line in last_lines(Path(path), 10))

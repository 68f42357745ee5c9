"""The result of one check, and a safe way to ask a program of the system."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class Check:
    """One line of `cogtune doctor`. ``fix``: what to do; "" for OK."""

    topic: str
    name: str
    level: Level
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Answer:
    """What a program printed. ``code``: its exit code, None if it is not installed or did not end in time."""

    code: int | None
    output: str = ""
    errors: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def reason(self) -> str:
        """The last line of its error output."""
        lines = [line.strip() for line in (self.errors or self.output).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


def ask(command: Sequence[str], seconds: float = 15.0) -> Answer:
    """Run ``command`` for at most ``seconds``, with output in English."""
    try:
        done = subprocess.run(
            ["env", "LC_ALL=C", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, errors=f"{command[0]} did not answer within {seconds:.0f} s")
    return Answer(done.returncode, done.stdout, done.stderr)

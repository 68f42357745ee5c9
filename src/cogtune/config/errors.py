"""Errors of configs: exit code 2, no traceback."""

from collections.abc import Sequence
from dataclasses import dataclass

from cogtune.errors import UserError


@dataclass(frozen=True)
class Mark:
    """A position in a file; line and column count from 1. ``line`` 0: the command line, or a default."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    @property
    def origin(self) -> str:
        """``file:line``, or ``command line``, or ``default``."""
        return f"{self.file}:{self.line}" if self.line else self.file


class ConfigError(UserError):
    """One error in a config: ``file:line:column: key: message``."""

    exit_code = 2

    def __init__(self, message: str, *, key: str = "", mark: Mark | None = None) -> None:
        self.message, self.key, self.mark = message, key, mark
        super().__init__(": ".join(part for part in (str(mark or ""), key, message) if part))


class ConfigErrors(ConfigError):  # noqa: N818  it holds several errors
    """All errors of a config; ``errors`` are in file order."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        self.errors = list(errors)
        head = "" if len(self.errors) == 1 else f"{len(self.errors)} errors in the config:\n"
        super().__init__(head + "\n".join(map(str, self.errors)))

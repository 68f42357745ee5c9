"""Errors of configs: exit code 2, no traceback."""

from collections.abc import Sequence
from dataclasses import dataclass

from cogtune.errors import UserError


@dataclass(frozen=True)
class Mark:
    """Where in a file something stands; line and column count from 1. ``line`` 0: the command line, or a default."""

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
    """One thing that is wrong with a config: ``file:line:column: key: message``."""

    exit_code = 2

    def __init__(self, message: str, *, key: str = "", mark: Mark | None = None) -> None:
        self.message, self.key, self.mark = message, key, mark
        super().__init__(": ".join(part for part in (str(mark or ""), key, message) if part))


class ConfigErrors(ConfigError):  # noqa: N818  it is many
    """Everything that is wrong with a config; ``errors`` holds them in the order in which they stand in the files."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        self.errors = list(errors)
        head = "" if len(self.errors) == 1 else f"{len(self.errors)} errors in the config:\n"
        super().__init__(head + "\n".join(map(str, self.errors)))

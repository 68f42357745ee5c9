"""Writes that wait: who only looks (a dry run, a plan, the parse of a workflow) cuts the same work and leaves no file."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class DeferredWrites:
    """Runs each write at once, or, while ``held``, keeps it until `release`. A later write of the same path replaces an
    earlier one that waits."""

    held: bool = False
    _waiting: dict[Path, Callable[[], object]] = field(default_factory=dict[Path, Callable[[], object]])

    def do(self, path: Path, write: Callable[[], object]) -> None:
        """Call ``write``, which writes ``path``, now or when the writes are released."""
        if self.held:
            self._waiting[path] = write
        else:
            write()

    def release_only(self, paths: Collection[Path]) -> None:
        """Do the writes of these paths; the others wait on."""
        for path in [path for path in self._waiting if path in paths]:
            self._waiting.pop(path)()

    def release(self) -> None:
        """Do everything that waits; from now on writes happen at once. After an error the rest waits, for another try."""
        self.held = False
        while self._waiting:
            path = next(iter(self._waiting))
            self._waiting[path]()
            del self._waiting[path]

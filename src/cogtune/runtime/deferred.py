"""Deferred writes: a dry run, a plan or the parsing of a workflow creates the same slices, but writes no files."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class DeferredWrites:
    """Runs each write immediately, or, while ``held``, at `release`. A later write of the same path replaces a pending
    one."""

    held: bool = False
    _waiting: dict[Path, Callable[[], object]] = field(default_factory=dict[Path, Callable[[], object]])

    def do(self, path: Path, write: Callable[[], object]) -> None:
        """Call ``write``, which writes ``path``, now or at `release`."""
        if self.held:
            self._waiting[path] = write
        else:
            write()

    def release_only(self, paths: Collection[Path]) -> None:
        """Do the writes of these paths; the others wait on."""
        for path in [path for path in self._waiting if path in paths]:
            self._waiting.pop(path)()

    def release(self) -> None:
        """Run all pending writes; later writes run immediately. After an error the rest stays pending, for a retry."""
        self.held = False
        while self._waiting:
            path = next(iter(self._waiting))
            self._waiting[path]()
            del self._waiting[path]

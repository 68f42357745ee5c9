"""The log of the ranks: in the training's folder, where it is kept over all starts, and copied to the log of the job."""

from pathlib import Path

from cogtune.runtime.log import append_note

RANK_LOG = "ranks.log"


class RankLog:
    """``path``: every start appends to it. ``job_log``: gets a copy of what this start adds; None for no copy."""

    def __init__(self, path: Path, job_log: Path | None) -> None:
        self.path, self._job_log = path, job_log
        self._copied = path.stat().st_size if path.exists() else 0

    def note(self, text: str) -> None:
        """Add one line of this process."""
        append_note(self.path, text)

    def copy(self) -> None:
        """Copy what is new."""
        if self._job_log is None or not self.path.exists():
            return
        with self.path.open("rb") as source:
            source.seek(self._copied)
            if new := source.read():
                self._copied += len(new)
                with self._job_log.open("ab") as target:
                    target.write(new)

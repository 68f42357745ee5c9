"""What a training does by the clock: checkpoints every few minutes, and its end after some hours."""

import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Of the first rank, whose clock counts for all. ``max_hours``: of this start; ``save_minutes``: between checkpoints;
    None for no limit. ``started``: of this start, by `time.monotonic`."""

    max_hours: float | None = None
    save_minutes: float | None = None
    started: float = field(default_factory=time.monotonic)
    _saved: float | None = None

    def stop_due(self) -> bool:
        """Whether the time of this start is over."""
        return self.max_hours is not None and time.monotonic() - self.started >= 3600 * self.max_hours

    def why_stop(self) -> str:
        """For a message; "" on other ranks."""
        return "" if self.max_hours is None else f"args.max_hours: {self.max_hours:g} is over"

    def save_due(self) -> bool:
        """Whether it is time for a checkpoint, by the time of the last one, or of the first call."""
        if self._saved is None:
            self.saved()
        return self.save_minutes is not None and time.monotonic() - (self._saved or 0.0) >= 60 * self.save_minutes

    def saved(self) -> None:
        """A checkpoint was written now."""
        self._saved = time.monotonic()

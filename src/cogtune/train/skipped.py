"""Skipped steps: steps without an update because the loss or the gradient was not finite, and their limit.

As in SAT, a skipped step counts as a step (the learning rate advances), and the limit applies to all skipped steps, not
only to consecutive ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_LISTED = 5
"""Clips listed in a message."""


@dataclass(frozen=True)
class Skipped:
    """One step (from 1), the reason, and its clips: those whose loss was not finite, or all of the global batch if only
    the gradient was not finite."""

    step: int
    why: str
    clips: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self)


@dataclass
class Skips:
    """All skipped steps of a training. ``limit``: `args.max_skipped_steps`. ``names``: clip id -> its file."""

    limit: int
    names: Mapping[str, str] = field(default_factory=dict)
    steps: list[Skipped] = field(default_factory=list)

    def restore(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Restore the skipped steps from a checkpoint's record."""
        self.steps = [Skipped(row["step"], row["why"], list(row["clips"])) for row in saved]

    def describe(self, clips: Sequence[str]) -> str:
        """The names of ``clips`` for a message, the most frequent first, with their number of occurrences."""
        descriptions = []
        for clip, times in Counter(clips).most_common(MAX_LISTED):
            name = f"{self.names[clip]} ({clip[:12]})" if clip in self.names else clip[:12]
            descriptions.append(f"{name}, {times} times" if times > 1 else name)
        more = len(set(clips)) - MAX_LISTED
        return "; ".join(descriptions) + (f"; and {more} more" if more > 0 else "")

    def too_many(self, all_steps: int | None = None) -> str:
        """The error message if more than ``limit`` or all of ``all_steps`` steps were skipped; else ""."""
        count = len(self.steps)
        if count <= self.limit and count != all_steps:
            return ""
        last, clips = self.steps[-1], [clip for skipped in self.steps for clip in skipped.clips]
        reason = f"more than args.max_skipped_steps: {self.limit}" if count > self.limit else "which are all steps"
        return (
            f"{count} steps were skipped, {reason}; the last one is step {last.step}: {last.why}. Clips of these steps: "
            f"{self.describe(clips)}. Check the clips, and remove damaged ones from the data. If most steps fail, reduce the "
            "learning rate, clip the gradient (deepspeed.gradient_clipping), or train in bf16 or fp32. To continue without "
            "changes, raise args.max_skipped_steps; the checkpoint after this step is kept"
        )

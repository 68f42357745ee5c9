"""Steps that moved nothing, because the loss or the gradient was no number: what is kept of them, and when they are too many.

As SAT does it, such a step counts as a step (the rate moves on), and all of them are counted, not those in a row.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN = 5
"""Clips that a message names."""


@dataclass(frozen=True)
class Skipped:
    """One step (from 1), what was wrong, and the clips that it was seen with: those whose loss was no number, or all of
    the global batch where only the gradient was."""

    step: int
    why: str
    clips: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass
class Skips:
    """All skipped steps of a training. ``most``: `args.max_skipped_steps`. ``names``: clip id -> its file."""

    most: int
    names: Mapping[str, str] = field(default_factory=dict)
    steps: list[Skipped] = field(default_factory=list)

    def restore(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Take over what a checkpoint's record says."""
        self.steps = [Skipped(one["step"], one["why"], list(one["clips"])) for one in saved]

    def called(self, clips: Sequence[str]) -> str:
        """Clips as a message names them, each with the number of times that it is in ``clips``."""
        words = []
        for clip, times in Counter(clips).most_common(SHOWN):
            name = f"{self.names[clip]} ({clip[:12]})" if clip in self.names else clip[:12]
            words.append(f"{name}, {times} times" if times > 1 else name)
        more = len(set(clips)) - SHOWN
        return "; ".join(words) + (f"; and {more} more" if more > 0 else "")

    def too_many(self, all_steps: int | None = None) -> str:
        """What to say, with the clips, if there are more than ``most``, or if all of ``all_steps`` were skipped; else ""."""
        count = len(self.steps)
        if count <= self.most and count != all_steps:
            return ""
        last, seen = self.steps[-1], [clip for one in self.steps for clip in one.clips]
        said = f"more than args.max_skipped_steps: {self.most}" if count > self.most else "which are all of them"
        return (
            f"{count} steps were skipped, {said}; the last one is step {last.step}: {last.why}. They had these clips: "
            f"{self.called(seen)}. Look at the clips, and take damaged ones out of the data. If most steps fail, lower the "
            "learning rate, clip the gradient (deepspeed.gradient_clipping), or train in bf16 or fp32. To go on as it is, "
            "raise args.max_skipped_steps; the checkpoint after this step is kept"
        )

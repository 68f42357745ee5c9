"""The number of frames of a clip: as many as the model was trained on, fewer if most clips are shorter."""

from dataclasses import dataclass

from cogtune.config.geometry import FRAMES_PER_LATENT
from cogtune.errors import UserError
from cogtune.setup.clips import Data

_KEPT = 0.9
"""Share of the clips that must be long enough for the chosen number of frames."""
_LEAST = 9
"""Frames; 3 latent frames. Shorter clips hardly move."""


@dataclass(frozen=True)
class Length:
    """``frames`` at ``fps``, and how many of ``total`` clips are long enough (``kept``)."""

    frames: int
    fps: float
    kept: int
    total: int

    def __str__(self) -> str:
        return f"{self.frames} frames at {self.fps:g} fps ({(self.frames - 1) / self.fps:.1f} s): {self.kept} of {self.total} clips"


def lengths(data: Data, most: int, fps: float, skip: int) -> list[Length]:
    """What each number of frames up to ``most`` keeps, longest first; one for each change of the number of clips."""
    choices = list[Length]()
    for frames in range(most, 0, -FRAMES_PER_LATENT):
        length = Length(frames, fps, data.usable(frames, fps, skip), len(data.rows))
        if length.kept and (not choices or length.kept > choices[-1].kept):
            choices.append(length)
    return choices


def choose_length(choices: list[Length], least: int = _LEAST) -> Length:
    """The longest one that keeps nine tenths of the clips, or else the one that keeps most. Raises UserError if even
    ``least`` frames are too many for all clips."""
    allowed = [length for length in choices if length.frames >= least]
    if not allowed:
        total = choices[0].total if choices else 0
        known = f"; {choices[0]}" if choices else ""
        raise UserError(
            f"the {total or 'found'} clips are too short: {least} frames are the least{known}. Use longer clips"
        )
    enough = [length for length in allowed if length.kept >= _KEPT * length.total]
    return enough[0] if enough else max(allowed, key=lambda length: length.kept)


def longer_and_shorter(choices: list[Length], chosen: Length) -> list[str]:
    """What the longest possible choice would mean, the next longer and the next shorter one."""
    longer = [length for length in choices if length.frames > chosen.frames and length.kept < chosen.kept]
    shorter = [length for length in choices if length.frames < chosen.frames and length.kept > chosen.kept]
    return list(dict.fromkeys(map(str, [*longer[:1], *longer[-1:], *shorter[:1]])))

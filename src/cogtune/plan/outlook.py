"""What preprocess will do with the clips of a scan, as far as their frames, rates and sizes tell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cogtune.data.frames import fit, is_usable
from cogtune.data.listing import ClipRow
from cogtune.work.inputs import PreprocessInput

_ENLARGED, _CROPPED = 1.05, 0.05
"""Below this factor, and this share of a side, nobody sees a difference."""


@dataclass(frozen=True)
class Outlook:
    """``unusable``: clips that preprocess will reject. ``notes``: what happens to the others, one line each. ``warnings``: set
    if no clip is left."""

    unusable: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])


def outlook_of(rows: Sequence[ClipRow], settings: PreprocessInput) -> Outlook:
    """The outlook for the clips of a manifest; each clip counts once."""
    clips = list({row.clip: row for row in rows}.values())
    short = [row for row in clips if not _is_usable(row, settings)]
    texts = [text for text in (_too_short(short, len(clips), settings), _resized(clips, settings)) if text]
    unusable = frozenset(row.clip for row in short)
    return Outlook(unusable, [], texts[:1]) if short and len(short) == len(clips) else Outlook(unusable, texts)


def _is_usable(row: ClipRow, settings: PreprocessInput) -> bool:
    return is_usable(
        row.frames,
        row.fps,
        settings.fps,
        settings.max_num_frames,
        settings.skip_frms_num,
        settings.frame_selection,
    )


def _too_short(short: Sequence[ClipRow], total: int, settings: PreprocessInput) -> str:
    if not short:
        return ""
    needed = (settings.max_num_frames - 1) / settings.fps
    least = min(short, key=lambda row: row.frames / row.fps)
    count = "no clip can be used" if len(short) == total else f"{len(short):,} of {total:,} clips cannot be used"
    return (
        f"{count}: {settings.max_num_frames} frames at {settings.fps:g} fps need {needed:.2f} s, without "
        f"{settings.skip_frms_num:g} frames at either end; the shortest, {least.name}, has {least.frames / least.fps:.2f} s. "
        f"A smaller data.params.max_num_frames (4k + 1) uses shorter clips"
    )


def _resized(clips: Sequence[ClipRow], settings: PreprocessInput) -> str:
    """How many clips are enlarged or lose a part of their picture, and the largest of each."""
    height, width = settings.video_size
    parts = list[str]()
    scale, cut = (
        _extreme(clips, measure) for measure in (lambda row: _scale(row, settings), lambda row: _cut(row, settings))
    )
    enlarged = [row for row in clips if _scale(row, settings) > _ENLARGED]
    cropped = [row for row in clips if _cut(row, settings) > _CROPPED]
    if enlarged:
        parts.append(f"{_clips(enlarged)} enlarged, up to {scale[0]:.1f} times ({_size(scale[1])})")
    if cropped:
        side = "width" if cut[1].width * height > width * cut[1].height else "height"
        parts.append(f"{_clips(cropped)} cropped, by up to {cut[0]:.0%} of their {side} ({_size(cut[1])})")
    return f"to {width}x{height} pixels: {', '.join(parts)}" if parts else ""


def _extreme(clips: Sequence[ClipRow], measure: Callable[[ClipRow], float]) -> tuple[float, ClipRow]:
    return max(((measure(row), row) for row in clips), key=lambda pair: pair[0])


def _scale(row: ClipRow, settings: PreprocessInput) -> float:
    """Factor by which a side grows."""
    return fit((row.height, row.width), settings.video_size).resize[0] / row.height


def _cut(row: ClipRow, settings: PreprocessInput) -> float:
    """Share of the width or height that the crop removes."""
    height, width = settings.video_size
    resized = fit((row.height, row.width), settings.video_size).resize
    return max(1 - height / resized[0], 1 - width / resized[1])


def _clips(rows: Sequence[ClipRow]) -> str:
    return "1 clip is" if len(rows) == 1 else f"{len(rows):,} clips are"


def _size(row: ClipRow) -> str:
    return f"{row.name}, {row.width}x{row.height}"

"""Which frames of a video make up a clip, and how they are resized and cropped. Arithmetic only: no torch, no decoder, so
that a plan can tell from the list of a scan which clips will be used."""

import bisect
import itertools
from collections.abc import Sequence

from cogtune.data.rows import Fit, FramePlan
from cogtune.data.video import VideoError


def plan_frames(
    times: Sequence[float], fps: float, target_fps: float, frames: int, skip: float, selection: str = "timestamp"
) -> FramePlan:
    """Select ``frames`` frames at ``target_fps`` from a video whose frames are shown at ``times`` (seconds, ascending).

    ``fps``: the video's average rate. ``skip``: source frames to skip at either end. ``selection``: "timestamp", or
    "stride" for upstream's arithmetic. Raises VideoError if the video is too short or too slow.
    """
    if selection == "stride":
        selected = _stride(len(times), fps, target_fps, frames, skip)
    else:
        selected = _by_timestamp(times, target_fps, frames, int(skip))
    padded = frames - len(selected)
    span = times[selected[-1]] - times[selected[0]]
    indices = selected + selected[-1:] * padded
    return FramePlan(
        indices=indices,
        timestamps=[round(times[index], 6) for index in indices],
        effective_fps=round((len(selected) - 1) / span, 4) if span > 0 else float(target_fps),
        repeated=sum(a == b for a, b in itertools.pairwise(selected)),
        padded=padded,
    )


def _by_timestamp(times: Sequence[float], target_fps: float, frames: int, skip: int) -> list[int]:
    """The frames shown nearest to 0, 1/fps, 2/fps, … after the first usable one.

    A video that is too short is refused, not padded, because a model would learn to freeze from repeated last frames.
    Frames before time zero are not used: players hide them because of an edit list.
    """
    first_usable = max(bisect.bisect_left(times, -1e-3), skip)
    last = len(times) - 1 - skip
    if last < first_usable:
        raise VideoError(f"too short: {len(times)} frames, of which {skip} are skipped at either end")
    usable = times[first_usable : last + 1]
    needed, span = (frames - 1) / target_fps, usable[-1] - usable[0]
    if _is_too_short(span, len(usable), needed):
        raise VideoError(
            f"too short: {frames} frames at {target_fps:g} fps need {needed:.2f} s, {span:.2f} s are "
            f"usable; lower max_num_frames or skip_frms_num, or set frame_selection: stride for upstream's padding"
        )
    return [first_usable + _nearest(usable, usable[0] + step / target_fps) for step in range(frames)]


def _is_too_short(span: float, count: int, needed: float) -> bool:
    """Whether ``count`` frames over ``span`` seconds are too few. Tolerance of half a source frame: a video cut to exactly
    the required length must pass despite rounded time stamps."""
    return span + 0.5 * span / max(1, count - 1) + 1e-6 < needed


def is_usable(
    count: int, fps: float, target_fps: float, frames: int, skip: float, selection: str = "timestamp"
) -> bool:
    """Whether `plan_frames` accepts a video of ``count`` frames at a constant rate ``fps``. Of a video with another rate in
    some places only preprocess knows."""
    if selection == "stride":
        try:
            return bool(_stride(count, fps, target_fps, frames, skip))
        except VideoError:
            return False
    inside = count - 2 * int(skip)
    return inside > 0 and not _is_too_short((inside - 1) / fps, inside, (frames - 1) / target_fps)


def _nearest(times: Sequence[float], seconds: float) -> int:
    """Index of the time nearest to ``seconds``; the earlier one of two that are equally near (within a microsecond)."""
    after = min(bisect.bisect_left(times, seconds), len(times) - 1)
    before = max(after - 1, 0)
    return before if seconds - times[before] <= times[after] - seconds + 1e-6 else after


def _stride(count: int, fps: float, target_fps: float, frames: int, skip: float) -> list[int]:
    """The selection of data_video.SFTDataset, at most ``frames`` indices.

    The step is an integer number of source frames, so 30 fps with a target of 8 becomes 10. From a video that is too
    short for the target rate, frames are selected at equal distances; from one with fewer frames than the clip, the
    largest 4k + 1 of them. Where upstream crashes, a source slower than the target is refused, and indices past the end
    are dropped.
    """
    start = int(skip)
    if count / fps * target_fps > frames:
        end = int(start + frames / target_fps * fps)
        step = (end - start) // frames
        if step == 0:
            raise VideoError(
                f"{fps:g} fps is less than data.params.fps ({target_fps:g}), which frame_selection: stride does not support "
                f"(upstream divides by zero); use frame_selection: timestamp, which repeats frames"
            )
        selected = range(start, min(end, count), step)
    elif count > frames:
        end = int(count - skip)
        selected = range(start, end, max((end - start) // frames, 1))
    else:
        usable = count - 2 * start
        selected = range(start, start + (usable - 3 if usable % 4 == 0 else usable - usable % 4 + 1))
    if not selected:
        raise VideoError(f"too short: {count} frames, of which {start} are skipped at either end")
    return list(selected[:frames])


def fit(source_size: Sequence[int], clip_size: Sequence[int]) -> Fit:
    """The resize and crop of a source (height, width) to ``clip_size`` (height, width): one side fits, the other is
    cropped."""
    (height, width), (tall, wide) = source_size, clip_size
    wider = width * tall > wide * height
    resize = [tall, width * tall // height] if wider else [height * wide // width, wide]
    return Fit(resize, [(resize[0] - tall) // 2, (resize[1] - wide) // 2])

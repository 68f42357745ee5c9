"""Holds the frames that cogtune uses of a stream against those that ffmpeg shows at the asked times.

    python -m tests.frames.compare [NAME …]

prints the table of the whole corpus: stream, reader, right or rejected with the reason.
"""

import re
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cogtune.data.clips import ClipSettings, describe_clip, load_clip
from cogtune.data.decoder import Decoder
from cogtune.data.rows import FramePlan
from cogtune.data.video import VideoError
from tests.frames.corpus import SIZE, Corpus, Truth, decode
from tests.frames.upstream import upstream_window

ALL_SETTINGS = [
    ClipSettings(list(SIZE), fps, frames, skip, selection)
    for fps, frames, skip, selection in (
        (8.0, 49, 3.0, "timestamp"),
        (16.0, 81, 3.0, "timestamp"),
        (8.0, 49, 3.0, "stride"),
        (8.0, 17, 0.0, "timestamp"),
        (4.0, 17, 0.0, "timestamp"),
    )
]
LIKE_DB = 30.0
"""Two decoders and converters of one frame are closer than this; 10-bit chroma is what comes nearest to it."""
_LIKE = 255**2 / 10 ** (LIKE_DB / 10)
_REORDERED = 0.5
"""Seconds: frames later than the last used one by more than this cannot be what it is predicted from."""
_TICK = 2e-3
"""Containers round time stamps to a millisecond; two frames that are equally near within this are both right."""


@dataclass(frozen=True)
class Outcome:
    """``wrong``: what is wrong with the frames, empty when all are right; ``rejected``: the reason, None if used."""

    wrong: str = ""
    rejected: str | None = None
    reader: str = ""
    worst_db: float = float("inf")


def check(path: Path, truth: Truth, settings: ClipSettings, decoder: Decoder) -> Outcome:
    """What `describe_clip` and `load_clip` make of ``path``, against ``truth``."""
    settings = replace(settings, video_size=list(truth.frames.shape[1:3]))  # what is resized is not so distinct
    try:
        row, pixels = describe_clip(path, settings, decoder)
    except VideoError as error:
        if re.search("too short|does not support", str(error)) and asked_moments(truth, settings, truth.fps) is None:
            return Outcome()
        return Outcome(rejected=str(error))
    moments = asked_moments(truth, settings, row.source.fps)
    if moments is None:
        return Outcome(wrong="used, although ffmpeg shows too few frames")
    loaded = load_clip(path, row, settings.video_size, decoder)
    reader = row.reader
    wrong, worst = compare(truth, moments, row, pixels, settings)
    if not wrong and not torch.equal(loaded, pixels):
        wrong = f"load_clip differs from describe_clip in {(loaded != pixels).flatten(1).any(1).sum()} frames"
    return Outcome(wrong, None, reader, worst)


def check_probe(path: Path, truth: Truth, decoder: Decoder) -> Outcome:
    """What scan sees of ``path``."""
    try:
        found = decoder.probe(path)
    except VideoError as error:
        return Outcome(rejected=str(error))
    if (found.height, found.width) != truth.frames.shape[1:3]:
        return Outcome(
            wrong=f"{found.width}x{found.height}, ffmpeg shows {truth.frames.shape[2]}x{truth.frames.shape[1]}"
        )
    steps = np.diff(truth.times)
    steady = len(steps) > 0 and steps.max() < 1.1 * steps.min()  # else containers declare the rate of most frames
    if steady and abs(found.fps / truth.fps - 1) > 0.01:
        return Outcome(wrong=f"{found.fps} fps, ffmpeg shows {truth.fps:.3f}")
    return Outcome()


def compare(
    truth: Truth, moments: np.ndarray, plan: FramePlan, pixels: torch.Tensor, settings: ClipSettings
) -> tuple[str, float]:
    """What is wrong with ``pixels`` (F, 3, H, W), not resized, asked for at ``moments`` (F), and the lowest PSNR to the right frame."""
    shown = torch.from_numpy(truth.frames.copy()).permute(0, 3, 1, 2)
    distance = np.abs(truth.times[None] - moments[:, None])
    right = distance <= distance.min(axis=1, keepdims=True) + _TICK
    squares = mean_squares(pixels[:, :, ::2, ::2], shown[:, :, ::2, ::2])
    best = np.where(right, squares, np.inf).argmin(axis=1)  # of frames that are alike, the one of the right time
    nearest = np.where(squares.min(axis=1) < squares[np.arange(len(best)), best] - 0.1, squares.argmin(axis=1), best)
    errors = (pixels.float() - shown[nearest].float()).square().mean(dim=(1, 2, 3)).numpy()
    off = np.flatnonzero(nearest != best)
    decibels = 10 * np.log10(255**2 / np.maximum(errors, 1e-6))
    worst = float(decibels.min())
    if off.size:
        place = off[0]
        late = truth.times[nearest[off]] - moments[off]
        return (
            f"{off.size} of {len(moments)} frames are of another time ({late.min():+.3f} to {late.max():+.3f} s; "
            f"frame {place} shows ffmpeg's {nearest[place]}, not {np.flatnonzero(right[place]).tolist()})",
            worst,
        )
    if worst < LIKE_DB:
        return f"{(decibels < LIKE_DB).sum()} of {len(moments)} frames differ: {worst:.1f} dB", worst
    stamps = np.array(plan.timestamps)
    drift = np.abs((stamps - stamps[0]) - (truth.times[nearest] - truth.times[nearest[0]]))[: len(stamps) - plan.padded]
    if drift.max() > 2 * _TICK:
        return f"the row's time stamps are {drift.max():.3f} s off", worst
    return "", worst


def asked_moments(truth: Truth, settings: ClipSettings, fps: float) -> np.ndarray | None:
    """When each frame of the clip should be shown (F); None where ffmpeg shows too little for such a clip.

    Timestamps: every 1 / fps from the first frame that is not skipped. Stride: upstream's indices into ffmpeg's frames, for
    the average rate ``fps`` that the container declares.
    """
    times, skip, count = truth.times, int(settings.skip_frms_num), settings.max_num_frames
    if settings.frame_selection == "stride":
        try:
            _, _, chosen = upstream_window(len(times), fps, settings)
        except ZeroDivisionError:
            return None
        shown = times[chosen[chosen < len(times)][:count]]
        return np.concatenate([shown, np.repeat(shown[-1:], count - len(shown))]) if len(shown) else None
    usable = times[skip : len(times) - skip]
    if not len(usable):
        return None
    half = 0.5 * (usable[-1] - usable[0]) / max(1, len(usable) - 1)
    moments = usable[0] + np.arange(count) / settings.fps
    return moments if moments[-1] <= usable[-1] + half + 1e-6 else None


def mean_squares(some: torch.Tensor, others: torch.Tensor) -> np.ndarray:
    """(N, …) and (M, …) of uint8: the mean squared difference of each pair (N, M)."""
    a, b = some.flatten(1).float() - 128, others.flatten(1).float() - 128
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T
    return (squares / a.shape[1]).clamp(min=0).numpy()


def checked(corpus: Corpus, name: str, decoder: Decoder, settings: list[ClipSettings] = ALL_SETTINGS) -> list[Outcome]:
    """`probe`, then `check` under each of ``settings``."""
    path, truth = corpus.path(name), corpus.truth(name)
    return [check_probe(path, truth, decoder), *(check(path, truth, one, decoder) for one in settings)]


def check_damaged(path: Path, sound: Truth, settings: ClipSettings, decoder: Decoder) -> Outcome:
    """`check` for a damaged copy of a stream that decodes to ``sound``.

    Wrong is also: a frame used that ffmpeg has to conceal (it reports errors until then, and the picture is not the sound one), and
    a rejection although all that is shown up to the last used frame is as it was; time stamps are those of the whole file.
    """
    try:
        truth = decode(path)
    except RuntimeError:
        truth = None
    moments = asked_moments(sound, settings, sound.fps)
    assert moments is not None, "the sound stream has to be long enough"
    if truth is None:
        try:
            describe_clip(path, settings, decoder)
        except VideoError as error:
            return Outcome(rejected=str(error))
        return Outcome(wrong="used, although ffmpeg cannot read it")
    outcome = check(path, truth, settings, decoder)
    if (
        outcome.rejected is not None
        and "time stamps" not in outcome.rejected
        and as_sound(truth, sound, 0.0, moments[-1] + _REORDERED)
    ):
        return Outcome(wrong=f"rejected, although nothing that is used was hit: {outcome.rejected}")
    last = int((truth.times <= moments[-1]).sum())
    errors = [line for place, line in truth.errors if place < last]
    if outcome.rejected is None and not outcome.wrong and errors:
        _, pixels = describe_clip(path, settings, decoder)
        squares = mean_squares(pixels, torch.from_numpy(sound.frames.copy()).permute(0, 3, 1, 2))
        near = [squares[place, np.abs(sound.times - moment) < 0.04].min() for place, moment in enumerate(moments)]
        hit = [place for place, error in enumerate(near) if error > _LIKE]
        if hit:
            return Outcome(wrong=f"used frames {hit[:5]} are concealed ones; ffmpeg reports {errors[0]}")
    return outcome


def as_sound(truth: Truth, sound: Truth, start: float, end: float) -> bool:
    """Whether the two show the same between two times."""
    inside, expected = (one.times <= end for one in (truth, sound))
    inside, expected = inside & (truth.times >= start), expected & (sound.times >= start)
    return np.array_equal(truth.times[inside], sound.times[expected]) and np.array_equal(
        truth.frames[inside], sound.frames[expected]
    )


def main(names: list[str]) -> None:
    """Print the table."""
    from tests.frames.streams import ALL, STREAMS

    print(f"| {'stream':24} | {'reader':8} | result |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="cogtune-corpus-") as folder, Decoder(patience=30) as decoder:
        corpus = Corpus(Path(folder), ALL)
        for name in names or STREAMS:
            outcomes = checked(corpus, name, decoder)
            reader = "/".join(sorted({outcome.reader for outcome in outcomes if outcome.reader}))
            print(f"| {name:24} | {reader:8} | {verdict(outcomes)} |", flush=True)


def verdict(outcomes: list[Outcome]) -> str:
    """One cell of the table."""
    wrong = [outcome.wrong for outcome in outcomes if outcome.wrong]
    rejected = [outcome.rejected for outcome in outcomes if outcome.rejected]
    parts = [f"WRONG in {len(wrong)} of {len(outcomes)}: {wrong[0]}"] if wrong else []
    if rejected:
        which = "" if len(rejected) == len(outcomes) else f" in {len(rejected)} of {len(outcomes)}"
        parts.append(f"rejected{which}: {rejected[0]}")
    return "; ".join(parts) or f"right, {min(outcome.worst_db for outcome in outcomes):.0f} dB at least"


if __name__ == "__main__":
    main(sys.argv[1:])

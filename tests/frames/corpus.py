"""Makes the streams of `streams` with ffmpeg, each when it is first asked for, and decodes them with ffmpeg.

The bundled ffmpeg is the judge of which frame is shown when: it decodes in order, on one thread, and applies edit lists,
rotation and flips.
"""

import functools
import re
import shlex
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
SIZE = (96, 160)


@dataclass(frozen=True)
class Stream:
    """One file of the corpus.

    ``commands``: arguments of ffmpeg, one string a run, without the output; ``{name}`` stands for another file of the
    corpus, ``{out}`` for the output where it is not the last argument. ``edit``: makes the bytes from the finished ones.
    ``must_use``: a rejection is a fault. ``rejects``: otherwise, what its reason has to match. ``exact``: both readers
    have to give the same bytes (closed GOPs, 8 bit).
    """

    name: str
    commands: tuple[str, ...]
    edit: Callable[[bytes], bytes] | None = None
    must_use: bool = True
    rejects: str = ""
    exact: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Truth:
    """What ffmpeg shows: ``times`` in seconds (N), ``frames`` uint8 (N, H, W, 3), ``errors``: what its decoder
    reported, each with the number of frames that were shown before."""

    times: np.ndarray
    frames: np.ndarray
    errors: list[tuple[int, str]] = field(default_factory=list)

    @cached_property
    def fps(self) -> float:
        """The average rate; 0 for a single frame."""
        return (len(self.times) - 1) / float(self.times[-1] - self.times[0]) if len(self.times) > 1 else 0.0


class Corpus:
    """A folder of streams and what ffmpeg decodes from them, both made once."""

    def __init__(self, folder: Path, streams: dict[str, Stream]) -> None:
        self._folder = folder
        self._streams = streams
        self._truth = functools.lru_cache(maxsize=4)(lambda name: decode(self.path(name)))  # 12 MB each

    def path(self, name: str) -> Path:
        """The file of this name, made with the files that it comes from."""
        path = self._folder / name
        if path.exists():
            return path
        stream = self._streams[name]
        working = path.with_name(f"making-{name}")
        for command in stream.commands:
            filled = re.sub(r"\{([^}]+)\}", lambda found: str(self._place(found[1], working)), command)
            target = [] if "{out}" in command else [str(working)]
            _run("-y", "-v", "error", *shlex.split(filled), *target)
        if stream.edit:
            working.write_bytes(stream.edit(working.read_bytes()))
        return working.rename(path)

    def truth(self, name: str) -> Truth:
        """What ffmpeg shows of the file of this name."""
        return self._truth(name)

    def _place(self, name: str, working: Path) -> Path:
        return working if name == "out" else self.path(name)


def decode(path: Path) -> Truth:
    """Decode ``path`` in order, one thread, every frame once; raises RuntimeError where ffmpeg cannot open it."""
    options = "-nostdin -hide_banner -loglevel level+info -threads 1 -i"
    output = "-vf showinfo -an -fps_mode passthrough -f rawvideo -pix_fmt rgb24 -"
    done = subprocess.run([FFMPEG, *options.split(), path, *output.split()], capture_output=True)
    log = done.stderr.decode(errors="replace")
    shown = re.findall(r"n: *\d+ pts: *(-?\d+|NOPTS) .*? s:(\d+)x(\d+) ", log)
    base = re.search(r"config in time_base: (\d+)/(\d+)", log)
    if not shown or base is None:
        raise RuntimeError(f"ffmpeg shows nothing of {path.name}: {log[-500:]}")
    width, height = int(shown[0][1]), int(shown[0][2])
    frames = np.frombuffer(done.stdout, dtype=np.uint8)
    same = next((place for place, one in enumerate(shown) if one[1:] != shown[0][1:]), len(shown))  # it may change size
    count = min(same, frames.size // (height * width * 3))
    unit = Fraction(int(base[1]), int(base[2]))
    times = [float(int(ticks) * unit) if ticks != "NOPTS" else np.nan for ticks, _, _ in shown[:count]]
    errors, place = [], 0
    for line in log.splitlines():
        place += " n:" in line and " pts:" in line
        if re.search(r"\[(error|fatal|panic)\]", line) and "[rawvideo" not in line:
            errors.append((place, line))
    return Truth(np.array(times), frames[: count * height * width * 3].reshape(count, height, width, 3), errors)


def flip_bits(count: int, seed: int, start: float = 0.0, end: float = 1.0) -> Callable[[bytes], bytes]:
    """An edit that flips ``count`` bits, drawn between two shares of the file."""

    def edit(content: bytes) -> bytes:
        draw = np.random.default_rng(seed)
        damaged = bytearray(content)
        for place in draw.integers(int(start * len(content)), int(end * len(content)), size=count):
            damaged[place] ^= 1 << int(draw.integers(8))
        return bytes(damaged)

    return edit


def cut(share: float) -> Callable[[bytes], bytes]:
    """An edit that keeps the first part of a file."""
    return lambda content: content[: int(share * len(content))]


def edits(*asked: tuple[int, int]) -> Callable[[bytes], bytes]:
    """An edit of an mp4 whose index is at its end: only these spans are shown, (thousandths, first media tick) each."""

    def edit(content: bytes) -> bytes:
        table = b"".join(struct.pack(">iiI", length, start, 0x10000) for length, start in asked)
        entry = struct.pack(">I4sII", 16 + len(table), b"elst", 0, len(asked)) + table
        place = content.rindex(b"elst") - 4
        grown = bytearray(content)
        length = struct.unpack_from(">I", content, place)[0]
        for kind in (b"edts", b"trak", b"moov"):
            box = content.rindex(kind, 0, place) - 4
            struct.pack_into(">I", grown, box, struct.unpack_from(">I", content, box)[0] + len(entry) - length)
        return bytes(grown[:place] + entry + grown[place + length :])

    return edit


def _run(*arguments: str) -> None:
    done = subprocess.run([FFMPEG, "-nostdin", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ffmpeg {shlex.join(arguments)}: {done.stderr[-2000:]}")

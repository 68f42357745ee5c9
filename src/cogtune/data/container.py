"""What an mp4 or mov file says of itself, to be held against what is really in it.

Decoders take a file that lost its tail without a word: they read what is there. The boxes at the front still tell how
much there should be. ISO/IEC 14496-12 names the boxes; only their headers are read, so a large file costs no more than
a small one.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_FILE_BOXES = frozenset(b"ftyp styp moov moof mdat free skip wide uuid sidx ssix mfra meta pnot udta emsg prft".split())
_UNKNOWN = (0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Declared:
    """``bytes``: size that the file must have to hold all of its boxes. ``seconds``: how long its first video track
    plays, edits applied; None where the file does not tell (a fragmented one need not). ``indexed``: it has a ``moov``."""

    bytes: int
    seconds: float | None
    indexed: bool


@dataclass(frozen=True)
class _Box:
    kind: bytes
    body: int
    end: int


def declared(path: Path) -> Declared | None:
    """Read the boxes of ``path``; None if it is no ISO base media file (Matroska, AVI, text, nothing)."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        top: list[_Box] = []
        for box in _boxes(stream, 0, size):
            if box.kind not in _FILE_BOXES:
                break  # some writers leave other bytes at the end
            top.append(box)
        if not top:
            return None
        index = next((box for box in top if box.kind == b"moov" and box.end <= size), None)
        seconds = _video_seconds(stream, index) if index else None
        return Declared(max(box.end for box in top), seconds, index is not None)


def _boxes(stream: BinaryIO, start: int, end: int) -> Iterator[_Box]:
    """Boxes between two offsets; the last may claim to end beyond ``end``. Stops at what cannot be a box."""
    while start + 8 <= end:
        stream.seek(start)
        header = stream.read(16)
        if len(header) < 8:
            return  # a box around this one claims to be longer than the file
        length, kind = struct.unpack_from(">I4s", header)
        body = start + 8
        if length == 1 and len(header) == 16:
            length, body = struct.unpack_from(">Q", header, 8)[0], start + 16
        elif length == 0:
            length = end - start
        if start + length < body:
            return
        yield _Box(kind, body, start + length)
        start += length


def _video_seconds(stream: BinaryIO, moov: _Box) -> float | None:
    parts = list(_boxes(stream, moov.body, moov.end))
    scale = next((_times(stream, box)[0] for box in parts if box.kind == b"mvhd"), 0)
    for track in (box for box in parts if box.kind == b"trak"):
        inside = {box.kind: box for box in _boxes(stream, track.body, track.end)}
        if b"tkhd" not in inside or not _is_video(stream, inside.get(b"mdia")):
            continue
        duration = _times(stream, inside[b"tkhd"])[1]
        if not scale or duration in _UNKNOWN:
            return None
        return (duration - _pauses(stream, inside.get(b"edts"))) / scale
    return None


def _is_video(stream: BinaryIO, mdia: _Box | None) -> bool:
    handlers = [box for box in _boxes(stream, mdia.body, mdia.end) if box.kind == b"hdlr"] if mdia else []
    return any(_read(stream, box.body + 8, 4) == b"vide" for box in handlers)


def _times(stream: BinaryIO, box: _Box) -> tuple[int, int]:
    """(first word after the dates, duration): time scale and duration of ``mvhd``, track number and duration of ``tkhd``."""
    long = _read(stream, box.body, 1) == b"\1"
    skip = 4 + (16 if long else 8)
    gap = 4 if box.kind == b"tkhd" else 0
    head = _read(stream, box.body + skip, 4 + gap + (8 if long else 4))
    return struct.unpack_from(">I", head)[0], struct.unpack_from(">Q" if long else ">I", head, 4 + gap)[0]


def _pauses(stream: BinaryIO, edts: _Box | None) -> int:
    """Duration of the empty edits, which shift a track without showing anything; in units of the movie."""
    lists = [box for box in _boxes(stream, edts.body, edts.end) if box.kind == b"elst"] if edts else []
    total = 0
    for box in lists:
        long = _read(stream, box.body, 1) == b"\1"
        layout = struct.Struct(">QqI" if long else ">IiI")
        count = min(struct.unpack(">I", _read(stream, box.body + 4, 4))[0], (box.end - box.body - 8) // layout.size)
        table = _read(stream, box.body + 8, count * layout.size) if count > 0 else b""
        total += sum(length for length, start, _ in layout.iter_unpack(table) if start == -1)
    return total


def _read(stream: BinaryIO, offset: int, count: int) -> bytes:
    """Exactly ``count`` bytes; zeros stand for what is behind the end of the file."""
    stream.seek(offset)
    return stream.read(count).ljust(count, b"\0")

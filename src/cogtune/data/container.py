"""The declared length of a video file, to detect truncated files.

Demuxers do not report a truncated file. The boxes of mp4 and mov, RIFF chunks of AVI and EBML elements of Matroska start
with their lengths. Only those headers are read, so large files take no longer than small ones.
"""

import errno
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_FILE_BOXES = frozenset(b"ftyp styp moov moof mdat free skip wide uuid sidx ssix mfra meta pnot udta emsg prft".split())
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


@dataclass(frozen=True)
class Declared:
    """``bytes``: size that the file must have to hold all that it declares. ``indexed``: False for an mp4 or mov
    without a ``moov`` box, which nothing can play."""

    bytes: int
    indexed: bool = True


def declared(path: Path) -> Declared | None:
    """Read the outermost lengths of ``path``; None if it has another format, or an unknown length."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        return _boxes(stream, size) or _riff(stream, size) or _matroska(stream)


def is_whole(path: Path) -> bool:
    """Whether an mp4 file that we wrote is complete. False if it is missing, or a loop of links."""
    try:
        header = declared(path)
        return header is not None and header.indexed and header.bytes <= path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _boxes(stream: BinaryIO, size: int) -> Declared | None:
    """ISO/IEC 14496-12: 32 bits of length, a name; length 1 means 64 bits behind it, 0 the rest of the file."""
    start, indexed = 0, False
    while start + 8 <= size:
        header = _read(stream, start, 16)
        length, kind = struct.unpack_from(">I4s", header)
        if kind not in _FILE_BOXES:
            break  # some writers leave other bytes at the end
        if length == 1:
            length = struct.unpack_from(">Q", header, 8)[0]
        elif length == 0:
            length = size - start
        if length < 8:
            break
        indexed = indexed or (kind == b"moov" and start + length <= size)
        start += length
    return Declared(start, indexed) if start else None


def _riff(stream: BinaryIO, size: int) -> Declared | None:
    """AVI: "RIFF", 32 bits of length, "AVI "; beyond a gigabyte more of them, "AVIX", follow. A length of 0 was never
    filled in."""
    start = 0
    while start + 12 <= size:
        name, length, kind = struct.unpack("<4sI4s", _read(stream, start, 12))
        if name != b"RIFF" or kind not in (b"AVI ", b"AVIX") or not length:
            break
        start += 8 + length
    return Declared(start) if start else None


def _matroska(stream: BinaryIO) -> Declared | None:
    """An EBML header, then one segment. A live recording's segment is of unknown length: all bits are one."""
    start = 0
    for expected in (_EBML, _SEGMENT):
        name, length, header = _element(stream, start)
        if name != expected or length is None:
            return None
        start += header + length
    return Declared(start)


def _element(stream: BinaryIO, start: int) -> tuple[int, int | None, int]:
    """(name, length of the body or None, length of the header) of an EBML element with a name of four bytes."""
    head = _read(stream, start, 12)
    width = 9 - head[4].bit_length()
    if not 1 <= width <= 8:
        return 0, None, 0
    value = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
    unknown = value == (1 << 7 * width) - 1
    return int.from_bytes(head[:4], "big"), None if unknown else value, 4 + width


def _read(stream: BinaryIO, offset: int, count: int) -> bytes:
    """``count`` bytes, padded with zeros after the end of the file."""
    stream.seek(offset)
    return stream.read(count).ljust(count, b"\0")

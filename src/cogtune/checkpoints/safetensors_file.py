"""Read the header of a .safetensors file: 8 bytes of length, JSON, then the tensors without gaps."""

import json
import math
from pathlib import Path
from typing import Any

from cogtune.checkpoints.header import SIZES, Header, Stored
from cogtune.errors import UserError

_LONGEST = 100_000_000  # maximum header size in bytes, as in the safetensors library


def is_safetensors(path: Path) -> bool:
    """Whether the file starts like a safetensors file."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:9] == b"{"


def read(path: Path) -> Header:
    """Names, types, shapes and places. Raises UserError for a file that is truncated or does not match its header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LONGEST):
            raise _damaged(path, f"header length {length} bytes, file size {size} bytes")
        try:
            entries = json.loads(file.read(length))
            metadata = entries.pop("__metadata__", {})
            tensors = {name: _entry(path, 8 + length, entry) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, f"invalid header: {error}") from None
    begin = 8 + length
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].offset):
        if entry.offset != begin:
            raise _damaged(path, f"{name} starts at byte {entry.offset}; expected {begin}")
        begin += entry.nbytes
    if begin != size:
        raise _damaged(path, f"tensors end at byte {begin}, file size {size} bytes")
    return Header(path, "safetensors file", dict(tensors), {str(k): str(v) for k, v in metadata.items()})


def _entry(path: Path, data: int, entry: dict[str, Any]) -> Stored:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if entry["dtype"] not in SIZES:
        raise ValueError(f"unknown dtype {entry['dtype']!r}")
    if not all(isinstance(n, int) and n >= 0 for n in (begin, end, *shape)):
        raise ValueError("sizes must be non-negative integers")
    stored = Stored(path, entry["dtype"], shape, data + begin)
    if end - begin != math.prod(shape) * SIZES[stored.dtype]:
        raise ValueError(f"{end - begin} bytes for {stored.dtype} of {list(shape)}")
    return stored


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path}: incomplete or damaged safetensors file ({why}); download it again")

"""The shard format: a safetensors file of rows with checksums. Uses no pickle; meta can be read without torch.

Tensors are named ``<row>/<tensor>``. The metadata has ``format`` and two JSON objects with one entry per row: ``meta``
is the JSON that the stage stored, ``crc32`` has two checksums. The first covers the description (the row's name, the
names, types and shapes of its tensors, its meta), the second the bytes of its tensors in the order of their names. The
first is verified when a row's meta is read, both when its tensors are read. So a flipped bit anywhere in the file is
detected, and undamaged rows remain usable.
"""

import json
import re
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogtune.checkpoints import safetensors_file
from cogtune.checkpoints.header import Stored
from cogtune.errors import UserError
from cogtune.runtime.saved import DamagedError, how_to_repair

if TYPE_CHECKING:  # torch takes seconds to import, and meta can be read without it
    from torch import Tensor

FORMAT = "cogtune-shard-2"
UNCHECKED = "cogtune-shard-1"
"""The format without checksums, written by earlier versions."""
_ANY_FORMAT = re.compile(r"cogtune-shard-[0-9]+")
_BLOCK = 1 << 20
_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""safetensors' names of torch's types."""


def checksums(row: str, tensors: Mapping[str, "Tensor"], meta: Mapping[str, Any]) -> tuple[int, int]:
    """The two checksums of a row. ``tensors``: contiguous, on the CPU. ``meta`` must be serializable as JSON."""
    import torch

    named = sorted(tensors.items())
    shapes = [(name, _TYPES[str(t.dtype).removeprefix("torch.")], list(t.shape)) for name, t in named]
    content = 0
    for _, tensor in named:
        content = zlib.crc32(tensor.detach().reshape(-1).view(torch.uint8).numpy().data, content)
    # Converted to JSON and back, so that it is equal to what is read later: tuples become lists, keys become strings.
    return _described(row, shapes, json.loads(json.dumps(meta, allow_nan=False))), content


def _described(row: str, shapes: list[tuple[str, str, list[int]]], meta: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps([row, shapes, meta], sort_keys=True, allow_nan=False).encode())


class Shard:
    """The rows of a shard. Raises DamagedError for a damaged file, UserError for another format version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            header = safetensors_file.read(path)
        except (UserError, FileNotFoundError) as error:
            raise self.damaged(str(error).removeprefix(f"{path}: ")) from None
        self._metadata = header.metadata
        self.checked = "crc32" in self._metadata
        if header.metadata.get("format") != (FORMAT if self.checked else UNCHECKED):
            self._refuse_format()
        self._sums = self._parsed("crc32") if self.checked else {}
        self._tensors: dict[str, dict[str, Stored]] = {row: {} for row in (self._sums if self.checked else self.meta)}
        for key, stored in header.tensors.items():
            row, _, name = key.partition("/")
            if row not in self._tensors or not isinstance(stored, Stored):
                raise self.damaged(f"the tensor {key!r} belongs to no row")
            self._tensors[row][name] = stored

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, row: str) -> bool:
        return row in self._tensors

    @cached_property
    def meta(self) -> dict[str, dict[str, Any]]:
        """The meta of each row, not verified."""
        meta = self._parsed("meta")
        if (self.checked and meta.keys() != self._sums.keys()) or not all(isinstance(m, dict) for m in meta.values()):
            raise self.damaged("meta and checksums are of different rows")
        return meta

    def rows(self) -> list[str]:
        """The names of all rows, in order."""
        return sorted(self.meta)

    def check(self, row: str, content: bool = True) -> None:
        """Verify the checksums of a row; without ``content``, only of its description. Raises DamagedError, OSError.

        Rows of a shard without checksums always pass.
        """
        if not self.checked:
            return
        tensors = sorted(self._tensors[row].items())
        shapes = [(name, stored.dtype, list(stored.shape)) for name, stored in tensors]
        sums = self._sums[row]
        if _described(row, shapes, self.meta[row]) != sums[0]:
            raise self.damaged("its description differs from its checksum", row)
        if content and self._content(stored for _, stored in tensors) != sums[1]:
            raise self.damaged("its tensors differ from their checksum", row)

    def sums(self, row: str) -> tuple[int, int]:
        """The stored checksums of a row; computed if the shard has none."""
        return tuple(self._sums[row]) if self.checked else checksums(row, self.tensors(row), self.meta[row])

    def tensors(self, row: str) -> dict[str, "Tensor"]:
        """The tensors of a row, not verified, memory mapped: copy before changing one."""
        return {name: self._file.get_tensor(f"{row}/{name}") for name in self._tensors[row]}

    def damaged(self, why: str, row: str | None = None) -> DamagedError:
        """The error for a damaged row, or a damaged file, with advice."""
        what = f"the row {row} is damaged" if row else "the file is damaged"
        return DamagedError(f"{self.path}: {what} ({why}); {how_to_repair(self.path.parent)}")

    @cached_property
    def _file(self) -> Any:
        from safetensors import safe_open

        return safe_open(self.path, framework="pt")

    def _content(self, tensors: Any) -> int:
        checksum = 0
        with self.path.open("rb", buffering=0) as file:
            for stored in tensors:
                file.seek(stored.offset)
                left = stored.nbytes
                while left and (block := file.read(min(left, _BLOCK))):
                    checksum, left = zlib.crc32(block, checksum), left - len(block)
        return checksum

    def _parsed(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self._metadata[name])
        except (KeyError, ValueError) as error:
            raise self.damaged(f"its {name} is invalid: {error}") from None
        if not isinstance(value, dict) or (name == "crc32" and not all(map(_is_sums, value.values()))):
            raise self.damaged(f"its {name} is invalid")
        return value

    def _refuse_format(self) -> None:
        """Raise UserError for another version's format, DamagedError if it may be a known format with a flipped bit."""
        format_name = self._metadata.get("format", "")
        if self.checked or format_name in (FORMAT, UNCHECKED) or not _ANY_FORMAT.fullmatch(format_name):
            raise self.damaged(f"its format is {format_name!r}; expected {FORMAT!r}")
        raise UserError(
            f"{self.path}: format {format_name!r}, this version reads {FORMAT!r} and {UNCHECKED!r}; another version of "
            f"cogtune wrote it: use that version. If you used no other version, the file is damaged: "
            f"{how_to_repair(self.path.parent)}"
        )


def _is_sums(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)

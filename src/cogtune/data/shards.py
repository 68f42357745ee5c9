"""One shard: a safetensors file of rows, each with its checksums. No pickle, and no torch to look at it.

Tensors are named ``<row>/<tensor>``. The metadata holds ``format`` and two JSON objects with one entry for each row:
``meta``, what was said of it, and ``crc32``, two checksums: of what the row says it is (its name, the names, types and
shapes of its tensors, its meta), and of the bytes of its tensors in the order of their names. The first is checked
when a row's meta is read, the second as well when its tensors are. So a flipped bit anywhere is found, whichever part
of the file it hits, and the rows that it does not hit can be told from the one that it does.
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

if TYPE_CHECKING:  # torch takes seconds to import, and what was said of rows can be read without it
    from torch import Tensor

FORMAT = "cogtune-shard-2"
UNCHECKED = "cogtune-shard-1"
"""Written by versions that kept no checksums."""
_ANY_FORMAT = re.compile(r"cogtune-shard-[0-9]+")
_BLOCK = 1 << 20
_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""safetensors' names of torch's types."""


def checksums(row: str, tensors: Mapping[str, "Tensor"], meta: Mapping[str, Any]) -> tuple[int, int]:
    """The two checksums of a row. ``tensors``: contiguous, on the CPU. ``meta`` must fit into JSON."""
    import torch

    named = sorted(tensors.items())
    shapes = [(name, _TYPES[str(t.dtype).removeprefix("torch.")], list(t.shape)) for name, t in named]
    content = 0
    for _, tensor in named:
        content = zlib.crc32(tensor.detach().reshape(-1).view(torch.uint8).numpy().data, content)
    # Through JSON once, so that it is the same for what is read back: a tuple is a list there, a key is a text.
    return _described(row, shapes, json.loads(json.dumps(meta, allow_nan=False))), content


def _described(row: str, shapes: list[tuple[str, str, list[int]]], meta: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps([row, shapes, meta], sort_keys=True, allow_nan=False).encode())


class Shard:
    """A shard's rows. Raises DamagedError for a file that is not whole, UserError for one of another version."""

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
                raise self.damaged(f"it has a tensor {key!r} of no row")
            self._tensors[row][name] = stored

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, row: str) -> bool:
        return row in self._tensors

    @cached_property
    def meta(self) -> dict[str, dict[str, Any]]:
        """What was said of each row, not checked yet."""
        meta = self._parsed("meta")
        if (self.checked and meta.keys() != self._sums.keys()) or not all(isinstance(m, dict) for m in meta.values()):
            raise self.damaged("what it says of its rows does not go with their checksums")
        return meta

    def rows(self) -> list[str]:
        """The names of all rows, in order."""
        return sorted(self.meta)

    def check(self, row: str, content: bool = True) -> None:
        """Hold a row against its checksums; ``content`` False: only what it says it is. Raises DamagedError, OSError.

        A shard without checksums passes.
        """
        if not self.checked:
            return
        tensors = sorted(self._tensors[row].items())
        shapes = [(name, stored.dtype, list(stored.shape)) for name, stored in tensors]
        sums = self._sums[row]
        if _described(row, shapes, self.meta[row]) != sums[0]:
            raise self.damaged("what is said of it differs from its checksum", row)
        if content and self._content(stored for _, stored in tensors) != sums[1]:
            raise self.damaged("its tensors differ from their checksum", row)

    def sums(self, row: str) -> tuple[int, int]:
        """The checksums that stand beside a row, or those that it would have."""
        return tuple(self._sums[row]) if self.checked else checksums(row, self.tensors(row), self.meta[row])

    def tensors(self, row: str) -> dict[str, "Tensor"]:
        """The tensors of a row, not checked. They look into the file: copy before changing one."""
        return {name: self._file.get_tensor(f"{row}/{name}") for name in self._tensors[row]}

    def damaged(self, why: str, row: str | None = None) -> DamagedError:
        """The error that says so, and how to go on."""
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
            raise self.damaged(f"its {name} does not read: {error}") from None
        if not isinstance(value, dict) or (name == "crc32" and not all(map(_is_sums, value.values()))):
            raise self.damaged(f"its {name} does not read")
        return value

    def _refuse_format(self) -> None:
        """A version is another one only if nothing says that this is one of ours with a flipped bit."""
        format_name = self._metadata.get("format", "")
        if self.checked or format_name in (FORMAT, UNCHECKED) or not _ANY_FORMAT.fullmatch(format_name):
            raise self.damaged(f"its format reads {format_name!r}; expected {FORMAT!r}")
        raise UserError(
            f"{self.path}: format {format_name!r}, this version reads {FORMAT!r} and {UNCHECKED!r}; another version of cogtune "
            f"wrote it: use that one. If there was none, the file is damaged: {how_to_repair(self.path.parent)}"
        )


def _is_sums(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value)

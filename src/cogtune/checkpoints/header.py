"""Where a tensor is stored: in one file, or joined from several stored tensors."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of an element, by safetensors' name of the type."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. ``offset``: byte of its first element. ``strides``, in elements, only if it is not
    contiguous. ``crc``: of the stored record, if the format has one and the tensor covers all of it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None
    crc: int | None = None

    @property
    def nbytes(self) -> int:
        """Number of bytes from the first to the last element."""
        if self.strides is None:
            return math.prod(self.shape) * SIZES[self.dtype]
        if 0 in self.shape:
            return 0
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * SIZES[self.dtype]


@dataclass(frozen=True)
class Joined:
    """A tensor joined from several. ``join``:

    ``rows``, ``columns``  concatenated along axis 0, axis 1
    ``thirds``             each part holds q, k, v; all q first, then all k, then all v (tensor-parallel ranks)
    ``branches``           of modulation: parts are (attention, MLP), each [video shift, scale, gate; text …]; SAT
                           keeps video first, then text
    ``flat``               one part, a convolution's kernel, as a matrix
    ``ranges``             parts are ranges of the flattened tensor, whose shape is ``full``
    """

    join: str
    parts: "tuple[Source, ...]"
    full: tuple[int, ...] = ()

    @property
    def dtype(self) -> str:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        if self.join == "ranges":
            return self.full
        first = self.parts[0].shape
        if self.join == "flat":
            return (first[0], math.prod(first[1:]))
        axis = 1 if self.join == "columns" else 0
        total = sum(part.shape[axis] for part in self.parts)
        return (*first[:axis], total, *first[axis + 1 :])


Source = Stored | Joined


def stored(source: Source) -> Iterator[Stored]:
    """The stored tensors of ``source``."""
    if isinstance(source, Stored):
        yield source
    else:
        for part in source.parts:
            yield from stored(part)


@dataclass(frozen=True)
class Header:
    """All tensors of a path, by their names in the file.

    ``layout``: description of the path. ``metadata``: metadata of a safetensors header.
    ``adapter``: adapter_config.json of a PEFT folder. ``config``: config.json of a diffusers or transformers folder.
    """

    path: Path
    layout: str
    tensors: dict[str, Source]
    metadata: dict[str, str] = field(default_factory=dict)
    adapter: dict[str, Any] | None = None
    config: dict[str, Any] | None = None

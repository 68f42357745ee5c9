"""Read tensors directly from a file into memory: one at a time, without mmap or pickle."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cogtune.checkpoints.header import SIZES, Source, Stored
from cogtune.errors import UserError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def read(source: Source, finite: bool = True) -> Tensor:
    """The tensor, in the file's dtype, on the CPU. Raises UserError for truncated data, a checksum mismatch (zip files
    have checksums), and with ``finite`` for values that are infinite or NaN."""
    out = torch.empty(source.shape, dtype=DTYPES[source.dtype])
    read_into(source, out, finite)
    return out


def read_into(source: Source, out: Tensor, finite: bool = True) -> None:
    """Fill ``out``, which has the tensor's shape; without an extra copy if dtype and layout are equal. Raises UserError as
    `read` does."""
    direct = out.dtype == DTYPES[source.dtype] and out.is_contiguous()
    if isinstance(source, Stored):
        if direct and source.strides is None:
            _read_bytes(source, out.view(-1), finite)
        else:
            flat = torch.empty(source.nbytes // SIZES[source.dtype], dtype=DTYPES[source.dtype])
            _read_bytes(source, flat, finite)
            out.copy_(flat.as_strided(source.shape, source.strides) if source.strides else flat.view(source.shape))
    elif source.join in ("rows", "ranges"):
        joined = out.view(-1) if source.join == "ranges" else out
        for part, rows in zip(source.parts, joined.split([part.shape[0] for part in source.parts]), strict=True):
            read_into(part, rows, finite)
    else:
        out.copy_(JOIN[source.join]([read(part) for part in source.parts]))


def read_all(sources: Mapping[str, Source]) -> dict[str, Tensor]:
    """Read all tensors into memory."""
    return {name: read(source) for name, source in sources.items()}


def _read_bytes(source: Stored, flat: Tensor, finite: bool) -> None:
    """Read the stored elements into ``flat`` and verify them."""
    view, done = flat.view(torch.uint8).numpy().data, 0
    with source.file.open("rb", buffering=0) as file:
        file.seek(source.offset)
        while done < source.nbytes:
            if not (count := file.readinto(view[done:])):
                raise UserError(f"{source.file}: truncated at byte {source.offset + done}; download it again")
            done += count
    if source.crc is not None and zlib.crc32(view) != source.crc:
        raise UserError(f"{source.file}: checksum mismatch in the data at byte {source.offset}; download it again")
    if finite and flat.is_floating_point() and flat.dtype.itemsize > 1 and not _finite(flat):
        raise UserError(
            f"{source.file}: contains weights that are infinite or NaN; the file is damaged, or its training diverged"
        )


def _finite(flat: Tensor) -> bool:
    """Check minimum and maximum, which propagate NaN: no extra memory, and ten times as fast as torch.isfinite."""
    return flat.numel() == 0 or bool(torch.isfinite(torch.stack(flat.aminmax())).all())


def _thirds(parts: Sequence[Tensor]) -> Tensor:
    thirds = zip(*(part.chunk(3) for part in parts), strict=True)
    return torch.cat([torch.cat(third) for third in thirds])


def _branches(parts: Sequence[Tensor]) -> Tensor:
    halves = [part.unflatten(0, (2, 3, -1)) for part in parts]
    return torch.stack(halves, dim=1).flatten(0, 3)


JOIN: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "same": lambda parts: parts[0],
    "rows": lambda parts: torch.cat(list(parts)),
    "columns": lambda parts: torch.cat(list(parts), dim=1),
    "thirds": _thirds,
    "branches": _branches,
    "flat": lambda parts: parts[0].reshape(parts[0].shape[0], math.prod(parts[0].shape[1:])),
}
"""How to join parts to one tensor: see `header.Joined`."""


def split(join: str, tensor: Tensor, parts: int) -> list[Tensor]:
    """The inverse of JOIN for what diffusers splits: `same`, `rows`, `branches`."""
    if join == "rows":
        return list(tensor.chunk(parts))
    if join == "branches":
        video_or_text_by_branch = tensor.unflatten(0, (2, parts, 3, -1))
        return [video_or_text_by_branch[:, branch].flatten(0, 2) for branch in range(parts)]
    return [tensor]

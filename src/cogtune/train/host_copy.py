"""A copy of tensors in host memory, so that they can be written while training changes them."""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""A power of two: PyTorch rounds pinned memory up to one. It also keeps pinned memory for the next copy."""


class HostCopy:
    """The bytes of tensors, one after the other. Those of a GPU are copied to pinned memory, at the speed of the bus."""

    def __init__(self) -> None:
        self._chunks = list[Tensor]()
        self._used = CHUNK_BYTES
        self._device: torch.device | None = None

    def add(self, tensor: Tensor) -> None:
        """Append a tensor. It must not change before `finish`."""
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        self._device = data.device if data.is_cuda else self._device
        while data.numel():
            if self._used == CHUNK_BYTES:
                self._chunks.append(torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=self._device is not None))
                self._used = 0
            count = min(data.numel(), CHUNK_BYTES - self._used)
            self._chunks[-1][self._used : self._used + count].copy_(data[:count], non_blocking=True)
            self._used += count
            data = data[count:]

    def finish(self) -> None:
        """Wait until all is copied."""
        if self._device is not None:
            torch.cuda.current_stream(self._device).synchronize()

    def drain(self) -> Iterator[Tensor]:
        """The bytes in order, in pieces whose memory is free once they were used."""
        while self._chunks:
            chunk = self._chunks.pop(0)
            yield chunk if self._chunks else chunk[: self._used]

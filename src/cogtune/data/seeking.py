"""Reading with decord, which seeks: the only module that imports it.

Its seek is right where every key frame starts a closed group, and only such streams come here
(`streams.Packets.sections`); where whole groups are left out it takes a fraction of the time (0.5 s against 1.8 s for 8
frames of 20 s). There it gives the bytes that PyAV gives. It has no wheel for Linux on ARM, and is not needed there.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_SAME_SECONDS = 1e-3
_LEAST_WIDTH = 64
"""Of narrower pictures decord takes the padding of rows for more channels."""


def opened(path: Path, times: Sequence[float], width: int) -> Any:
    """decord's reader of ``path`` if it sees the frames at the same ``times``, without complaint; else None."""
    try:
        import decord
    except ImportError:
        return None
    if width < _LEAST_WIDTH:
        return None
    decord.logging.set_level(decord.logging.ERROR)
    try:
        with _complaints() as complained:
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            starts = reader.get_frame_timestamp(list(range(len(reader))))[:, 0]
    except Exception:  # also where no temporary file can be made: the other reader needs none
        return None
    same = len(starts) == len(times) and bool((np.abs(starts - np.asarray(times)) < _SAME_SECONDS).all())
    return reader if same and not complained() else None


def frames(reader: Any, indices: Sequence[int]) -> np.ndarray | None:
    """uint8 (N, H, W, 3), RGB; None if it failed, or if the decoder complained: decord goes on as if nothing was."""
    try:
        with _complaints() as complained:
            batch_NHWC = reader.get_batch(list(indices)).asnumpy()
    except Exception:
        return None
    return None if complained() else batch_NHWC


@contextlib.contextmanager
def _complaints() -> Iterator[Any]:
    """A function that tells, afterwards, whether this process has written to its standard error meanwhile."""
    with tempfile.TemporaryFile() as stream, contextlib.ExitStack() as stack:
        kept = os.dup(2)
        stack.callback(os.close, kept)
        os.dup2(stream.fileno(), 2)
        size = 0
        try:
            yield lambda: size > 0
        finally:
            os.dup2(kept, 2)
            size = os.fstat(stream.fileno()).st_size

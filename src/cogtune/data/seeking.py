"""Read frames with decord, which seeks. The only module that imports it.

Decord seeks correctly if every key frame starts a closed group, so only such streams are read here
(`streams.Packets.sections`). If whole groups are skipped, it is faster (0.5 s, PyAV 1.8 s, for 8 frames of 20 s), with
identical bytes. It has no wheel for Linux on ARM; PyAV is used there.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_TOLERANCE_SECONDS = 1e-3
_MINIMUM_WIDTH = 64
"""For narrower pictures decord reads the padding of rows as additional channels."""


def opened(path: Path, times: Sequence[float], width: int) -> Any:
    """decord's reader of ``path``; None if its frame times differ from ``times``, or if it reports an error."""
    try:
        import decord
    except ImportError:
        return None
    if width < _MINIMUM_WIDTH:
        return None
    decord.logging.set_level(decord.logging.ERROR)
    try:
        with _watch_stderr() as has_errors:
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            starts = reader.get_frame_timestamp(list(range(len(reader))))[:, 0]
    except Exception:  # also if no temporary file can be created: the other reader does not need one
        return None
    same = len(starts) == len(times) and bool((np.abs(starts - np.asarray(times)) < _TOLERANCE_SECONDS).all())
    return reader if same and not has_errors() else None


def frames(reader: Any, indices: Sequence[int]) -> np.ndarray | None:
    """uint8 (N, H, W, 3), RGB; None if decord fails or prints an error, because it then continues with wrong frames."""
    try:
        with _watch_stderr() as has_errors:
            batch_NHWC = reader.get_batch(list(indices)).asnumpy()
    except Exception:
        return None
    return None if has_errors() else batch_NHWC


@contextlib.contextmanager
def _watch_stderr() -> Iterator[Any]:
    """Yields a function that returns, after the block, whether this process wrote to its standard error in the
    block."""
    with tempfile.TemporaryFile() as stream, contextlib.ExitStack() as stack:
        saved_stderr = os.dup(2)
        stack.callback(os.close, saved_stderr)
        os.dup2(stream.fileno(), 2)
        size = 0
        try:
            yield lambda: size > 0
        finally:
            os.dup2(saved_stderr, 2)
            size = os.fstat(stream.fileno()).st_size

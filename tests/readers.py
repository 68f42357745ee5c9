"""Decoders of either kind: with decord, and on a machine that has none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cogtune.data.decoder import Decoder


@contextmanager
def decoder_without_decord(folder: Path, video: Path, patience: float = 60) -> Iterator[Decoder]:
    """A decoder whose process cannot import decord. ``folder``: an empty one; ``video``: any that opens."""
    (folder / "decord.py").write_text("raise ImportError('blocked by the test')\n")
    with Decoder(patience) as made:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(folder), prepend=":")
            made.probe(video)  # starts the process
        yield made

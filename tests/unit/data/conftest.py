"""Videos that many tests only read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cogtune.data.decoder import Decoder
from tests.unit.data.footage import write_video


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain.mp4 (index at the end) and fast.mp4 (index first): 24 frames at 8 fps, 32x48."""
    folder = tmp_path_factory.mktemp("footage")
    write_video(folder / "plain.mp4")
    write_video(folder / "fast.mp4", output_params=["-movflags", "+faststart"])
    return folder


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    with Decoder() as made:
        yield made

"""Videos that many tests only read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cogtune.data.decoder import Decoder
from tests.readers import decoder_without_decord
from tests.unit.data.footage import write_video


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain.mp4 (index at the end) and fast.mp4 (index first): 24 frames at 8 fps, 32x48."""
    folder = tmp_path_factory.mktemp("footage")
    write_video(folder / "plain.mp4")
    write_video(folder / "fast.mp4", output_params=["-movflags", "+faststart"])
    return folder


@pytest.fixture(scope="session", params=["decord is there", "decord is not there"])
def decoder(
    request: pytest.FixtureRequest, footage: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Decoder]:
    """Every test that decodes runs twice: decord has no wheel for Linux on ARM."""
    if request.param == "decord is there":
        with Decoder() as made:
            yield made
    else:
        with decoder_without_decord(tmp_path_factory.mktemp("blocked"), footage / "plain.mp4") as made:
            yield made

"""What unit tests of several rooms share, and which of them `make test-fast` leaves out."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.plan.world import World

INTEGRATION = {
    "test_caches", "test_decoder", "test_deepspeed_limits", "test_export", "test_faults", "test_hostile_names",
    "test_image_to_video", "test_locks", "test_recipes", "test_replaced", "test_sample", "test_scan_faults",
    "test_skipped", "test_survey", "test_locations", "test_write_faults",
}  # fmt: skip
"""Modules that start processes, hold locks or run whole stages. They took 70 of
130 s together, and are not the only ones of their room."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in INTEGRATION:
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(text, name) -> path of a new file."""

    def _write(text: str, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return _write


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world for each test, in which the test's folder is the working directory."""
    monkeypatch.chdir(tmp_path)
    return World(tmp_path)

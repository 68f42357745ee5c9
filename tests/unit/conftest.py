"""What unit tests of several rooms share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.plan.world import World


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

"""A world for each test, in which the tests' folder is the working directory."""

from pathlib import Path

import pytest

from tests.unit.plan.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tmp_path)

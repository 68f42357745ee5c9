"""Configs to test with."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
SHIPPED = REPOSITORY / "config"


@pytest.fixture
def write(tmp_path):
    """write(text, name) -> path of a new file."""

    def _write(text: str, name: str = "a.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return _write

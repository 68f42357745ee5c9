"""docs/python.md runs as it stands, block after block, in a folder laid out as a clone after `make demo`."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.stages.finished import published

pytestmark = pytest.mark.heavy

REPO = Path(__file__).resolve().parents[2]


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(REPO / "demo")])
    from make_data import write_t5

    for name in ("config", "demo"):
        (tmp_path / name).symlink_to(REPO / name)
    write_t5(tmp_path / "data/demo/t5")
    published(tmp_path, "demo")
    monkeypatch.chdir(tmp_path)
    page = (REPO / "docs/python.md").read_text()
    blocks = [(match.start(), match[1]) for match in re.finditer(r"```python\n(.*?)```", page, re.DOTALL)]
    assert len(blocks) >= 8
    names: dict[str, Any] = {}
    for start, block in blocks:
        line = page[:start].count("\n") + 1
        exec(compile("\n" * line + block, str(REPO / "docs/python.md"), "exec"), names)

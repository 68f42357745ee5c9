"""`make test-fast` leaves out what is marked heavy, and no folder of unit tests altogether."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy  # it starts a pytest

UNIT = Path(__file__).parent
REPO = UNIT.parents[1]


def test_every_folder_keeps_tests() -> None:
    makefile = (REPO / "Makefile").read_text()
    command = re.search(r'^test-fast:.*\n.* pytest -q tests/unit -m "([^"]+)"', makefile, re.M)
    assert command, "the Makefile has no such command"
    collect = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", command[1], "tests/unit"]
    done = subprocess.run(collect, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    kept = {(REPO / line.split(":")[0]).parent for line in done.stdout.splitlines() if line.startswith("tests/unit/")}
    assert kept == {path.parent for path in UNIT.rglob("test_*.py")}

"""The benchmark that docs/plan.md names runs."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

REPO = Path(__file__).parents[3]


def test_bench_plan_runs() -> None:
    command = [sys.executable, "bench/plan.py", "20", "--runs", "1"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "latents 10 of 20" in done.stdout

"""The benchmarks run, on small cases."""

import json
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


def test_bench_train_runs(tmp_path: Path) -> None:
    words = [
        "--steps",
        "5",
        "--runs",
        "0",
        "--weights",
        "100000",
        "--precisions",
        "bf16",
        "--json",
        str(tmp_path / "rows.json"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench.train", *words], cwd=REPO, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows["overhead"]) == 2
    assert all(0 < row["overhead"] < 0.5 for row in rows["overhead"])
    transient = {(row["average"], row["kernel"]): row["bytes_per_weight"] for row in rows["optimizer"]}
    assert transient[True, "fused"] == transient[False, "fused"] == 0
    assert transient[True, "loop"] > 7

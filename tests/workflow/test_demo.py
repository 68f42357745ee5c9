"""`make demo` in a fresh clone, and the figures that it must reach. About 15 minutes with the installation."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow.project import REPO, environment

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

AT_LEAST = {
    "demo": {"vae.psnr_db": 25.5, "vae.psnr_db_min": 20.5, "samples.psnr_db": 19.0, "samples.retrieval_accuracy": 0.95},
    "demo_lora": {
        "vae.psnr_db": 25.5,
        "vae.psnr_db_min": 20.5,
        "samples.psnr_db": 17.0,
        "samples.retrieval_accuracy": 1.0,
    },
}
AT_MOST = {
    "samples.retrieval_accuracy_base": 0.4,
    "samples.retrieval_accuracy_shuffled": 0.2,
    "samples.retrieval_accuracy_null": 0.3,
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clone") / "cogtune"
    subprocess.run(["git", "clone", "--quiet", str(REPO), str(root)], check=True)
    subprocess.run(["make", "demo"], cwd=root, env=environment(), check=True, timeout=3000)
    return root


@pytest.mark.parametrize("experiment", AT_LEAST)
def test_figures(clone: Path, experiment: str) -> None:
    metrics = json.loads((clone / "results" / experiment / "metrics.json").read_text())
    assert {name: metrics[name] for name, least in AT_LEAST[experiment].items() if metrics[name] < least} == {}
    assert {name: metrics[name] for name, most in AT_MOST.items() if metrics[name] > most} == {}
    assert metrics["samples.psnr_db"] >= metrics["samples.psnr_db_base"] + 4
    timings = json.loads((clone / "results" / experiment / "timings.json").read_text())
    assert timings["train.data_wait_fraction"] < 0.02


def test_no_process_needs_4_gb(clone: Path) -> None:
    records = [json.loads(path.read_text()) for path in (clone / "store" / "records").glob("*.json")]
    assert max(record["peak_memory_mib"] for record in records) < 4096


def test_again_nothing_is_done(clone: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(["make", "demo"], cwd=clone, env=environment(), capture_output=True, text=True, timeout=300)
    assert "Nothing to be done" in done.stdout + done.stderr
    assert time.monotonic() - started < 20

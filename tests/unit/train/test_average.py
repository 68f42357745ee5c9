"""The network with its moving average: under every ZeRO stage it computes with it, and no bit of the training changes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.heavy

REPO = Path(__file__).parents[3]
RANKS = 2
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 8}},
}
ZERO: dict[str, dict[str, Any]] = {
    "0": {"stage": 0},
    "1": {"stage": 1},
    "2": {"stage": 2},
    "2, offload": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "3": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "3, whole weights": {"stage": 3, "stage3_param_persistence_threshold": 10_000},
    "3, offload": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
}
CASES = [(zero, precision) for zero in ZERO for precision in PRECISIONS if (zero, precision) != ("0", "fp16")]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By case, the result of each rank."""
    meeting = tmp_path_factory.mktemp("average") / "rendezvous"
    optimizer = {"type": "FusedEmaAdam", "params": {"ema_decay": 0.5}}
    sections = [
        {"optimizer": optimizer, "zero_optimization": ZERO[zero]} | PRECISIONS[precision] for zero, precision in CASES
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.unit.train.average_steps", str(meeting), str(rank), str(RANKS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    for process in processes[1:]:
        assert process.stdin is not None
        process.stdin.write(json.dumps(sections))
        process.stdin.close()
        process.stdin = None
    outputs = [
        process.communicate(json.dumps(sections) if i == 0 else None, timeout=300)
        for i, process in enumerate(processes)
    ]
    by_rank = [
        [json.loads(line.removeprefix("RESULT ")) for line in output.splitlines() if line.startswith("RESULT ")]
        for output, _ in outputs
    ]
    assert [len(rows) for rows in by_rank] == [len(CASES)] * RANKS, "\n".join(error[-3000:] for _, error in outputs)
    return {case: [rows[i] for rows in by_rank] for i, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_average_is_put_in_and_taken_out_without_a_trace(
    results: dict[tuple[str, str], list[dict[str, Any]]], case: tuple[str, str]
) -> None:
    for result in results[case]:
        assert result["wrong"] == []
        assert result["compared"] > 10

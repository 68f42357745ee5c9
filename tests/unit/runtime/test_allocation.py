"""What Slurm granted, from the variables of a job."""

import os

import pytest

from cogtune.runtime.allocation import granted_cores, granted_gpus


@pytest.mark.parametrize(
    ("written", "gpus"),
    [("2", 2), ("a100:2", 2), ("a100:1,h100:3", 4), ("nvidia_a100_80gb:8", 8), (None, 0), ("", 0), ("many", 0)],
)
def test_gpus(written: str | None, gpus: int) -> None:
    assert granted_gpus({} if written is None else {"SLURM_GPUS": written}) == gpus


def test_cores() -> None:
    assert granted_cores({"SLURM_CPUS_PER_TASK": "12"}) == 12
    assert granted_cores({}) == len(os.sched_getaffinity(0))

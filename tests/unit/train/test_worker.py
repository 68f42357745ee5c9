"""What the process of a rank does around the training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cogtune.runtime import machines
from cogtune.train import worker
from cogtune.train.ends import RankEnd, RankError, RankMemoryError, verdict

pytestmark = pytest.mark.heavy

WARNING = """
import warnings
from cogtune.train import session, worker

def train(*_):
    warnings.warn("this call is deprecated", FutureWarning)
    return True

session.train = train
worker.main()
"""


@pytest.mark.parametrize(("rank", "times"), [("0", 1), ("1", 0)])
def test_the_first_rank_alone_logs_what_libraries_warn_of(tmp_path: Path, rank: str, times: int) -> None:
    (tmp_path / "plan.json").write_text("{}")
    command = [sys.executable, "-c", WARNING, str(tmp_path / "plan.json")]
    done = subprocess.run(command, env=os.environ | {"RANK": rank}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("FutureWarning: this call is deprecated") == times


FAILING = """
import os, torch
from cogtune.train import session, worker

def train(*_):
    print("ALLOCATOR", os.environ.get("PYTORCH_ALLOC_CONF"))
    try:
        {code}
    except RuntimeError as error:
        raise ValueError("while the step was computed") from error

session.train = train
worker.main()
"""
OF_CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.19 GiB is free. Process"


@pytest.mark.parametrize(
    ("code", "memory", "request_text"),
    [
        (
            f"raise torch.OutOfMemoryError({OF_CUDA!r})",
            "GPU",
            "it requested 20.00 GiB more; GPU 0 has 79.10 GiB, of which 1.19 GiB is free",
        ),
        ("torch.empty(1 << 60)", "CPU", "it requested 4294967296.00 GiB more"),
        ("raise MemoryError", "CPU", ""),
    ],
    ids=["GPU", "CPU", "Python"],
)
def test_a_rank_says_what_memory_it_requested(tmp_path: Path, code: str, memory: str, request_text: str) -> None:
    (tmp_path / "plan.json").write_text("{}")
    command = [sys.executable, "-c", FAILING.format(code=code), str(tmp_path / "plan.json"), "--errors", str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"RANK": "1"}, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    error = RankError(**json.loads((tmp_path / "error-1.json").read_text()))
    assert (error.rank, error.memory, error.request) == (1, memory, request_text)
    neighbour = RankError(0, error.time + 1, "Connection closed by peer", False, "Traceback")
    with pytest.raises(RankMemoryError) as caught:
        verdict([RankEnd(0, 1, neighbour), RankEnd(1, 1, error)], False, tmp_path / "ranks.log")
    assert caught.value.error == error


@pytest.mark.parametrize("own", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_of_a_gpu_can_grow_its_blocks(monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    for name in worker.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machines, "driver_names", lambda: [])
    worker.prepare_allocator()
    assert "PYTORCH_ALLOC_CONF" not in os.environ
    monkeypatch.setattr(machines, "driver_names", lambda: ["NVIDIA H100 80GB HBM3"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if own:
        monkeypatch.setenv(own, "max_split_size_mb:64")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", os.environ.get("PYTORCH_ALLOC_CONF", ""))  # so that it is restored
    if not os.environ["PYTORCH_ALLOC_CONF"]:
        del os.environ["PYTORCH_ALLOC_CONF"]
    worker.prepare_allocator()
    expected = {None: "expandable_segments:True", "PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}.get(own)
    assert os.environ.get("PYTORCH_ALLOC_CONF") == expected

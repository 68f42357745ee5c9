"""What the process of a rank does around the training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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

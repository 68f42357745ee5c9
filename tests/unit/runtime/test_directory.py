"""One Snakemake in a directory: the second is told whose it is; a killed one leaves nothing to remove."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.runtime import directory
from cogtune.runtime.directory import hold_directory

_HOLD = """
import subprocess, sys, time
from pathlib import Path
from cogtune.runtime.directory import hold_directory
hold_directory(Path(sys.argv[1]))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_killed_owner_frees_it_though_its_children_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "_HELD", {})
    path = tmp_path / ".cogtune.lock"
    owner = subprocess.Popen([sys.executable, "-c", _HOLD, path], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    try:
        with pytest.raises(UserError, match=rf"another snakemake \(process {owner.pid}\) is running in {tmp_path}"):
            hold_directory(path)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        hold_directory(path)
        assert len(directory._HELD) == 1
    finally:
        owner.kill()
        subprocess.run(["kill", str(child)], check=False)
        for stream in directory._HELD.values():
            stream.close()


@pytest.mark.parametrize("kind", ["link", "link to nothing", "folder", "fifo"])
def test_what_is_no_file_is_refused_and_left_alone(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / ".cogtune.lock", tmp_path / "mine"
    target.write_text("mine")
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(target if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"\.cogtune\.lock: expected a regular file, .*; remove it"):
        hold_directory(path)
    assert target.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_where_nothing_can_be_written_everybody_passes(tmp_path: Path) -> None:
    hold_directory(tmp_path / "no such folder/.cogtune.lock")

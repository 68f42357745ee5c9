"""A child ends with its parent, also when the parent is killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux only")

_CHILD = """
import sys, time
from cogtune.runtime.children import die_with_parent
die_with_parent(int(sys.argv[1]))
print("on", flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_killed_parent_takes_the_child_along() -> None:
    parent_code = f"""
        import os, subprocess, sys, time
        command = [sys.executable, "-c", {_CHILD!r}, str(os.getpid())]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent_code)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_parent_that_is_gone_already() -> None:
    done = subprocess.run([sys.executable, "-c", _CHILD, str(os.getpid() + 1)], check=False, timeout=20)
    assert done.returncode == -signal.SIGKILL

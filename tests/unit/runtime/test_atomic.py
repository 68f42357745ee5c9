"""A file is old or new, never half."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cogtune.runtime.atomic import replacing, write_bytes, write_json, write_text


def test_writes_and_makes_folders(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a/b/raw", b"\x00\xff")
    write_text(tmp_path / "text", "zwölf\r\n")
    write_json(tmp_path / "value.json", {"b": 1, "a": [1.5, None, "ü"]})
    assert (tmp_path / "a/b/raw").read_bytes() == b"\x00\xff"
    assert (tmp_path / "text").read_bytes() == "zwölf\r\n".encode()
    assert json.loads((tmp_path / "value.json").read_text()) == {"b": 1, "a": [1.5, None, "ü"]}


def test_an_error_keeps_the_old_content_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError), replacing(target) as temporary:
        temporary.write_text("half \udcff", encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, float("nan"))
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_kill_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_text(target, "old")
    code = """
        import os, signal, sys
        from cogtune.runtime.atomic import replacing
        with replacing(sys.argv[1]) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"

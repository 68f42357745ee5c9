"""Wherever a clip or a picture is read: a fault of the machine ends the stage and stores nothing against the file."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogtune.data import decoder, pipeline
from cogtune.data.decode import VideoError
from cogtune.data.decoder import Decoder
from cogtune.data.images import load_image
from cogtune.data.pipeline import retry_damaged
from cogtune.data.prompt_file import read_prompts
from cogtune.data.store import ShardReader
from cogtune.errors import UserError
from cogtune.runtime.failures import is_environment_error
from cogtune.stages import preprocess
from tests.unit.stages.caching import Caching

pytestmark = pytest.mark.heavy

MACHINE = [errno.EIO, errno.ENOSPC, errno.EMFILE]


class Failing:
    """A function that fails at its first ``times`` calls."""

    def __init__(self, works: Callable[..., Any], error: Exception, times: int = 1) -> None:
        self._works, self._error, self._left, self.calls = works, error, times, 0

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        if self.calls <= self._left:
            raise self._error
        return self._works(*args, **kwargs)


@pytest.fixture
def project(tmp_path: Path) -> Caching:
    """Two clips, scanned."""
    made = Caching(tmp_path)
    made.add("a", "one", 1)
    made.add("b", "two", 2)
    made.run("scan")
    return made


def rejected(project: Caching) -> list[dict[str, Any]]:
    reader = ShardReader(project.job("preprocess").items_dir())
    return [reader.meta(clip) for clip in reader.ids() if "rejected" in reader.meta(clip)]


@pytest.mark.parametrize("number", MACHINE, ids=errno.errorcode.get)
def test_preprocess_ends_and_stores_no_reject(project: Caching, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing = Failing(preprocess.describe_clip, OSError(number, os.strerror(number)))
        patch.setattr(preprocess, "describe_clip", failing)
        with pytest.raises(UserError, match=r"\.mp4: .*; this is an error of the machine"):
            project.run("preprocess")
    counts = project.run("preprocess")
    assert (counts["made"] + counts["reused"], counts["rejected"], rejected(project)) == (2, 0, [])


def test_a_disk_that_fails_for_a_moment_is_no_damage(project: Caching, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder only says that it cannot read on."""
    failing = Failing(preprocess.describe_clip, VideoError("damaged: it cannot be read to its end"))
    monkeypatch.setattr(preprocess, "describe_clip", failing)
    assert project.run("preprocess")["rejected"] == 0
    assert failing.calls == 3


def test_a_disk_that_goes_on_failing_ends_the_stage(project: Caching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "describe_clip", Failing(preprocess.describe_clip, VideoError("damaged"), 9))
    monkeypatch.setattr(pipeline, "file_digest", Failing(pipeline.file_digest, OSError(errno.EIO, "I/O error"), 9))
    with pytest.raises(UserError, match="I/O error; this is an error of the machine"):
        project.run("preprocess")
    assert rejected(project) == []


def test_damage_is_told_after_two_tries(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    failing = Failing(lambda: 1, VideoError("damaged"), 2)
    with pytest.raises(VideoError, match="damaged"):
        retry_damaged(tmp_path / "a.mp4", failing)
    assert failing.calls == 2


def test_a_decoder_that_is_killed_says_nothing_of_the_file(tmp_path: Path) -> None:
    with Decoder() as own:
        own._child = own._start()
        os.kill(own._child.pid, signal.SIGKILL)
        own._child.wait()
        with pytest.raises(OSError, match="memory ran out") as caught:
            own.probe(tmp_path / "a.mp4")
    assert is_environment_error(caught.value)


@pytest.mark.parametrize("command", ["/bin/false", "/nowhere/python"])
def test_a_decoder_that_does_not_start_rejects_nothing(
    project: Caching, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No right to run Python, no process left, a library that lacks: every clip would be called damaged."""
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_COMMAND", [command])
        with pytest.raises(UserError, match=f"the decoder process does not start .*{command}"):
            project.run("preprocess")
    assert project.run("preprocess")["rejected"] == 0


@pytest.mark.parametrize("number", MACHINE, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("read", "at"),
    [
        (lambda path: load_image(path, (32, 48)), "builtins.open"),
        (read_prompts, "pathlib.Path.read_text"),
    ],
    ids=["picture", "prompts"],
)
def test_pictures_and_prompts(
    tmp_path: Path, read: Callable[..., Any], at: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(at, Failing(open, OSError(number, os.strerror(number)), 99))
        with pytest.raises(UserError) as caught:
            read(tmp_path / "file")
    assert f"{os.strerror(number)}; this is an error of the machine" in str(caught.value)

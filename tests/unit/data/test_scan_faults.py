"""A fault of the machine ends a scan and rejects nothing; a fault of a file rejects that file and nothing else.

Errors are injected where the operating system gives them: at listing, open, read and write of a chosen path.
"""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogtune.data import scan as module
from cogtune.data.listing import fingerprint
from cogtune.data.scan import Memo, ScanResult, scan
from cogtune.errors import UserError
from tests.unit.data.footage import copy

pytestmark = pytest.mark.heavy

MACHINE, FILE = [errno.ENOSPC, errno.EIO, errno.EMFILE], [errno.EACCES, errno.ELOOP]
"""Of each kind some; `tests/unit/runtime/test_faults.py` has the whole table."""
Call = Callable[..., Any]


@pytest.fixture
def data(footage: Path, tmp_path: Path) -> Path:
    """Two good clips with captions."""
    for name, source in (("a", "plain.mp4"), ("b", "fast.mp4")):
        copy(footage / source, tmp_path / f"data/videos/{name}.mp4")
        (tmp_path / "data/labels").mkdir(exist_ok=True)
        (tmp_path / f"data/labels/{name}.txt").write_text(f"caption of {name}")
    return tmp_path / "data"


def failing(call: Call, ending: str, number: int) -> Call:
    """``call``, that fails with ``number`` for a path that ends so."""

    def other(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith(ending):
            raise OSError(number, os.strerror(number), str(path))
        return call(path, *args, **kwargs)

    return other


def at_list(patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(os, "scandir", failing(os.scandir, "videos", number))


def at_look_of_a_caption(patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(os, "lstat", failing(os.lstat, "a.txt", number))


def at_open_of_a_caption(patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(os, "open", failing(os.open, "a.txt", number))


def at_read_of_a_caption(patch: pytest.MonkeyPatch, number: int) -> None:
    real = os.open
    opened: list[int] = []

    def remember(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor = real(path, *args, **kwargs)
        opened.extend([descriptor] * str(path).endswith("a.txt"))
        return descriptor

    def fails(descriptor: Any) -> os.stat_result:
        if descriptor in opened:
            opened.remove(descriptor)  # its number is given to the next file
            raise OSError(number, os.strerror(number))
        return status(descriptor)

    status = os.fstat
    patch.setattr(os, "open", remember)
    patch.setattr(os, "fstat", fails)


def at_read_of_a_clip(patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(module, "file_digest", failing(module.file_digest, "a.mp4", number))


def at_open_of_the_memo(patch: pytest.MonkeyPatch, number: int) -> None:
    patch.setattr(io, "open", failing(io.open, "memo.jsonl", number))


def look(data: Path, workers: int = 1) -> ScanResult:
    return scan({"train": [data]}, Memo(data.parent / "memo.jsonl"), workers=workers)


OF_FILES = [at_open_of_a_caption, at_read_of_a_caption, at_read_of_a_clip]


@pytest.mark.parametrize("number", MACHINE, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", [at_list, at_look_of_a_caption, *OF_FILES, at_open_of_the_memo])
def test_the_machine_ends_the_scan(data: Path, where: Call, number: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        where(patch, number)
        with pytest.raises(UserError, match=f"{os.strerror(number)}; this is an error of the machine"):
            look(data)
    found = look(data)
    assert [row.name for row in found.rows] == ["videos/a.mp4", "videos/b.mp4"]
    assert not found.rejects


@pytest.mark.parametrize("number", FILE, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", OF_FILES)
def test_a_file_is_rejected_for_its_own_fault(data: Path, where: Call, number: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        where(patch, number)
        found = look(data)
    assert [row.name for row in found.rows] == ["videos/b.mp4"]
    assert [(reject.name, reject.reason) for reject in found.rejects] == [
        ("videos/a.mp4", f"cannot be read: {os.strerror(number)}")
    ]
    assert len(look(data).rows) == 2


@pytest.mark.parametrize("number", [*MACHINE, *FILE], ids=errno.errorcode.get)
def test_a_memo_that_cannot_be_written_never_rejects(data: Path, number: int) -> None:
    (data.parent / "memo.jsonl").touch()
    with pytest.MonkeyPatch.context() as patch:
        real = Path.open

        def fails(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode == "a":
                raise OSError(number, os.strerror(number))
            return real(path, mode, *args, **kwargs)

        patch.setattr(Path, "open", fails)
        with pytest.raises(UserError, match=rf"memo.jsonl: .*{os.strerror(number)}"):
            look(data, workers=2)
    assert len(look(data).rows) == 2


@pytest.mark.parametrize("number", MACHINE, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", [at_list, at_look_of_a_caption])
def test_the_machine_ends_the_plan(data: Path, where: Call, number: int) -> None:
    """A key that was made of what could be seen just now would find other clips, and train anew."""
    with pytest.MonkeyPatch.context() as patch:
        where(patch, number)
        with pytest.raises(UserError, match="this is an error of the machine"):
            fingerprint({"train": [data]})


def test_a_folder_that_may_not_be_listed_is_one_reject(data: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        (data / "videos/closed").mkdir()
        patch.setattr(os, "scandir", failing(os.scandir, "closed", errno.EACCES))
        found = look(data)
    assert [row.name for row in found.rows] == ["videos/a.mp4", "videos/b.mp4"]
    assert [(reject.name, reject.reason) for reject in found.rejects] == [
        ("videos/closed/", "a folder that cannot be read: Permission denied")
    ]

"""Downloads where the machine refuses: no server is asked, the request itself is replaced where it would fail."""

import errno
import hashlib
import io
import sys
from pathlib import Path

import pytest

from cogtune.commands import hub_download, weights_get
from cogtune.commands.hub_download import HubFile, Listing, download
from cogtune.errors import UserError
from cogtune.runtime.directory import alone_in

COMMIT = "0123456789" * 4
CONTENT = b"ten bytes!"
FILE = HubFile("folder/x.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "")
LISTING = Listing("me/model", COMMIT, (FILE,))


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the disk is full; free space and run the same command again",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
    ],
)
def test_a_full_disk_keeps_what_came(
    error: OSError, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(listing: Listing, file: HubFile, part: Path) -> None:
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(CONTENT[:5])
        raise error

    monkeypatch.setattr(hub_download, "_get", half)
    with pytest.raises(UserError, match=rf"me/model@{COMMIT}: folder/x\.bin: {text}"):
        download(LISTING, LISTING.files, tmp_path)
    assert not (tmp_path / FILE.path).exists()
    assert hub_download.missing_bytes(LISTING.files, tmp_path) == 5


def test_other_errors_of_the_disk_are_not_blamed_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(hub_download, "_get", refuse)
    with pytest.raises(PermissionError):
        download(LISTING, LISTING.files, tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with alone_in(tmp_path, wait=False):
        with pytest.raises(UserError, match="another process downloads into this folder"):
            download(LISTING, LISTING.files, tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_unfinished_files_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target/.incomplete").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a symbolic link"):
        download(LISTING, LISTING.files, tmp_path / "target")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_does_not_fit_on_the_disk_is_refused_before(tmp_path: Path) -> None:
    huge = HubFile("x", 10**18, "0" * 64, "")
    job = weights_get.Job(Listing("me/model", COMMIT, (huge,)), (huge,), tmp_path / "weights/x")
    with pytest.raises(UserError, match=r"1e\+09 GB to download, .* free; free space, or use another disk"):
        weights_get._download_all([job], yes=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "accepted"), [("y\n", True), ("Yes\n", True), ("\n", False), ("no\n", False)])
def test_the_question(answer: str, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(hub_download, "_get", lambda listing, file, part: part.write_bytes(CONTENT))
    job = weights_get.Job(LISTING, LISTING.files, tmp_path / "weights")
    if accepted:
        assert weights_get._download_all([job], yes=False) == [{FILE.path: FILE.sha256}]
        assert (tmp_path / "weights" / FILE.path).read_bytes() == CONTENT
        return
    with pytest.raises(UserError, match="not confirmed; nothing was downloaded"):
        weights_get._download_all([job], yes=False)
    assert not (tmp_path / "weights").exists()


def test_sizes_are_written_as_on_the_hub() -> None:
    assert [weights_get.size_text(size) for size in (0, 999, 10**6, 862 * 10**6, 11_150_000_000)] == [
        "0 B", "999 B", "1 MB", "862 MB", "11.2 GB",
    ]  # fmt: skip

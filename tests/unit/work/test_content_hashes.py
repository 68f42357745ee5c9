"""What is read is what the key says: a table of (how a file is replaced) x (when), on real content_hashes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.work import content_hashes
from cogtune.work.content_hashes import ContentHashes, Source, proven, restamped, stamp_of

OLD, NEW = b"old content", b"new content"
assert len(OLD) == len(NEW)


def put_back(path: Path, stat: os.stat_result) -> None:
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def in_place(path: Path) -> None:
    path.write_bytes(NEW + b", longer")


def in_place_same_size(path: Path) -> None:
    path.write_bytes(NEW)


def in_place_mtime_put_back(path: Path) -> None:
    before = path.stat()
    path.write_bytes(NEW)
    put_back(path, before)


def renamed_over(path: Path) -> None:
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(NEW)
    put_back(other, before)
    other.replace(path)


def removed(path: Path) -> None:
    path.unlink()


HOW = [in_place, in_place_same_size, in_place_mtime_put_back, renamed_over, removed]
Replace = Callable[[Path], None]


@pytest.fixture(params=["file", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Source, Path]:
    """A source as the main process cuts it, and the file in it that the tests replace."""
    root = tmp_path / "weights"
    path = root if request.param == "file" else root / "inner/model.bin"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(OLD)
    return ContentHashes(tmp_path / "hashes.json").source(root, "args.load"), path


@pytest.mark.parametrize("replace", HOW)
@pytest.mark.parametrize("known", [True, False], ids=["stamp", "no stamp"])
def test_replaced_before_it_is_read(source: tuple[Source, Path], replace: Replace, known: bool) -> None:
    told, path = source
    if not known:
        told = Source(told.path, told.content, "", told.key)
    replace(path)
    with (
        pytest.raises(UserError, match=r"^args\.load: .*weights: (changed since this job|cannot be read)"),
        proven([told]),
    ):
        pytest.fail("the block ran")


@pytest.mark.parametrize("replace", HOW)
@pytest.mark.parametrize("fails", [True, False], ids=["reader fails", "reader does not notice"])
def test_replaced_while_it_is_read(source: tuple[Source, Path], replace: Replace, fails: bool) -> None:
    """Also where the reader stumbles over it: a video that was cut off is then no reject for good."""
    told, path = source

    def read() -> None:
        with proven([told]):
            replace(path)
            if fails:
                raise ValueError("damaged")

    with pytest.raises(UserError, match=r"changed while it was read|cannot be read"):
        read()


@pytest.mark.parametrize("replace", HOW)
def test_the_block_can_ask_before_it_stores_something(source: tuple[Source, Path], replace: Replace) -> None:
    stored = []

    def work() -> None:
        with proven([source[0]]) as check:
            check()
            stored.append("first")
            replace(source[1])
            check()
            stored.append("second")

    with pytest.raises(UserError):
        work()
    assert stored == ["first"]


@pytest.mark.parametrize("replace", [in_place, in_place_same_size, in_place_mtime_put_back, renamed_over])
def test_the_next_plan_sees_the_new_content(source: tuple[Source, Path], tmp_path: Path, replace: Replace) -> None:
    hashes = ContentHashes(tmp_path / "hashes.json")
    before = hashes.of(source[0].path)
    hashes.save()
    replace(source[1])
    assert ContentHashes(tmp_path / "hashes.json").of(source[0].path) != before


def test_what_did_not_change_is_not_read_again(source: tuple[Source, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_hashes, "file_digest", lambda path: pytest.fail(f"{path} was hashed"))
    with proven([source[0]]) as check:
        check()
    assert restamped([source[0]]) == [source[0]]


def test_equal_content_elsewhere_in_time_is_read_once(
    source: tuple[Source, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Touched, or copied back from a backup: hashed once in a process, and whoever gets the new stamp does not hash it."""
    told, path = source
    shutil.copy(path, path.with_name("backup"))
    path.with_name("backup").replace(path)
    assert stamp_of(told.path) != told.stamp
    reads = []
    digest = content_hashes.file_digest
    monkeypatch.setattr(content_hashes, "file_digest", lambda path: reads.append(path) or digest(path))
    for _ in range(3):
        with proven([told]):
            pass
    (again,) = restamped([told])
    assert reads == [path]
    monkeypatch.setattr(content_hashes, "_PROVED", {})
    with proven([again]):
        pass
    assert reads == [path]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "5", '{"%s": 5}', '{"%s": []}', '{"%s": [1, 2, 3, 4]}'])
def test_a_memo_that_says_nothing_costs_one_read(tmp_path: Path, content: str) -> None:
    path, memo = tmp_path / "w.pt", tmp_path / "hashes.json"
    path.write_bytes(OLD)
    memo.write_text(content.replace("%s", str(path)))
    hashes = ContentHashes(memo)
    assert hashes.of(path) == ContentHashes(tmp_path / "none.json").of(path)
    hashes.save()


def test_a_flipped_bit_in_the_memo_gives_no_other_content(tmp_path: Path) -> None:
    path, memo = tmp_path / "w.pt", tmp_path / "hashes.json"
    path.write_bytes(OLD)
    hashes = ContentHashes(memo)
    right = hashes.of(path)
    hashes.save()
    whole = memo.read_bytes()
    for place in range(0, len(whole), 5):
        memo.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert ContentHashes(memo).of(path) == right


def test_a_memo_of_an_earlier_version_costs_one_read(tmp_path: Path) -> None:
    path, memo = tmp_path / "w.pt", tmp_path / "hashes.json"
    path.write_bytes(OLD)
    status = path.stat()
    memo.write_text(f'{{"{path}": [{status.st_size}, {status.st_mtime_ns}, "0000"]}}')
    assert ContentHashes(memo).of(path) == ContentHashes(tmp_path / "none.json").of(path)

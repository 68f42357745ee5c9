"""What is read back: sealed JSON and SHA256SUMS."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cogtune.runtime.saved import (
    SUMS,
    DamagedError,
    check_sums,
    drop_unreadable_sums,
    read_sealed,
    write_sealed,
    write_sums,
)

KEYS = {"step": int, "name": str, "files": dict}
VALUE: dict[str, Any] = {"step": 6, "name": "ä", "files": {"a": "x"}, "rate": 0.1}


@pytest.mark.parametrize("wrong", ["[]", "null", "7", "{", "", '{"step": 6}', '{"step": "6", "name": "", "files": {}}'])
def test_another_shape_is_told_with_the_file(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(wrong)
    with pytest.raises(DamagedError, match=r"record\.json: .*; do this"):
        read_sealed(path, KEYS, "do this")


@pytest.mark.parametrize("key", VALUE)
@pytest.mark.parametrize("value", [None, 5, "other", [], {}, True])
def test_no_edited_value_passes(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "record.json"
    write_sealed(path, VALUE)
    assert read_sealed(path, KEYS, "do this") == VALUE
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(DamagedError, match=r"record\.json: .*; do this"):
        read_sealed(path, KEYS, "do this")


def test_what_was_written_without_a_checksum_is_read(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(VALUE))
    assert read_sealed(tmp_path / "record.json", KEYS, "") == VALUE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "export" / "0123456789ab"
    (folder / "transformer").mkdir(parents=True)
    for name in ("a.bin", "transformer/b.bin", "transformer/c.bin"):
        (folder / name).write_bytes(name.encode())
        write_sums(folder, [folder / name])
    return folder


@pytest.mark.parametrize("name", ["a.bin", "transformer/b.bin", "transformer/c.bin"])
@pytest.mark.parametrize("gone", [False, True])
def test_files_are_held_against_the_sums(folder: Path, name: str, gone: bool) -> None:
    assert check_sums(folder)
    if gone:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"other")
    for asked in {folder, folder / name, (folder / name).parent}:
        with pytest.raises(DamagedError, match=rf"{name}: .*`cogtune store verify {folder.name} --repair"):
            check_sums(asked)
    other = "a.bin" if "/" in name else "transformer"
    assert check_sums(folder / other), "what is not asked for is not looked at"


def test_without_sums_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    assert not check_sums(tmp_path / "weights.bin")


def test_a_folder_that_was_copied_elsewhere_is_checked_too(folder: Path, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "mine")
    assert check_sums(moved / "a.bin")
    (moved / "a.bin").write_bytes(b"edited")
    with pytest.raises(DamagedError, match=f"delete the {SUMS}"):
        check_sums(moved / "a.bin")


@pytest.mark.parametrize("sums", [b"no sums\n", b"\xff\xfe\n", b"0" * 64 + b" a.bin\n"])
def test_sums_that_do_not_read_are_refused_and_can_be_dropped(folder: Path, sums: bytes) -> None:
    whole = (folder / SUMS).read_bytes()
    (folder / SUMS).write_bytes(whole + sums)
    for use in (check_sums, lambda place: write_sums(place, [place / "a.bin"])):
        with pytest.raises(DamagedError, match=f"{SUMS}: does not read; `cogtune store verify"):
            use(folder)
    drop_unreadable_sums(folder)
    write_sums(folder, list(folder.rglob("*.bin")))
    assert (folder / SUMS).read_bytes() == whole
    drop_unreadable_sums(folder)
    assert check_sums(folder), "sums that read are left alone"


def test_coreutils_reads_the_sums(folder: Path) -> None:
    try:
        done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no sha256sum here")
    assert done.returncode == 0


@pytest.mark.parametrize("line", ["../x", "/etc/passwd", "a//b"])
def test_a_name_that_leads_out_of_the_folder_is_not_followed(folder: Path, line: str) -> None:
    (folder / SUMS).write_text(f"{'0' * 64}  {line}\n")
    with pytest.raises(Exception, match=r"SHA256SUMS: names"):
        check_sums(folder)

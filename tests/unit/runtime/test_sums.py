"""SHA256SUMS: what is listed, what a flipped bit in it or in a file does, and what is left after a repair."""

import subprocess
from pathlib import Path

import pytest

from cogtune.runtime.saved import SUMS, DamagedError
from cogtune.runtime.sums import check_sums, compare_sums, names_in_sums, rewrite_sums, write_sums

NAMES = ("a.bin", "transformer/b.bin", "transformer/c.bin")


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
    with pytest.raises(DamagedError, match=f"delete its {SUMS}"):
        check_sums(moved / "a.bin")


@pytest.mark.parametrize("sums", [b"no sums\n", b"\xff\xfe\n", b"0" * 64 + b" a.bin\n"])
@pytest.mark.parametrize("sealed", [True, False])
def test_sums_that_do_not_read_are_refused(folder: Path, sums: bytes, sealed: bool) -> None:
    if not sealed:
        as_an_earlier_version(folder)
    (folder / SUMS).write_bytes((folder / SUMS).read_bytes() + sums)
    for use in (check_sums, names_in_sums, lambda place: write_sums(place, [place / "a.bin"])):
        with pytest.raises(DamagedError, match=f"{SUMS}: damaged; `cogtune store verify"):
            use(folder)


def as_an_earlier_version(folder: Path) -> None:
    """Without the seal."""
    lines = (folder / SUMS).read_text().splitlines(keepends=True)
    (folder / SUMS).write_text("".join(line for line in lines if line[0] != "#"))


@pytest.mark.heavy
def test_no_flipped_bit_of_the_sums_passes_and_the_rest_proves_the_files(folder: Path) -> None:
    """Whatever bit it is, in a name, a checksum, a line end or the seal; then the files are listed as before."""
    whole = (folder / SUMS).read_bytes()
    intact = compare_sums(folder, NAMES)
    assert intact is not None
    assert (set(intact.proven), intact.damaged, intact.intact, intact.sealed) == (set(NAMES), {}, True, True)
    for place in range(0, 8 * len(whole), 3):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        (folder / SUMS).write_bytes(flipped)
        comparison = compare_sums(folder, NAMES)
        assert comparison is not None
        assert not comparison.intact, flipped
        assert (set(comparison.proven), comparison.damaged, comparison.sealed) == (set(NAMES), {}, True), flipped
        if place % 48:  # each writes to the disk
            continue
        rewrite_sums(folder, comparison)
        assert (folder / SUMS).read_bytes() == whole


def test_a_file_that_is_not_listed_is_damage_only_under_a_seal(folder: Path) -> None:
    (folder / "view.mp4").write_bytes(b"x")
    comparison = compare_sums(folder, [*NAMES, "view.mp4"])
    assert comparison is not None
    assert comparison.damaged == {"view.mp4": "is not listed"}
    as_an_earlier_version(folder)
    comparison = compare_sums(folder, [*NAMES, "view.mp4"])
    assert comparison is not None
    assert (comparison.damaged, comparison.sealed) == ({}, False)
    assert check_sums(folder)
    write_sums(folder, [folder / "view.mp4"])
    assert names_in_sums(folder) is None, "it does not list every file, so it gets no seal"


def test_a_damaged_file_is_not_proven_by_damaged_sums(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"a.bim")
    (folder / SUMS).write_bytes((folder / SUMS).read_bytes().replace(b"# sha", b"# shb"))
    comparison = compare_sums(folder, NAMES)
    assert comparison is not None
    assert set(comparison.damaged) == {"a.bin"}
    assert set(comparison.proven) == set(NAMES[1:])
    (folder / "a.bin").unlink()
    rewrite_sums(folder, comparison)
    assert names_in_sums(folder) == set(NAMES[1:])


def test_coreutils_reads_the_sums(folder: Path) -> None:
    try:
        done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no sha256sum here")
    assert done.returncode == 0


@pytest.mark.parametrize("line", ["../x", "/etc/passwd", "a//b"])
def test_a_name_that_leads_out_of_the_folder_is_not_followed(folder: Path, line: str) -> None:
    (folder / SUMS).write_text(f"{'0' * 64}  {line}\n")
    with pytest.raises(Exception, match=r"SHA256SUMS: contains the path"):
        check_sums(folder)

"""SHA256SUMS: checksums of a folder's files in the format of coreutils; ``sha256sum -c`` can read it.

The last line is a comment with the checksum of the lines above (the seal). A sealed file lists every file that a stage
wrote to the folder, so a damaged name cannot hide a file from the check. Earlier versions wrote no seal and listed fewer
files, or wrote no SHA256SUMS: unlisted files are used unchecked.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cogtune.errors import UserError
from cogtune.runtime.atomic import write_changed
from cogtune.runtime.paths import inside, is_key
from cogtune.runtime.saved import SUMS, DamagedError, how_to_repair

_log = logging.getLogger(__name__)
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_SEAL = "# sha256 of the lines above: "


@dataclass(frozen=True)
class Comparison:
    """The result of comparing a folder's files with its SHA256SUMS.

    ``proven``: name -> checksum of each intact file. ``damaged``: name -> what is wrong with the file.
    ``intact``: whether SHA256SUMS itself is intact. ``sealed``: whether it lists every file that the stage wrote.
    """

    proven: dict[str, str]
    damaged: dict[str, str]
    intact: bool
    sealed: bool


def write_sums(folder: Path, files: Iterable[Path] = ()) -> None:
    """Add the checksums of ``files`` to ``folder``/SHA256SUMS. A file of an earlier version does not get a seal, as it
    does not list every file. Raises DamagedError."""
    sums, sealed = _read(folder) if (folder / SUMS).exists() else ({}, True)
    for path in files:
        sums[path.relative_to(folder).as_posix()] = _digest(path)
    _write(folder, sums, sealed)


def drop_sums(folder: Path, names: Iterable[str]) -> None:
    """Remove the lines of ``names``, which are about to be removed, from ``folder``/SHA256SUMS. Raises DamagedError."""
    if (folder / SUMS).exists():
        sums, sealed = _read(folder)
        dropped = set(names)
        _write(folder, {name: digest for name, digest in sums.items() if name not in dropped}, sealed)


def names_in_sums(folder: Path) -> set[str] | None:
    """The files in a sealed SHA256SUMS; None if there is none, or one of an earlier version. Raises
    DamagedError."""
    if not (folder / SUMS).exists():
        return None
    sums, sealed = _read(folder)
    return set(sums) if sealed else None


def names_checked(folder: Path, own: Iterable[str]) -> set[str]:
    """The files that `compare_sums` checks: those listed in valid lines of SHA256SUMS, and ``own`` if it is sealed."""
    if not (folder / SUMS).is_file():
        return set()
    content = (folder / SUMS).read_bytes()
    listed = {line[2] for line in map(_LINE.fullmatch, _text(content.split(b"\n"))) if line}
    return listed | (set(own) if _is_sealed(content) else set())


def check_sums(path: Path) -> bool:
    """Verify a file, or all files of a folder, with the SHA256SUMS in it or in one of the two folders above.

    False if no SHA256SUMS lists it: it is from an earlier version, or not from cogtune. Raises DamagedError.
    """
    for folder in (path, path.parent, path.parent.parent):
        if not (folder / SUMS).is_file():
            continue
        prefix = "" if folder == path else path.relative_to(folder).as_posix()
        sums = {name: digest for name, digest in _read(folder)[0].items() if _is_below(name, prefix)}
        for name, expected in sums.items():
            file = inside(folder, name, folder / SUMS)
            if why := _difference(file, expected):
                raise DamagedError(f"{file}: {why} ({SUMS}); {how_to_repair(_result_of(folder))}")
        if sums:
            return True
    return False


def compare_sums(folder: Path, own: Iterable[str]) -> Comparison | None:
    """Compare the files in SHA256SUMS with those on disk. ``own``: names of files that a stage writes here.

    If SHA256SUMS itself is damaged, a file still counts as proven if a line differs by one bit from the expected one.
    None if there is no SHA256SUMS.
    """
    if not (folder / SUMS).is_file():
        return None
    try:
        sums, sealed = _read(folder)
    except DamagedError:
        return _compare_damaged(folder, own)
    proven, damaged = dict[str, str](), dict[str, str]()
    for name, expected in sums.items():
        try:
            why = _difference(inside(folder, name, folder / SUMS), expected)
        except UserError:
            return _compare_damaged(folder, own)
        if why:
            damaged[name] = why
        else:
            proven[name] = expected
    if sealed:
        damaged |= {name: "is not listed" for name in own if name not in sums}
    return Comparison(proven, damaged, True, sealed)


def rewrite_sums(folder: Path, comparison: Comparison) -> None:
    """Rewrite SHA256SUMS with the proven files that still exist."""
    kept = {name: digest for name, digest in comparison.proven.items() if (folder / name).is_file()}
    if kept or comparison.sealed:
        _write(folder, kept, comparison.sealed)
    else:
        (folder / SUMS).unlink(missing_ok=True)


def say_unchecked(path: Path) -> None:
    """Warn once per process and path that it has no checksums."""
    if path not in _TOLD:
        _TOLD.add(path)
        _log.warning("%s: has no checksums (written by an earlier version); used unchecked", path)


_TOLD: set[Path] = set()


def _compare_damaged(folder: Path, own: Iterable[str]) -> Comparison:
    content = (folder / SUMS).read_bytes()
    lines = content.split(b"\n")
    listed = {line[2] for line in map(_LINE.fullmatch, _text(lines)) if line}
    sealed = _is_sealed(content)
    proven, damaged = dict[str, str](), dict[str, str]()
    for name in sorted(listed | set(own)):
        try:
            path = inside(folder, name, folder / SUMS)
        except UserError:
            continue
        if not path.is_file():
            continue  # a damaged name, or a missing file, which the check of its stage reports
        digest = _digest(path)
        expected = f"{digest}  {name}".encode()
        if expected in content or any(_differing_bits(line, expected) == 1 for line in lines):
            proven[name] = digest
        elif sealed or name in listed:
            damaged[name] = f"cannot be verified: its line in {SUMS} or the file is damaged"
    return Comparison(proven, damaged, False, sealed)


def _is_sealed(content: bytes) -> bool:
    """Whether there is a seal, intact or damaged."""
    half = len(_SEAL) // 2
    return _SEAL[:half].encode() in content or _SEAL[half:].encode() in content


def _text(lines: Iterable[bytes]) -> list[str]:
    return [line.decode(errors="replace") for line in lines]


def _differing_bits(one: bytes, other: bytes) -> int:
    """The number of differing bits of two texts; 8 per byte if their lengths differ."""
    if len(one) != len(other):
        return 8 * max(len(one), len(other))
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def _difference(path: Path, expected: str) -> str:
    if path.is_file():
        return "" if _digest(path) == expected else "checksum mismatch"
    return "is not a file" if path.exists() else "missing"


def _result_of(folder: Path) -> Path:
    """The folder of the store that a folder with SHA256SUMS belongs to: itself, or the one above (train's final/)."""
    return folder.parent if is_key(folder.parent.name) else folder


def _is_below(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + "/")


def _write(folder: Path, sums: Mapping[str, str], sealed: bool) -> None:
    text = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    write_changed(folder / SUMS, text + (f"{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n" if sealed else ""))


def _read(folder: Path) -> tuple[dict[str, str], bool]:
    """(name -> checksum, whether the file is sealed). Raises DamagedError."""
    path = folder / SUMS
    text = path.read_bytes().decode(errors="replace")
    body, mark, seal = text.rpartition(_SEAL)
    lines = [_LINE.fullmatch(line) for line in (body if mark else text).split("\n")[:-1]]
    broken = mark and seal != hashlib.sha256(body.encode()).hexdigest() + "\n"
    if broken or not all(lines) or not text.endswith("\n") or (not text and not mark):
        raise DamagedError(f"{path}: damaged; {how_to_repair(_result_of(folder))}")
    return {line[2]: line[1] for line in lines if line}, bool(mark)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

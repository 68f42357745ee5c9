"""Detect files of a repository cloned without Git LFS: pointers of 130 bytes instead of the content."""

from pathlib import Path

_BEGINNING = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_LARGEST = 1024
"""Maximum bytes of a pointer, by the specification."""


def is_pointer(content: bytes) -> bool:
    """Whether the content of a file is a Git LFS pointer."""
    return len(content) <= _LARGEST and content.startswith(_BEGINNING)


def is_pointer_file(path: Path) -> bool:
    """Whether ``path`` is a Git LFS pointer. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return is_pointer(file.read(_LARGEST + 1))


def advice(path: Path) -> str:
    """The message for a pointer, with advice."""
    return f"is a Git LFS pointer, not the file itself; run `git lfs pull` in {path.absolute().parent}, then the same command again"

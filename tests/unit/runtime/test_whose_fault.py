"""Whose fault an error is."""

import errno

import pytest

from cogtune.runtime.failures import is_environment_error, machine_error_message

MACHINE = [
    "ENOSPC",
    "EDQUOT",
    "EIO",
    "EROFS",
    "EMFILE",
    "ENFILE",
    "ENOMEM",
    "EAGAIN",
    "ESTALE",
    "ENOTCONN",
    "ETIMEDOUT",
    "EHOSTDOWN",
]
FILE = ["ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "EACCES", "EPERM", "ENAMETOOLONG", "ENXIO", "ENODEV", "EINVAL"]


@pytest.mark.parametrize("name", MACHINE)
def test_of_the_machine(name: str) -> None:
    error = OSError(getattr(errno, name), "words")
    assert is_environment_error(error)
    assert str(machine_error_message(error, "/d/a.mp4")).startswith("/d/a.mp4: words; this is an error of the machine")


@pytest.mark.parametrize("name", FILE)
def test_of_the_file(name: str) -> None:
    error = OSError(getattr(errno, name), "words")
    assert not is_environment_error(error)
    assert machine_error_message(error, "/d/a.mp4") is None


def test_other_errors() -> None:
    assert is_environment_error(MemoryError())
    assert "out of memory" in str(machine_error_message(MemoryError(), "/d/a.mp4"))
    # libraries make an OSError of what they think of a file, without a number or with one of their own
    assert not any(
        map(is_environment_error, [OSError("no picture"), OSError(1094995529, "Invalid data"), ValueError()])
    )

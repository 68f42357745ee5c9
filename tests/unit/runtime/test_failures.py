"""What a machine refuses ends in one sentence, whoever raised it; what is a defect keeps its traceback."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cogtune import __main__ as main
from cogtune.commands import config
from cogtune.errors import UserError
from cogtune.runtime import atomic
from cogtune.runtime.failures import explain, explained


def raised(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011  whatever it is
        call()
    return caught.value


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_numbers_of_the_system(number: int) -> None:
    told = explain(OSError(number, os.strerror(number), "/data/store/x.safetensors"))
    assert isinstance(told, UserError)
    assert "/data/store/x.safetensors: " in str(told)
    assert "\n" not in str(told)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("std::bad_alloc"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=["python", "torch", "c++", "gpu", "system"],
)
def test_memory(error: BaseException) -> None:
    assert "out of" in str(explain(error))


def test_the_allocator_itself_is_known() -> None:
    assert "out of memory" in str(explain(raised(lambda: torch.empty(1 << 60))))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disks_of_those_who_write(tmp_path: Path) -> None:
    """Python, torch and safetensors each have words of their own for it."""

    def plainly() -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    def with_torch() -> None:
        torch.save({"x": torch.zeros(1 << 20)}, "/dev/full")

    for write in (plainly, with_torch):
        assert "no space left" in str(explain(raised(write))), write


def test_safetensors_on_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Not a fault of the machine: a defect keeps its traceback."""
    assert explain(raised(lambda: save_file({"x": np.zeros(1)}, tmp_path / "none" / "x"))) is None


def test_a_cause_is_found_and_a_defect_is_not_explained() -> None:
    def outer() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/x")
        except OSError as error:
            raise RuntimeError("cannot save") from error

    assert "/x: no space left" in str(explain(raised(outer)))
    for defect in (KeyError("x"), ValueError("y"), RuntimeError("z"), FileNotFoundError(errno.ENOENT, "none", "f")):
        assert explain(defect) is None
    with pytest.raises(KeyError), explained():
        raise KeyError("x")


def test_the_file_is_named_and_not_its_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    told = str(explain(raised(lambda: atomic.write_text(tmp_path / "a.json", "text"))))
    assert told.startswith(f"{tmp_path / 'a.json'}: no space left")
    assert list(tmp_path.iterdir()) == []


def test_the_command_ends_with_one_sentence_and_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "store/slices/x.json")

    monkeypatch.setattr(config, "run", fail)
    assert main.main(["config", "explain", "args.seed"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("cogtune: store/slices/x.json: no write permission")
    assert said.count("\n") == 1

"""Makes the n-th write, fsync or rename of a process fail, as a full disk or a failing one does.

Python's own calls are replaced, and the three writers that write by themselves: safetensors, torch and ffmpeg fail with
the errors that they give on a full tmpfs. Only files below one folder count. Use it in a process of its own. A process
that is forked from that one, such as a rank of training, counts its own calls; a disk that is full is full for all.
"""

import builtins
import errno
import io
import json
import mmap
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = str(Path(__file__).resolve().parents[1] / "src" / "cogtune")
FULL, BROKEN = "full", "broken"
"""A disk that is full from the n-th call on, which takes half of that write; one input/output error."""


MAIN = "main"


@dataclass(frozen=True)
class Call:
    """Call ``number`` (from 1) of ``process``; ``site`` is the innermost line of ours."""

    process: str
    number: int
    kind: str
    site: str


@dataclass
class Faults:
    """Counts the calls below ``root``; one that has the process and the number of ``fail`` fails."""

    root: Path
    fail: Call | None = None
    how: str = FULL
    process: str = MAIN
    _number: int = 0
    _paused: bool = False
    _full: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 1))  # shared with forked processes
    _record: int = -1

    def install(self, record: Path) -> None:
        """Replace the calls, for the rest of this process and of those forked from it. ``record`` gets every call."""
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        for name in ("replace", "rename", "link", "symlink"):
            setattr(os, name, self._named(name, getattr(os, name)))
        os.fsync = self._fsync(os.fsync)
        builtins.open = io.open = self._open(io.open)
        self._writers()

    def entered(self, process: str) -> None:
        """Count from 1 again: this is a forked process, ``process``."""
        self.process, self._number = process, 0

    def due(self, kind: str) -> bool:
        """Count a call; whether it fails."""
        if self._paused:
            return False
        self._number += 1
        call = Call(self.process, self._number, kind, _site())
        os.write(self._record, (json.dumps(vars(call)) + "\n").encode())
        due = self.fail is not None and (call.process, call.number) == (self.fail.process, self.fail.number)
        if due and self.how == FULL:
            self._full[0] = 1
        stays_full = self._full[0] and kind in ("write", "writer", "print")  # a rename needs no space
        return due or bool(stays_full)

    def error(self, path: object) -> OSError:
        """What the system says."""
        number = errno.ENOSPC if self.how == FULL else errno.EIO
        return OSError(number, os.strerror(number), str(path))

    def inside(self, path: Any) -> bool:
        """Whether a path, or an open file's descriptor, is below the folder."""
        try:
            text = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fspath(path))
        except OSError:
            return False
        return str(text).startswith(f"{self.root}/")

    def _named(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Any, target: Any, *more: Any, **options: Any) -> Any:
            if self.inside(target) and self.due(kind):
                raise self.error(target)
            return real(source, target, *more, **options)

        return call

    def _fsync(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int) -> None:
            if self.inside(descriptor) and self.due("fsync"):
                number = errno.ENOSPC if self.how == FULL else errno.EIO
                raise OSError(number, os.strerror(number))  # it knows no name
            real(descriptor)

        return call

    def _open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            opened = real(file, mode, *more, **options)
            writes = bool(set("wax+") & set(mode)) and not isinstance(file, int) and self.inside(file)
            return CountedFile(opened, self, file) if writes else opened

        return call

    def _writers(self) -> None:
        import imageio.v2
        import imageio.v3
        import safetensors.torch
        import torch

        def half(path: Any) -> None:
            data = Path(path).read_bytes()
            Path(path).write_bytes(data[: len(data) // 2])

        def failing(real: Callable[..., Any], at: int, told: Callable[[Any], Exception | None]) -> Callable[..., Any]:
            def call(*given: Any, **options: Any) -> Any:
                path = given[at]
                if not (self.inside(path) and self.due("writer")):
                    return real(*given, **options)
                self._paused = True  # its own calls are not ours
                real(*given, **options)
                half(path)
                self._paused = False
                if error := told(path):
                    raise error
                return None

            return call

        number = errno.ENOSPC if self.how == FULL else errno.EIO
        text = f"I/O error: {os.strerror(number)} (os error {number})"
        safetensors.torch.serialize_file = failing(  # pyright: ignore[reportPrivateImportUsage]
            safetensors.torch.serialize_file,  # pyright: ignore[reportPrivateImportUsage]
            1,
            lambda _: safetensors.SafetensorError(f"Error while serializing: {text}"),
        )
        torch.save = failing(
            torch.save,
            1,
            lambda _: RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        )
        # ffmpeg that ends while the index is written says nothing to imageio; before, the pipe breaks.
        broken = OSError("[Errno 32] Broken pipe\n\nFFMPEG COMMAND:\nffmpeg -y")
        imageio.v2.mimwrite = failing(imageio.v2.mimwrite, 0, lambda _: broken if self.how == FULL else None)
        imageio.v3.imwrite = failing(imageio.v3.imwrite, 0, self.error)


def calls_of(record: Path) -> list[Call]:
    """What `Faults.install` recorded."""
    return [Call(**json.loads(line)) for line in record.read_text().splitlines()]


def _site() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(SOURCE):
            return f"{Path(frame.f_code.co_filename).relative_to(SOURCE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class CountedFile:
    """An open file whose writes count."""

    def __init__(self, file: Any, faults: Faults, path: Any, kind: str = "write") -> None:
        self._file, self._faults, self._path, self._kind = file, faults, path, kind

    def write(self, data: Any) -> int:
        if self._faults.due(self._kind):
            if self._faults.how == FULL:
                self._file.write(data[: len(data) // 2])
                self._file.flush()
            raise self._faults.error(self._path)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "CountedFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

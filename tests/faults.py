"""Makes the n-th write, fsync or rename of a process fail, as a full disk or a failing one does.

Python's own calls are replaced, and the three writers that write by themselves: safetensors, torch and ffmpeg fail with
the errors that they give on a full tmpfs. Only files below one folder count. Use it in a process of its own.
"""

import builtins
import errno
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = str(Path(__file__).resolve().parents[1] / "src" / "cogtune")
FULL, BROKEN = "full", "broken"
"""A disk that is full from the n-th call on, which takes half of that write; one input/output error."""


@dataclass
class Faults:
    """``fail``: number of the call that fails, from 1; None only counts. ``calls``: (kind, innermost line of ours)."""

    root: Path
    fail: int | None = None
    how: str = FULL
    calls: list[tuple[str, str]] = field(default_factory=list)

    def install(self) -> None:
        """Replace the calls, for the rest of this process."""
        for name in ("replace", "rename", "link", "symlink"):
            setattr(os, name, self._named(name, getattr(os, name)))
        os.fsync = self._fsync(os.fsync)
        builtins.open = io.open = self._open(io.open)
        self._writers()

    def due(self, kind: str) -> bool:
        """Count a call; whether it fails."""
        frame, site = sys._getframe(1), "?"
        while frame is not None:
            if frame.f_code.co_filename.startswith(SOURCE):
                site = f"{Path(frame.f_code.co_filename).relative_to(SOURCE)}:{frame.f_lineno}"
                break
            frame = frame.f_back
        self.calls.append((kind, site))
        number = len(self.calls)
        stays_full = self.how == FULL and kind in ("write", "writer")  # a rename needs no space
        return self.fail is not None and (number == self.fail or (number > self.fail and stays_full))

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

    def _named(self, kind: str, real: Callable) -> Callable:
        def call(source: Any, target: Any, *more: Any, **options: Any) -> Any:
            if self.inside(target) and self.due(kind):
                raise self.error(target)
            return real(source, target, *more, **options)

        return call

    def _fsync(self, real: Callable) -> Callable:
        def call(descriptor: int) -> None:
            if self.inside(descriptor) and self.due("fsync"):
                number = errno.ENOSPC if self.how == FULL else errno.EIO
                raise OSError(number, os.strerror(number))  # it knows no name
            real(descriptor)

        return call

    def _open(self, real: Callable) -> Callable:
        def call(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            opened = real(file, mode, *more, **options)
            writes = bool(set("wax+") & set(mode)) and not isinstance(file, int) and self.inside(file)
            return _File(opened, self, file) if writes else opened

        return call

    def _writers(self) -> None:
        import imageio.v2
        import imageio.v3
        import safetensors.torch
        import torch

        def half(path: Any) -> None:
            data = Path(path).read_bytes()
            Path(path).write_bytes(data[: len(data) // 2])

        def failing(real: Callable, at: int, told: Callable[[Any], Exception | None]) -> Callable:
            def call(*given: Any, **options: Any) -> Any:
                path = given[at]
                if not (self.inside(path) and self.due("writer")):
                    return real(*given, **options)
                calls, self.calls = self.calls, []  # its own calls are not ours
                fail, self.fail = self.fail, None
                real(*given, **options)
                half(path)
                self.calls, self.fail = calls, fail
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


class _File:
    """An open file whose writes count."""

    def __init__(self, file: Any, faults: Faults, path: Any) -> None:
        self._file, self._faults, self._path = file, faults, path

    def write(self, data: Any) -> int:
        if self._faults.due("write"):
            if self._faults.how == FULL:
                self._file.write(data[: len(data) // 2])
                self._file.flush()
            raise self._faults.error(self._path)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

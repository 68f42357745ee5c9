"""Content hashes of the files and folders that a config names, remembered by path, size and mtime."""

import hashlib
import json
import os
from pathlib import Path

from cogtune.config.digest import file_digest
from cogtune.config.errors import ConfigError


class ContentHashes:
    """sha256 of files and folders, with a memo that lives in the store (``<store>/hashes.json``).

    The memo trusts (path, size, mtime in ns): overwriting weights in place is seen, moving them costs one read.
    A folder's hash covers the relative names and contents of all files below it, except hidden ones and __pycache__.
    """

    def __init__(self, memo: Path) -> None:
        self._memo_path = memo
        try:
            self._memo: dict[str, list] = json.loads(memo.read_text())
        except (OSError, ValueError):
            self._memo = {}
        self._dirty = False

    def of(self, path: str | os.PathLike[str], key: str = "") -> str:
        """``sha256:<64 hex>`` of the content at ``path``; ``key`` names the config key in the error."""
        target = Path(path)
        if target.is_file():
            return "sha256:" + self._file(target)
        if not target.is_dir():
            raise ConfigError(f"no such file or folder: {target}", key=key)
        state = hashlib.sha256()
        for member in sorted(p for p in target.rglob("*") if p.is_file()):
            name = member.relative_to(target)
            if not any(part.startswith(".") or part == "__pycache__" for part in name.parts):
                state.update(f"{name}\0{self._file(member)}\n".encode())
        return "sha256:" + state.hexdigest()

    def _file(self, path: Path) -> str:
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        known = self._memo.get(str(path.resolve()))
        if known and known[:2] == stamp:
            return known[2]
        found = file_digest(path)
        self._memo[str(path.resolve())] = [*stamp, found]
        self._dirty = True
        return found

    def save(self) -> None:
        """Write the memo if anything was hashed; a lost race between two writers costs one read later."""
        if self._dirty:
            from cogtune.runtime.atomic import write_json

            write_json(self._memo_path, self._memo)
            self._dirty = False

"""`hf://OWNER/NAME[@REVISION][/PATH]` in a config: weights of a repository of the Hugging Face Hub.

Nothing here uses the network. `cogtune weights get hf://…` downloads the files to ``weights/hub/OWNER/NAME/COMMIT/PATH`` and
records commit, sizes and sha256 in ``weights/pins.json``; so does `cogtune weights get NAME` for its folders. Everything else
reads that file: it belongs beside the config, in version control. A branch stays on its commit until `weights get --update`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from cogtune.errors import UserError
from cogtune.runtime.directory import alone_in
from cogtune.runtime.paths import inside, quoted
from cogtune.runtime.typed_json import is_mapping

PREFIX = "hf://"
PINS = Path("weights/pins.json")
FOLDER = Path("weights/hub")
DEFAULT_REVISION = "main"
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubPath:
    """``repository``: OWNER/NAME; ``revision``: branch, tag or commit; ``path``: file or folder in it, or "" for all."""

    repository: str
    revision: str
    path: str

    @property
    def pin(self) -> str:
        """The name of its pin."""
        return f"{self.repository}@{self.revision}"

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{PREFIX}{self.repository}{revision}{'/' if self.path else ''}{self.path}"


def is_hub_path(text: str) -> bool:
    """Whether a path in a config means the Hub."""
    return text.startswith(PREFIX)


def parse_hub_path(text: str) -> HubPath:
    """Raises UserError for an invalid name, revision or path."""
    owner, _, rest = text.removeprefix(PREFIX).partition("/")
    head, _, path = rest.partition("/")
    name, at, revision = head.partition("@")
    path = path.rstrip("/")
    for part, value in (("owner", owner), ("repository", name)):
        if not _NAME.fullmatch(value) or ".." in value or "--" in value:
            raise _invalid(text, f"invalid {part} {quoted(value)}")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _invalid(text, f"invalid revision {quoted(revision)}: a branch or tag without '/', or a commit")
    if path and not is_plain_path(path):
        raise _invalid(text, f"invalid path {quoted(path)}: it must stay inside the repository")
    return HubPath(f"{owner}/{name}", revision if at else DEFAULT_REVISION, path)


def _invalid(text: str, why: str) -> UserError:
    return UserError(f"{quoted(text)}: {why}; expected {PREFIX}OWNER/NAME[@REVISION][/PATH]")


def is_plain_path(path: str) -> bool:
    """Whether a path in a repository is relative, without `..`, hidden parts, backslashes and control characters."""
    try:
        inside(Path(), path, "")
    except UserError:
        return False
    return "\\" not in path and not any(part.startswith(".") for part in path.split("/"))


@dataclass(frozen=True)
class PinnedFile:
    """``sha256``: 64 hex digits; ``size``: bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Pin:
    """A revision that is fixed to a commit. ``files``: path in the repository -> file, of those that were downloaded."""

    repository: str
    commit: str
    files: dict[str, PinnedFile] = field(default_factory=dict[str, PinnedFile])

    @property
    def folder(self) -> Path:
        """The local folder of the commit, relative to the current directory."""
        return FOLDER / self.repository / self.commit

    def below(self, path: str) -> dict[str, PinnedFile]:
        """The files at or below ``path``."""
        return {name: file for name, file in self.files.items() if not path or PurePosixPath(name).is_relative_to(path)}


@dataclass(frozen=True)
class Pins:
    """The content of a pin file; empty if there is none."""

    path: Path = PINS

    @cached_property
    def all(self) -> dict[str, Pin]:
        """Name -> pin. Raises UserError for a damaged file."""
        pins = dict[str, Pin]()
        for name, entry in self._content["pins"].items():
            where = parse_hub_path(f"{PREFIX}{name}")
            if where.path:
                raise self._damaged(f"pin {quoted(name)} has a path")
            pins[name] = self._pin(name, where.repository, entry)
        return pins

    @cached_property
    def folders(self) -> dict[str, Pin]:
        """Folder of a published model, as `cogtune weights get NAME` names it -> what was downloaded into it. Raises
        UserError for a damaged file."""
        folders = dict[str, Pin]()
        for name, entry in self._content.get("folders", {}).items():
            repository = entry.get("repository") if is_mapping(entry) else None
            if not isinstance(repository, str):
                raise self._damaged(f"folder {quoted(name)} has no repository")
            folders[name] = self._pin(name, parse_hub_path(f"{PREFIX}{repository}").repository, entry)
        return folders

    @cached_property
    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"pins": {}}
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from None
        sections = [content.get("pins"), content.get("folders", {})] if is_mapping(content) else []
        if not sections or content.get("format") != _FORMAT or not all(map(is_mapping, sections)):
            raise self._damaged(f"expected format {_FORMAT} with `pins`")
        return dict(content)

    def _pin(self, name: str, repository: str, entry: object) -> Pin:
        commit, files = (entry.get("commit"), entry.get("files")) if is_mapping(entry) else (None, None)
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or not is_mapping(files):
            raise self._damaged(f"pin {quoted(name)} has no commit or files")
        return Pin(repository, commit, {path: self._file(name, path, file) for path, file in files.items()})

    def _file(self, name: str, path: str, file: object) -> PinnedFile:
        sha256, size = (file.get("sha256"), file.get("size")) if is_mapping(file) else (None, None)
        valid = isinstance(sha256, str) and _SHA256.fullmatch(sha256) and isinstance(size, int) and is_plain_path(path)
        if not valid:
            raise self._damaged(f"pin {quoted(name)}: invalid entry {quoted(path)}")
        return PinnedFile(str(sha256), int(size or 0))

    def _damaged(self, why: str) -> UserError:
        return UserError(
            f"{self.path}: invalid pin file ({why}); restore it, or remove it and run `cogtune weights get`"
        )

    def write(self, name: str, pin: Pin) -> None:
        """Add or replace one pin. Those that other processes write meanwhile are kept."""
        self._write({name: pin}, {})

    def write_folder(self, name: str, pin: Pin) -> None:
        """The same for the folder of a published model."""
        self._write({}, {name: pin})

    def _write(self, pins: Mapping[str, Pin], folders: Mapping[str, Pin]) -> None:
        from cogtune.runtime.atomic import write_json

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(self.path.parent, wait=True):
            now = Pins(self.path)
            pins, folders = {**now.all, **pins}, {**now.folders, **folders}
            content = {"format": _FORMAT, "pins": {name: _entry(pin) for name, pin in sorted(pins.items())}}
            if folders:
                content["folders"] = {
                    name: {"repository": pin.repository, **_entry(pin)} for name, pin in sorted(folders.items())
                }
            write_json(self.path, content)


def _entry(pin: Pin) -> dict[str, Any]:
    files = {path: {"sha256": file.sha256, "size": file.size} for path, file in sorted(pin.files.items())}
    return {"commit": pin.commit, "files": files}


@dataclass(frozen=True)
class LocalCopy:
    """The local copy of a hub path. ``path``: relative to the current directory; ``sha256``: absolute path -> hash of each
    pinned file of the commit."""

    path: str
    sha256: dict[str, str]


def local_copy(text: str, pins: Pins) -> LocalCopy:
    """The local copy of `hf://…`. Raises UserError if it is invalid, not pinned, or not (completely) on this disk."""
    where = parse_hub_path(text)
    run = f"run `cogtune weights get {where}`"
    pin = pins.all.get(where.pin)
    files = {} if pin is None else pin.below(where.path)
    if pin is None or not files:
        raise UserError(f"{where}: not in {pins.path}; {run}, which downloads and pins it")
    for name, file in files.items():
        path = pin.folder / name
        if not path.is_file() or path.stat().st_size != file.size:
            state = "has another size than its pin" if path.is_file() else "is missing"
            raise UserError(f"{where}: {path} {state}; {run}, which downloads commit {pin.commit[:12]} again")
    hashes = {os.path.abspath(pin.folder / name): file.sha256 for name, file in pin.files.items()}
    return LocalCopy(str(pin.folder / where.path), hashes)


def pinned_around(path: str, pins: Pins, root: Path = Path()) -> dict[str, str]:
    """Absolute path -> sha256 of the files of the published model in whose folder the absolute ``path`` is; empty if it is
    in none. Raises UserError for a damaged pin file."""
    for name, pin in pins.folders.items():
        folder = os.path.abspath(root / name)
        if PurePosixPath(path).is_relative_to(folder):
            return {os.path.join(folder, file): pinned.sha256 for file, pinned in pin.files.items()}
    return {}

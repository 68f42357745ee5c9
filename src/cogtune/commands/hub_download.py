"""Download files of a repository of the Hugging Face Hub, resumably, and verify their hashes.

huggingface_hub does the requests: names, endpoint (HF_ENDPOINT), token (HF_TOKEN, `hf auth login`), redirects and retries. Its
`snapshot_download` is not used, because since 2.0 it starts an interrupted file again, and it checks sizes but no hashes: of
a 10 GB file, the last byte could be lost twice. A file appears under its name after its hash was checked.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cogtune.config.hub_paths import COMMIT, is_plain_path
from cogtune.errors import UserError
from cogtune.runtime.atomic import sync
from cogtune.runtime.digest import file_digest
from cogtune.runtime.directory import alone_in
from cogtune.runtime.paths import quoted

_PARTIAL = ".incomplete"
"""Folder of unfinished files, in the target folder; hidden, so that it is in no content hash."""

_OFFLINE = "HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it, or download on another machine"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. ``path``: in the repository; ``size``: bytes; ``sha256``: of files in LFS or Xet, else "";
    ``blob``: its git hash."""

    path: str
    size: int
    sha256: str
    blob: str


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]

    def matching(self, patterns: Sequence[str]) -> tuple[HubFile, ...]:
        """The files that one of the patterns matches, as in `hf download --include`."""
        return tuple(each for each in self.files if any(fnmatchcase(each.path, pattern) for pattern in patterns))


def list_files(repository: str, revision: str) -> Listing:
    """Ask the Hub. Raises UserError with what to do if it is offline, unknown, gated, or cannot be reached."""
    from huggingface_hub import HfApi

    with _explained(repository, revision):
        info = HfApi(library_name="cogtune").model_info(repository, revision=revision, files_metadata=True)
        commit = info.sha or ""
        files = [
            HubFile(each.rfilename, each.size or 0, (each.lfs.sha256 if each.lfs else "") or "", each.blob_id or "")
            for each in info.siblings or []
        ]
    if not COMMIT.fullmatch(commit):
        raise UserError(f"{repository}: the Hub named no commit for {quoted(revision)}; try again later")
    for file in files:
        if not is_plain_path(file.path) and not file.path.startswith("."):
            raise UserError(
                f"{repository}: contains the path {quoted(file.path)}, which leads out of its folder; not used"
            )
    return Listing(repository, commit, tuple(file for file in files if is_plain_path(file.path)))


def missing_bytes(files: Iterable[HubFile], folder: Path) -> int:
    """Bytes still to download into ``folder``; partly downloaded files count with the rest."""
    total = 0
    for file in files:
        if not (folder / file.path).exists():
            part = _part_of(file, folder)
            total += max(0, file.size - (part.stat().st_size if part.is_file() else 0))
    return total


def download(listing: Listing, files: Sequence[HubFile], folder: Path) -> dict[str, str]:
    """Download ``files`` into ``folder``, with a progress bar on stderr; return path -> sha256 of each.

    A file that is there is verified and kept. Raises UserError for a wrong hash, for another file under the name, and for
    what the network and the disk refuse. The same call resumes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        hashes = {file.path: _fetch(listing, file, folder) for file in files}
    return hashes


def _fetch(listing: Listing, file: HubFile, folder: Path) -> str:
    target, part = folder / file.path, _part_of(file, folder)
    if target.exists():
        sha256, problem = _verify(target, file)
        if problem:
            raise UserError(
                f"{target}: exists and is not the file of {listing.repository} ({problem}); move it away, or choose "
                f"another folder with --to"
            )
        return sha256
    with _explained(listing.repository, listing.commit, file.path):
        _get(listing, file, part)
        sha256, problem = _verify(part, file)
        if problem:
            part.unlink()
            raise UserError(
                f"{listing.repository}: {file.path}: wrong content ({problem}); the download was discarded. Run the same "
                f"command again; if that repeats, a proxy or mirror changes the file (HF_ENDPOINT)"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(part)
        os.replace(part, target)
        sync(target.parent)
    return sha256


def _get(listing: Listing, file: HubFile, part: Path) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.is_file() else 0
    if have > file.size:
        part.unlink()
        have = 0
    with part.open("ab") as stream:
        if have < file.size:
            url = hf_hub_url(listing.repository, file.path, revision=listing.commit)
            headers = build_hf_headers(library_name="cogtune")
            http_get(
                url, stream, resume_size=have, headers=headers, expected_size=file.size, displayed_filename=file.path
            )


def _part_of(file: HubFile, folder: Path) -> Path:
    name = hashlib.sha256(f"{file.path}\0{file.sha256 or file.blob}".encode()).hexdigest()[:24]
    return folder / _PARTIAL / f"{name}.part"


def _verify(path: Path, file: HubFile) -> tuple[str, str]:
    """(sha256, what is wrong or ""). Small files have no sha256 on the Hub, but the hash of git."""
    sha256 = file_digest(path)
    if file.sha256:
        expected, actual = file.sha256, sha256
    else:
        content = path.read_bytes()
        expected, actual = file.blob, hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return sha256, "" if actual == expected else f"hash {actual[:16]}…, expected {expected[:16]}…"


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None, None, None]:
    """One process at a time downloads into a folder."""
    partial = folder / _PARTIAL
    if partial.is_symlink():
        raise UserError(f"{partial}: a symbolic link; remove it. Unfinished downloads are kept there")
    try:
        with alone_in(folder, wait=False):
            partial.mkdir(exist_ok=True)
            yield
            with contextlib.suppress(OSError):  # unfinished files of another revision are kept
                partial.rmdir()
    except BlockingIOError:
        raise UserError(f"{folder}: another process downloads into this folder; wait for it") from None


@contextlib.contextmanager
def _explained(repository: str, revision: str, path: str = "") -> Generator[None, None, None]:
    """Errors of huggingface_hub as one message each. They may hold request headers, so none is chained or printed whole."""
    from huggingface_hub import constants

    where = f"{repository}@{revision}{': ' if path else ''}{path}"
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{where}: {_OFFLINE}")
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = _hub_message(error, constants.ENDPOINT, repository) or _machine_message(error, constants.ENDPOINT)
        if not text:
            raise
        raise UserError(f"{where}: {text}") from None


def _hub_message(error: Exception, endpoint: str, repository: str) -> str:
    """About an answer of the Hub; "" for other errors. Special cases come before the classes that they derive from."""
    from huggingface_hub import errors

    page = f"{endpoint}/{repository}"
    messages: dict[type[Exception], str] = {
        errors.GatedRepoError: f"gated; accept its terms on {page}, then run `hf auth login` or set HF_TOKEN",
        errors.RevisionNotFoundError: f"no such branch, tag or commit; see {page}/tree/main",
        errors.RepositoryNotFoundError: (
            f"no such repository on {endpoint}, or a private one; check the name, or run `hf auth login` or set HF_TOKEN"
        ),
        errors.EntryNotFoundError: "no such file any more; run the same command again",
        errors.OfflineModeIsEnabled: _OFFLINE,
    }
    if text := next((text for kind, text in messages.items() if isinstance(error, kind)), ""):
        return text
    if not isinstance(error, errors.HfHubHTTPError):
        return ""
    status = error.response.status_code
    if status in (401, 403):
        return f"access denied (HTTP {status}); the token is invalid or has no access: see {page}, `hf auth whoami`"
    return f"the Hub answered HTTP {status}; run the same command again later, which resumes"


def _machine_message(error: Exception, endpoint: str) -> str:
    """About the network or a full disk; "" for other errors."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free space and run the same command again, which resumes"
    if type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
        advice = "check the network, HTTPS_PROXY and HF_ENDPOINT. The same command resumes"
        return f"cannot reach {endpoint} ({type(error).__name__}); {advice}"
    return ""

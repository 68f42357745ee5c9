"""A server on 127.0.0.1 that answers like the Hugging Face Hub: repositories, files in LFS behind a redirect to another
host, ranges, gated repositories; and the environment of a process that uses it."""

import hashlib
import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cogtune.config.hub_paths import PINS, Pin, PinnedFile, Pins

TOKEN = "hf_a-secret-that-nobody-may-print"
LFS_FROM = 1000
"""Files of this size are in LFS: with sha256, and behind a redirect."""


@dataclass
class Hub:
    """``repositories``: name -> branch -> commit; ``trees``: commit -> path -> content. ``served``: path -> bytes that are sent
    in place of the content. ``stop_after``: the first answer with a larger body stops there, and waits.
    ``requests``: (method, host, path, headers) as they came."""

    repositories: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    trees: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    gated: set[str] = field(default_factory=set[str])
    served: dict[str, bytes] = field(default_factory=dict[str, bytes])
    stop_after: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, str, dict[str, str]]] = field(default_factory=list[Any])
    port: int = 0

    def add(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """A commit; returns its name."""
        content = json.dumps([repository, {path: hashlib.sha1(data).hexdigest() for path, data in files.items()}])
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.repositories.setdefault(repository, {})[branch] = commit
        self.trees[commit] = dict(files)
        return commit

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Of a process that downloads from here."""
        clean = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{self.port}", "HF_HOME": str(home), "HF_TOKEN": TOKEN}
        return {**clean, **own, "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1,localhost", **more}

    def gets(self, path: str) -> list[dict[str, str]]:
        """Headers of the requests for the content of a file."""
        return [headers for method, _, asked, headers in self.requests if method == "GET" and asked.endswith(path)]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, headers.get("host", ""), path, headers))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4:5] == ["tree"]:
            self._send(json.dumps([_entry(*item) for item in self.hub.trees[parts[5]].items()]).encode(), {})
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._info("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        elif parts[0] == "cdn":
            self._content(parts[1], "/".join(parts[2:]))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._error(404, "RepoNotFound")

    def _info(self, repository: str, revision: str) -> None:
        branches = self.hub.repositories.get(repository)
        if branches is None:
            return self._error(401, "RepoNotFound")
        commit = branches.get(revision, revision)
        if commit not in self.hub.trees:
            return self._error(404, "RevisionNotFound")
        files = [_sibling(path, content) for path, content in self.hub.trees[commit].items()]
        self._send(json.dumps({"id": repository, "sha": commit, "siblings": files}).encode(), {})

    def _resolve(self, repository: str, commit: str, path: str) -> None:
        if repository in self.hub.gated:
            return self._error(403, "GatedRepo")
        content = self.hub.trees.get(commit, {}).get(path)
        if content is None:
            return self._error(404, "EntryNotFound")
        if len(content) >= LFS_FROM:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.hub.port}/cdn/{commit}/{path}")
            self.send_header("Content-Length", "0")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.end_headers()
        else:
            self._content(commit, path)

    def _content(self, commit: str, path: str) -> None:
        content = self.hub.served.get(path, self.hub.trees[commit][path])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        etag = hashlib.sha256(self.hub.trees[commit][path]).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(content[start:], headers, 206 if "Range" in self.headers else 200)

    def _send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if 0 < self.hub.stop_after < len(body):
            self.wfile.write(body[: self.hub.stop_after])
            self.wfile.flush()
            self.hub.stop_after = 0
            self.hub.stopped.wait(30)
            self.close_connection = True
            return
        self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status)


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return {"rfilename": path, "size": len(content), "blobId": blob} | (
        {"lfs": lfs} if len(content) >= LFS_FROM else {}
    )


def _entry(path: str, content: bytes) -> dict[str, Any]:
    sibling = _sibling(path, content)
    lfs = {"oid": sibling["lfs"]["sha256"], "size": len(content), "pointerSize": 130} if "lfs" in sibling else None
    entry = {"type": "file", "path": path, "size": len(content), "oid": sibling["blobId"]}
    return entry | ({"lfs": lfs} if lfs else {})


@contextmanager
def serving() -> Generator[Hub, None, None]:
    """A running hub."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopped.set()
        server.shutdown()
        server.server_close()


def pin(root: Path, repository: str, source: Path, inside: str = "") -> Path:
    """What `weights get` leaves in ``root`` of a repository with the file or folder ``source`` at ``inside``; its copy."""
    name, pins = f"{repository}@main", Pins(root / PINS)
    known = pins.all.get(name, Pin(repository, "0123456789" * 4))
    target, files = root / known.folder / inside, dict(known.files)
    for path in [source] if source.is_file() else sorted(each for each in source.rglob("*") if each.is_file()):
        copy = target / (path.name if source.is_file() else path.relative_to(source))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content := path.read_bytes())
        in_repository = str(copy.relative_to(root / known.folder))
        files[in_repository] = PinnedFile(hashlib.sha256(content).hexdigest(), len(content))
    pins.write(name, Pin(repository, known.commit, files))
    return target

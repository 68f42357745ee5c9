"""Data folders as strangers leave them: made up from a seed, with good clips among everything that a disk can hold."""

import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

NAMES = (
    "a",
    "b",
    "zwölf 🏠",
    "with space",
    "-dash",
    "quote'\"x",
    "new\nline",
    "x" * 240,
    "rtl\u202eabc",
    "a.mp4",
    "%s",
    "'; rm -x",
)
CAPTIONS = (b"a caption", b"a caption", b"", b" \n", b"\xff\xfe", "caf\xe9".encode("latin-1"), "wave".encode("utf-16-le"), b"a\0b",
            "\u200b".encode(), b"\xef\xbb\xbfwith a mark", b"x" * (1 << 20 | 1), "波".encode("utf-16-le"))  # fmt: skip
OTHERS = ("x.gif", "x.ts", "x.png", "x.tar", "list.csv", "videos.txt", "noext", "x.WMV", "x.json")


class Maker:
    """Makes one folder. ``clips``: good files; ``outside``: a folder that links may lead to."""

    def __init__(self, root: Path, clips: list[Path], outside: Path, seed: int) -> None:
        self.root, self.clips, self.outside, self.random = root, clips, outside, random.Random(seed)
        self.videos, self.labels = root / "videos", root / "labels"

    def make(self) -> None:
        if self.random.random() < 0.15:
            self.videos = self.labels = self.root
        self.videos.mkdir(parents=True)
        self.labels.mkdir(exist_ok=True)
        for number in range(self.random.randint(1, 6)):
            stem = f"{self.random.choice(NAMES)}{number}"
            self._try(self.random.choice(self._videos()), self.videos / f"{stem}.mp4")
            self._try(self.random.choice(self._captions()), self.labels / f"{stem}.txt")
        for _ in range(self.random.randint(0, 3)):
            self._try(self.random.choice(self._extras()), self.videos / f"extra{self.random.randint(0, 99)}")

    def _try(self, make: Callable[[Path], object], path: Path) -> None:
        try:
            make(path)
        except (OSError, ValueError):  # not on this file system, or not as this user
            path.parent.mkdir(parents=True, exist_ok=True)

    def _videos(self) -> list[Callable[[Path], object]]:
        good, outside = self.random.choice(self.clips), self.outside
        return [
            lambda path: shutil.copyfile(good, path),
            lambda path: shutil.copyfile(good, path),
            lambda path: path.symlink_to(good),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"text, not a video"),
            lambda path: path.write_bytes(good.read_bytes()[: self.random.randint(0, 900)]),
            lambda path: path.symlink_to(path.name),
            lambda path: path.symlink_to("nowhere"),
            lambda path: path.symlink_to(outside / "fifo"),
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.symlink_to(outside),
            lambda path: path.mkdir(),
            os.mkfifo,
            _socket,
            _unreadable,
            lambda path: Path(os.fsdecode(os.fsencode(path.parent) + b"/bad\xff.mp4")).write_bytes(good.read_bytes()),
            lambda path: Path(os.fsdecode(os.fsencode(path.parent) + b"/bad\xfe.mp4")).symlink_to(good),
        ]

    def _captions(self) -> list[Callable[[Path], object]]:
        text = self.random.choice(CAPTIONS)
        return [
            *[lambda path: path.write_bytes(text)] * 6,
            lambda path: None,
            lambda path: path.symlink_to(path.name),
            lambda path: path.symlink_to("nowhere"),
            lambda path: path.symlink_to(self.outside / "caption.txt"),
            lambda path: path.symlink_to(self.outside / "fifo"),
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.mkdir(),
            os.mkfifo,
            _socket,
            _unreadable,
        ]

    def _extras(self) -> list[Callable[[Path], object]]:
        other = self.random.choice(OTHERS)
        return [
            lambda path: path.symlink_to("/"),
            lambda path: path.symlink_to(".."),
            lambda path: path.symlink_to("."),
            lambda path: path.symlink_to(path.name),
            lambda path: path.symlink_to(self.outside),
            lambda path: path.symlink_to(self.labels),
            lambda path: [(path.parent / "one").symlink_to("two"), (path.parent / "two").symlink_to("one")],
            lambda path: path.with_name(other).write_bytes(b"x"),
            lambda path: path.with_name(other).symlink_to("nowhere"),
            lambda path: (path.mkdir(), path.chmod(0)),
            lambda path: path.joinpath(*["deep"] * 60).mkdir(parents=True),
            _too_deep,
            os.mkfifo,
            _socket,
            lambda path: Path(os.fsdecode(os.fsencode(path) + b"\xff")).mkdir(),
        ]


def outside_of(base: Path, clip: Path) -> Path:
    """A folder that links lead to: a clip with its caption, a FIFO, and a link back up."""
    outside = base / "outside"
    outside.mkdir()
    shutil.copyfile(clip, outside / "linked.mp4")
    (outside / "linked.txt").write_text("what is behind a link")
    (outside / "caption.txt").write_text("a linked caption")
    os.mkfifo(outside / "fifo")
    (outside / "again").symlink_to(outside)
    return outside


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def _unreadable(path: Path) -> None:
    path.write_bytes(b"secret")
    path.chmod(0)


def _too_deep(path: Path) -> None:
    """Folders below each other until no path is long enough to name the innermost."""
    path.mkdir()
    at = os.open(path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=at)
        inner = os.open("n" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)

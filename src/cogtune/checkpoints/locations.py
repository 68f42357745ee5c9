"""Resolve the paths that can name one set of weights: its folder, file, index, one of its shards or ranks, or a link to
any of them. All resolve to the same folder or file."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cogtune.errors import UserError

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<ending>\.[^.]+)")
"""File name of a shard of a model: diffusion_pytorch_model-00001-of-00002.safetensors."""

_PARTS = ("latest", "model_index.json", "adapter_config.json", "config.json")
"""Files that identify their folder."""
_RANK = re.compile(r"mp_rank_\d+_model_states\.pt")
_USUAL = re.compile(r"(diffusion_pytorch_model|adapter_model|model|pytorch_model)\.(safetensors|bin|pt)")
_MOST_LINKS = 40


def hops(path: Path) -> Iterator[Path]:
    """``path``, and what it points to, link by link: in a cache of Hugging Face the other files are next to the link,
    with a user's own link they are next to its target."""
    for _ in range(_MOST_LINKS):
        yield path
        if not path.is_symlink():
            return
        path = path.parent / os.readlink(path)


def place_of(path: Path) -> Path:
    """The folder, if ``path`` is a file that identifies it or is a part of its weights; else ``path`` itself.
    Raises UserError if the folder contains several sets of weights."""
    if path.is_dir():
        return path
    for hop in hops(path):
        folder, name = hop.parent, hop.name
        indexes = list(folder.glob("*.index.json"))
        if name.endswith(".index.json") or (SHARD.fullmatch(name) and indexes):
            if len(indexes) > 1:
                raise UserError(f"{folder}: contains several sets of weights; move the one to use to its own folder")
            return folder
        part = name in _PARTS or (SHARD.fullmatch(name) and len(shards_like(hop)) > 1)
        if part or (_RANK.fullmatch(name) and sum(1 for each in folder.iterdir() if _RANK.fullmatch(each.name)) > 1):
            return folder
    return path


def shards_like(file: Path) -> list[Path]:
    """All shards of the set that ``file`` belongs to. Raises UserError if some are missing."""
    match = SHARD.fullmatch(file.name)
    if match is None:
        return [file]
    total, digits = int(match["total"]), len(match["number"])
    names = [f"{match['stem']}-{n:0{digits}d}-of-{match['total']}{match['ending']}" for n in range(1, total + 1)]
    missing = [name for name in names if not (file.parent / name).is_file()]
    if missing:
        raise UserError(f"{file}: one of {total} shards; missing: {', '.join(missing[:3])}; download the folder again")
    return [file.parent / name for name in names]


def find_next_to(file: Path, name: str) -> Path | None:
    """The file ``name`` in the folder of ``file``, or of its link target; None if missing."""
    return next((hop.parent / name for hop in hops(file) if (hop.parent / name).is_file()), None)


def usual_name(file: Path) -> bool:
    """Whether it has a standard name, so that the config files next to it belong to it."""
    return any(_USUAL.fullmatch(hop.name) for hop in hops(file))

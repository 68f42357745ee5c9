"""The ways to name one set of weights: its folder, its file, its index, one of its shards or ranks, a link to any of them.
All of them lead to one place, and to the same files beside it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cogtune.errors import UserError

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<ending>\.[^.]+)")
"""Name of one of several files that hold a model: diffusion_pytorch_model-00001-of-00002.safetensors."""

_PARTS = ("latest", "model_index.json", "adapter_config.json", "config.json")
"""Files that stand for the folder around them."""
_RANK = re.compile(r"mp_rank_\d+_model_states\.pt")
_USUAL = re.compile(r"(diffusion_pytorch_model|adapter_model|model|pytorch_model)\.(safetensors|bin|pt)")
_MOST_LINKS = 40


def hops(path: Path) -> Iterator[Path]:
    """``path``, and what it points to, link by link: a cache of Hugging Face has the files beside the link, a link of
    one's own has them beside its target."""
    for _ in range(_MOST_LINKS):
        yield path
        if not path.is_symlink():
            return
        path = path.parent / os.readlink(path)


def place_of(path: Path) -> Path:
    """The folder, where ``path`` names a file that stands for it or for a part of its weights; else ``path`` itself.
    Raises UserError for a part of one of several sets in a folder."""
    if path.is_dir():
        return path
    for hop in hops(path):
        folder, name = hop.parent, hop.name
        indexes = list(folder.glob("*.index.json"))
        if name.endswith(".index.json") or (SHARD.fullmatch(name) and indexes):
            if len(indexes) > 1:
                raise UserError(
                    f"{folder}: holds several sets of weights; move the one that is meant to a folder of its own"
                )
            return folder
        part = name in _PARTS or (SHARD.fullmatch(name) and len(shards_like(hop)) > 1)
        if part or (_RANK.fullmatch(name) and sum(1 for each in folder.iterdir() if _RANK.fullmatch(each.name)) > 1):
            return folder
    return path


def shards_like(file: Path) -> list[Path]:
    """The shards of the set that ``file`` is one of. Raises UserError where some are not there."""
    found = SHARD.fullmatch(file.name)
    if found is None:
        return [file]
    total, digits = int(found["total"]), len(found["number"])
    names = [f"{found['stem']}-{n:0{digits}d}-of-{found['total']}{found['ending']}" for n in range(1, total + 1)]
    lacking = [name for name in names if not (file.parent / name).is_file()]
    if lacking:
        raise UserError(
            f"{file}: one of {total} shards; {', '.join(lacking[:3])} is not beside it; fetch the folder again"
        )
    return [file.parent / name for name in names]


def beside(file: Path, name: str) -> Path | None:
    """The file ``name`` in the folder of ``file``, or of what it points to."""
    return next((hop.parent / name for hop in hops(file) if (hop.parent / name).is_file()), None)


def usual_name(file: Path) -> bool:
    """Whether it has a name that libraries look for, so that what stands beside it is about it."""
    return any(_USUAL.fullmatch(hop.name) for hop in hops(file))

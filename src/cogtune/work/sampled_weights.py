"""Which weights the path of `cogtune sample PATH` names."""

from pathlib import Path

from cogtune.checkpoints import Header, kinds, read_header
from cogtune.errors import UserError


def is_sampled(header: Header) -> bool:
    """Whether the file is a LoRA, or holds a transformer."""
    return not {"lora", "network"}.isdisjoint(kinds.roles(header))


def weights_at(path: Path) -> tuple[Path, Header]:
    """``path`` and its header; for a folder that is no set of weights itself, such as results/NAME/export, those of the only
    LoRA or transformer in it. Raises UserError that names them if there are several."""
    try:
        return path, read_header(path)
    except UserError:
        candidates = _sampled_in(path) if path.is_dir() else {}
        if not candidates:
            raise
    if len(candidates) > 1:
        listed = "".join(f"\n  {candidate}" for candidate in candidates)
        raise UserError(f"{path}: contains several weights; give the path of one:{listed}")
    return next(iter(candidates.items()))


def _sampled_in(folder: Path) -> dict[Path, Header]:
    headers: dict[Path, Header] = {}
    for entry in sorted(folder.iterdir()):
        try:
            header = read_header(entry)
        except UserError:
            continue  # another file, such as index.json
        if is_sampled(header):
            headers[entry] = header
    return headers

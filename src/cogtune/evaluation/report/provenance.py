"""What exactly was run: keys, data, weights, code and library versions."""

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from cogtune.config.leaves import leaves_of
from cogtune.work.slices import Slice

_PACKAGES = (
    "cogtune",
    "torch",
    "deepspeed",
    "transformers",
    "diffusers",
    "snakemake",
    "omegaconf",
    "av",
    "decord",
    "numpy",
)


def weights_of(slices: Iterable[Slice]) -> dict[str, str]:
    """Config key -> content hash, of every file or folder that one of the stages' keys depends on."""
    return {
        ".".join(map(str, path)): value
        for part in slices
        for path, value in leaves_of(part.identity["values"])
        if isinstance(value, str) and value.startswith("sha256:")
    }


def versions() -> dict[str, str]:
    """Python and the installed packages that results can depend on."""
    known = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return known


def commit(folder: Path) -> str | None:
    """The git commit of the code in ``folder``, with "-dirty" if files differ from it; None outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None

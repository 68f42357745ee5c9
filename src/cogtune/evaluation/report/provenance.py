"""Provenance of a report: hashes of weights, versions of code and libraries."""

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
    """Config key -> content hash of every file or folder in the stages' keys."""
    return {
        ".".join(map(str, path)): value
        for part in slices
        for path, value in leaves_of(part.identity["values"])
        if isinstance(value, str) and value.startswith("sha256:")
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that affect results."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def commit(folder: Path) -> str | None:
    """The git commit of the code in ``folder``, with "-dirty" if there are uncommitted changes; None outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return output.stdout.strip() or None

"""docs/licences.md has a row for each direct dependency, and says of each what the installed package says of itself."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/licences.md").read_text()
ROWS = dict(re.findall(r"^\| `([\w-]+)` \| ([^|]+?) \|", PAGE.split("## FFmpeg")[0], re.MULTILINE))
METADATA = {
    "Apache-2.0": r"apache",
    "BSD": r"\bbsd\b",
    "BSD-2-Clause": r"bsd-2-clause",
    "BSD-3-Clause": r"bsd-3-clause|3-clause bsd",
    "MIT": r"\bmit\b",
    "MPL-2.0": r"mpl-2\.0",
    "PSF": r"python software foundation",
}
"""How metadata spells each licence of the table."""


def _direct_dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(line for group in project["optional-dependencies"].values() for line in group),
    ]
    return {re.split(r"[\[<>=!~; ]", line)[0] for line in requirements}


def test_each_direct_dependency_has_a_row() -> None:
    assert set(ROWS) == _direct_dependencies()


@pytest.mark.parametrize("package", sorted(_direct_dependencies()))
def test_the_licence_is_that_of_the_metadata(package: str) -> None:
    try:
        metadata = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    fields = [metadata[name] for name in ("License-Expression", "License") if name in metadata]
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License")]
    files = importlib.metadata.files(package) or []
    texts = [path.read_text() for path in files if path.name == "LICENSE"] if not fields + classifiers else []
    said = " ".join([*fields, *classifiers, *texts])
    assert re.search(METADATA[ROWS[package]], said, re.IGNORECASE), said[:200]


def test_the_versions_whose_ffmpeg_was_read_are_the_pinned_ones() -> None:
    """Another version may bundle another build: read its licence again (the page has the command)."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    read = dict(re.findall(r"^\| `([\w-]+)` ([\d.]+) \|", PAGE, re.MULTILINE))
    assert set(read) == {"av", "decord", "imageio-ffmpeg"}
    assert read == {name: pins[name] for name in read}

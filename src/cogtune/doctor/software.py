"""Python, and the packages against the ranges of pyproject.toml and the tested versions of constraints.txt."""

import platform
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from cogtune.doctor.check import Check

_TOPIC = "software"
_ROOT = Path(__file__).resolve().parents[3]
_LISTED = 5


@dataclass(frozen=True)
class Needs:
    """Ranges of Python and of packages."""

    python: SpecifierSet
    packages: tuple[Requirement, ...]


def software_checks(extra: str = "", root: Path = _ROOT) -> Iterator[Check]:
    """Python, each required package, and the tested versions. ``extra``: an optional group of pyproject.toml that is
    needed too; ``root``: the folder of pyproject.toml and constraints.txt."""
    try:
        needs = read_needs(root, extra)
    except PackageNotFoundError:
        fix = "run `make setup`, or `pip install -e .` in the repository"
        yield Check(_TOPIC, "cogtune", "FAIL", "not installed in this environment", fix)
        return
    python, needed = platform.python_version(), needs.python
    if needed.contains(python, prereleases=True):
        yield Check(_TOPIC, "python", "OK", f"{python} ({needed})")
    else:
        yield Check(
            _TOPIC, "python", "FAIL", f"{python}; expected {needed}", f"make the environment with Python {needed}"
        )
    installed = dict[str, str]()
    for requirement in needs.packages:
        check = package_check(requirement)
        if check.level == "OK":
            installed[requirement.name] = check.text.split()[0]
        yield check
    if (root / "constraints.txt").is_file():
        yield pins_check(installed, pinned_versions((root / "constraints.txt").read_text()))


def read_needs(root: Path, extra: str = "") -> Needs:
    """What cogtune needs on this machine, with an optional group: from pyproject.toml in ``root``, or else from the
    installed package, whose list is as old as the last `pip install`. Raises PackageNotFoundError."""
    if (root / "pyproject.toml").is_file():
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        python = project["requires-python"]
        lines = [*project["dependencies"], *project["optional-dependencies"].get(extra, ())]
    else:
        python, lines = metadata("cogtune")["Requires-Python"] or "", requires("cogtune") or []
    parsed = [Requirement(line) for line in lines]
    packages = tuple(
        one for one in parsed if one.marker is None or any(one.marker.evaluate({"extra": name}) for name in ("", extra))
    )
    return Needs(SpecifierSet(python), packages)


def package_check(requirement: Requirement) -> Check:
    """Whether a package is installed in the range that cogtune needs."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return Check(_TOPIC, requirement.name, "FAIL", "not installed", f"pip install '{_plain(requirement)}'")
    if requirement.specifier.contains(installed, prereleases=True):
        return Check(_TOPIC, requirement.name, "OK", f"{installed} ({requirement.specifier or 'any version'})")
    text = f"{installed}; expected {requirement.specifier}"
    return Check(_TOPIC, requirement.name, "FAIL", text, f"pip install '{_plain(requirement)}'")


def pinned_versions(text: str) -> dict[str, str]:
    """name -> version of the lines `name==version` of constraints.txt."""
    pairs = re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^\s;]+)", text)
    return {_normal(name): number for name, number in pairs}


def pins_check(installed: dict[str, str], tested: dict[str, str]) -> Check:
    """Whether the installed versions are those that the tests ran with. Local parts (+cu128) do not count."""
    different = [
        f"{name} {number} (tested {tested[_normal(name)]})"
        for name, number in installed.items()
        if _normal(name) in tested and _public(number) != _public(tested[_normal(name)])
    ]
    if not different:
        return Check(_TOPIC, "tested versions", "OK", "as in constraints.txt")
    more = f" and {len(different) - _LISTED} more" if len(different) > _LISTED else ""
    text = f"not the versions of constraints.txt: {', '.join(different[:_LISTED])}{more}"
    fix = "pip install -c constraints.txt -e . (only if something fails: other versions in the ranges may work)"
    return Check(_TOPIC, "tested versions", "WARN", text, fix)


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _public(number: str) -> str:
    try:
        return Version(number).public
    except InvalidVersion:
        return number

"""The arrows of docs/architecture.md, held against the imports; and the sizes that keep a file readable."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SOURCE = REPO / "src" / "cogtune"
_BELOW = {"errors", "runtime", "config", "checkpoints"}
MAY_IMPORT = {
    "errors": set(),
    "runtime": {"errors"},
    "config": {"errors", "runtime"},
    "checkpoints": {"errors", "runtime", "config"},
    "data": _BELOW,
    "diffusion": {"errors", "config"},
    "model": {*_BELOW, "diffusion"},
    "work": {*_BELOW, "data"},
    "plan": {*_BELOW, "data", "work"},
    "sampling": {*_BELOW, "data", "model", "diffusion", "work"},
    "train": {*_BELOW, "data", "model", "diffusion", "work"},
    "evaluation": {*_BELOW, "data", "model", "diffusion", "work", "sampling"},
    "stages": {*_BELOW, "data", "model", "diffusion", "work", "plan", "sampling", "train", "evaluation"},
    "doctor": {"errors", "runtime"},
    "setup": {*_BELOW, "data", "work", "plan"},
    "commands": {
        *_BELOW,
        "data",
        "model",
        "diffusion",
        "work",
        "sampling",
        "train",
        "evaluation",
        "stages",
        "plan",
        "doctor",
        "setup",
    },
}
WITHOUT_TORCH = ("config", "checkpoints", "work", "plan")
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names of every module that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} if node.module != "cogtune" else {f"cogtune.{alias.name}" for alias in node.names}
    return frozenset(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("cogtune.")}
    if room in MAY_IMPORT:
        assert rooms - {room} <= MAY_IMPORT[room], f"{room}/ imports {rooms - MAY_IMPORT[room] - {room}}"
    assert not any(name.split(".")[0] == "snakemake" for name in imported(path))
    if room in WITHOUT_TORCH:
        assert not any(name.split(".")[0] == "torch" for name in imported(path))


def test_the_main_process_takes_only_what_needs_no_torch_from_data() -> None:
    main = [path for path in FILES if room_of(path) in WITHOUT_TORCH]
    taken = {name for path in main for name in imported(path) if name.startswith("cogtune.data")}
    names = {"frames", "listing", "prompt_file", "rows", "store"}
    assert taken == {f"cogtune.data.{name}" for name in names}


@pytest.mark.parametrize(
    ("library", "modules"), [("decord", {"seeking"}), ("av", {"inorder", "joined", "picture", "streams"})]
)
def test_decoders_are_imported_in_the_child_only(library: str, modules: set[str]) -> None:
    importing = {path for path in FILES if any(name.split(".")[0] == library for name in imported(path))}
    assert {(room_of(path), path.stem) for path in importing} == {("data", module) for module in modules}
    child = {f"cogtune.data.{name}" for name in ("decode", "seeking", "inorder", "picture", "streams")}
    for path in FILES:
        if path.stem not in ("decode", "inorder", "picture"):
            assert not child & set(imported(path)), path


@pytest.mark.heavy
@pytest.mark.parametrize(
    "module",
    [
        "cogtune.work.workspace",
        "cogtune.commands.plan",
        "cogtune.commands.config_show",
        "cogtune.commands.parser",
        "cogtune.commands.stage",
        "cogtune.stages.execute",
    ],
)
def test_the_main_process_does_not_wait_for_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(', '.join(sorted({{'torch', 'snakemake', 'transformers'}} & set(sys.modules))) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_file_is_too_long_to_read() -> None:
    tracked = [
        *SOURCE.rglob("*.py"),
        *(REPO / "tests").rglob("*.py"),
        *(REPO / "demo").glob("*.py"),
        *(REPO / "workflow").rglob("*.smk"),
    ]
    long = {
        str(path.relative_to(REPO)): count for path in tracked if (count := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_only_one_place_removes_folders() -> None:
    """`runtime/paths.py` checks what it removes; nobody else calls a remover of whole folders."""
    everywhere = [
        *FILES,
        *(REPO / "demo").glob("*.py"),
        *(REPO / "bench").rglob("*.py"),
        *(REPO / "workflow").rglob("*.smk"),
    ]
    removing = {
        path.name for path in everywhere if re.search(r"\b(rmtree|removedirs|rm -r|shutil\.move)\b", path.read_text())
    }
    assert removing == {"paths.py"}


FILLERS = {"found", "said", "told", "asked", "lacking", "shown"}
FILLERS_IN_TESTS = 250
"""Lower it when a test gets better names; never raise it."""


def fillers(folder: str) -> list[str]:
    """Variables and parameters that do not say what they hold."""
    places = []
    for path in sorted((REPO / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            else:
                name = node.arg if isinstance(node, ast.arg) else ""
            if name in FILLERS:
                places.append(f"{path.relative_to(REPO)}:{name}")
    return places


def test_variables_say_what_they_hold() -> None:
    assert [place for folder in ("src", "bench", "demo") for place in fillers(folder)] == []
    assert len(fillers("tests")) <= FILLERS_IN_TESTS

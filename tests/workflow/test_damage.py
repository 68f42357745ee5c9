"""Damage in the store: the command that reads it stops with one sentence, and what the sentence says works, to the byte."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.project import Project, environment

pytestmark = pytest.mark.workflow
LINE = ("train", "export", "sample", "evaluate")
ADVICE = re.compile(r"`(cogtune [^`]+)`")


def flip(path: Path) -> None:
    """One bit in the middle of the tensors' bytes."""
    data = bytearray(path.read_bytes())
    data[-len(data) // 8] ^= 64
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path: Path) -> None:
    path.unlink()


def cogtune(project: Project, command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", *shlex.split(command)]
    return subprocess.run(words, cwd=project.root, env=environment(), capture_output=True, text=True, timeout=300)


def results(project: Project) -> dict[str, bytes]:
    """What must come out the same: rows are compared by what was made of them."""
    found = [
        *project.root.glob("store/train/*/final/*.safetensors"),
        *project.root.glob("store/export/*/*/*.safetensors"),
        project.root / "results/tiny/metrics.json",
    ]
    return {str(path.relative_to(project.root)): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    ("glob", "damage", "gone"),
    [
        ("latents/*/*.safetensors", flip, "train"),
        ("latents/*/*.safetensors", cut, "train"),
        ("latents/*/*.safetensors", delete, "train"),
        pytest.param("text/*/*.safetensors", delete, "train", marks=pytest.mark.slow),
        pytest.param("preprocess/*/*.safetensors", delete, "evaluate", marks=pytest.mark.slow),
        ("export/*/transformer/*.safetensors", flip, "sample"),
        pytest.param("train/*/final/model.safetensors", flip, "export", marks=pytest.mark.slow),
        pytest.param("sample/*/*.safetensors", delete, "evaluate", marks=pytest.mark.slow),
        pytest.param("sample/*/*.safetensors", flip, "evaluate", marks=pytest.mark.slow),
    ],
)
def test_the_advice_works(
    project: Project, tmp_path: Path, glob: str, damage: Callable[[Path], None], gone: str
) -> None:
    copy = Project(tmp_path / "copy")
    shutil.copytree(project.root, copy.root, symlinks=True)
    right = results(project)
    shutil.rmtree(copy.root / "store" / gone)
    for stage in LINE[LINE.index(gone) :]:
        for receipt in (copy.root / "results/.receipts").glob(f"{stage}-*.json"):
            receipt.unlink()
    for marker in (copy.root / "results").glob("*/.published-*"):
        marker.unlink()
    paths = sorted(copy.root.glob(f"store/{glob}"))
    assert paths
    for path in paths:  # names are random, and not every stage reads every row
        damage(path)

    failed = copy.snakemake(check=False)
    assert failed.returncode != 0, "it went on over damage"
    said = failed.stdout + failed.stderr
    assert "Traceback" not in said, said[-6000:]
    (message,) = {line for line in said.splitlines() if line.startswith("cogtune: ") and ADVICE.search(line)}
    assert paths[0].parent.parent.name in message or paths[0].name in message, message
    advised = ADVICE.findall(message)
    if damage is not delete:
        found = cogtune(copy, "cogtune store verify")
        assert found.returncode == 1, found.stdout + found.stderr
        assert all(path.name in found.stdout for path in paths), found.stdout + found.stderr
    for command in advised:
        done = cogtune(copy, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    copy.snakemake()
    assert results(copy) == right
    clean = cogtune(copy, "cogtune store verify")
    assert clean.returncode == 0, clean.stdout

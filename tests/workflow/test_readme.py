"""Every command that the README shows is run: here on the tiny project, or by the test named beside it."""

import re
import subprocess
import sys

import pytest

from tests.workflow.project import REPO, Project, environment

pytestmark = pytest.mark.workflow

ELSEWHERE = {
    "make demo": "test_survival runs it on the tiny experiment, test_demo on the real ones",
    "make test": "what runs this test",
    ". .venv/bin/activate": "what `make setup` made",
    "cogtune weights get cogvideox-5b": "tests/unit/commands/test_weights_get, from a local server",
    'cogtune new mine --data "my clips" --model cogvideox-5b --lora --device 4090': "tests/unit/setup",
    "cogtune plan mine --device 4090": "tests/unit/setup",
    "cogtune run mine": "test_first_run, with the toy",
    "cogtune sample mine --prompts prompts.txt --strength 0 0.5 1": "test_docs_sampling, on the tiny project",
}
HERE = ["cogtune config check", "snakemake --cores all -n"]


def run(project: Project, command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", *command.split()]
    return subprocess.run(words, cwd=project.root, env=environment(), capture_output=True, text=True, timeout=120)


def test_every_shell_line_of_the_readme_is_known() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    lines = {line.split("#")[0].strip() for block in blocks for line in block.splitlines()}
    assert lines - {""} == {*ELSEWHERE}


@pytest.mark.parametrize("command", [*HERE, "cogtune --help", "cogtune store list"])
def test_command(project: Project, command: str) -> None:
    done = run(project, command)
    assert done.returncode == 0, done.stderr


def test_a_stage_by_hand_finds_what_snakemake_made(project: Project) -> None:
    done = run(project, "cogtune latents --base config/tiny.yaml --name tiny")
    assert done.returncode == 0, done.stderr
    assert "made 0" in done.stderr


def test_dropping_a_key_makes_snakemake_make_it_again(project: Project) -> None:
    metrics, before = project.metrics(), project.stamps()
    folder = (project.root / "results/tiny/export").resolve()
    assert run(project, f"cogtune store drop {folder.name}").returncode == 0
    assert not folder.exists()
    project.snakemake()
    assert folder.exists()
    written = {name.rsplit("-", 1)[0] for name, stamp in project.stamps().items() if stamp != before.get(name)}
    assert "export" in written
    assert not written & {"latents", "text", "train"}
    assert project.metrics() == metrics


def test_a_failing_stage_says_how_to_repeat_it_and_loses_nothing(project: Project) -> None:
    weights = project.root / "assets/3d-vae.pt"
    kept, metrics = weights.read_bytes(), project.metrics()
    flipped = bytearray(kept)
    flipped[len(kept) // 2] ^= 0xFF  # the header is whole, so the config passes; a checksum of the data is wrong
    weights.write_bytes(flipped)
    try:
        done = project.snakemake(check=False)
    finally:
        weights.write_bytes(kept)
    assert done.returncode == 1
    assert "to repeat this job by hand:\n  cogtune latents --slice store/slices/" in done.stderr
    assert "3d-vae.pt: checksum mismatch in the data" in done.stderr
    assert "Traceback" not in done.stderr
    assert any("3d-vae.pt" in log.read_text() for log in (project.root / "results/.logs").glob("latents-*.log"))
    project.snakemake()
    assert project.metrics() == metrics

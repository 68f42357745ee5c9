"""The first hour, as docs/first_run.md prints it: new, plan, run, report, on clips of the demo in a fresh clone."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cogtune.commands.parser import build_parser
from tests.workflow.project import COPIED, REPO, environment

pytestmark = pytest.mark.workflow

CLIPS = "my clips"  # as in docs/first_run.md


def typed(clone: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A command line, as a user types it."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=clone, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done


def printed_commands(clone: Path) -> None:
    """Run the plans that docs/plan.md shows, and the examples of `cogtune --help` that need no store, in one process."""
    table = re.findall(r"^\| `(cogtune plan[^`]*)` \|", (REPO / "docs/plan.md").read_text(), re.MULTILINE)
    examples = build_parser().format_help().partition("examples:")[2].partition("one stage")[0]
    printed = [line.strip() for line in examples.splitlines() if line.startswith("  cogtune ")]
    assert len(table) >= 8
    assert len(printed) >= 6
    words = [shlex.split(line)[1:] for line in (*table, *printed)]
    rest = [
        line
        for line in words
        if line[0] not in ("new", "run", "sample", "doctor", "watch") and line != ["plan", "mine"]
    ]
    script = (
        "import sys, json; from cogtune.__main__ import main; print([l for l in json.loads(sys.argv[1]) if main(l)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(rest)], cwd=clone, env=environment(), capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stderr[-3000:]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone beside a folder of four clips, captions beside them."""
    root = tmp_path / "cogtune"
    root.mkdir()
    for name in (*COPIED, "config", "demo"):
        source = REPO / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, root / name)
    return root


def test_from_clips_to_a_report(clone: Path) -> None:
    typed(clone, "python demo/make_data.py")  # the clips of this test; a user has some
    printed_commands(clone)
    (clone / CLIPS).mkdir()
    for video in sorted((clone / "data/demo/clips_lora/videos").iterdir())[:4]:
        shutil.copy2(video, clone / CLIPS)
        shutil.copy2(clone / f"data/demo/clips_lora/labels/{video.stem}.txt", clone / CLIPS)

    lines = re.findall(r"```sh\n(.*?)```", (REPO / "docs/first_run.md").read_text(), re.DOTALL)[0].splitlines()
    weights, new_line, plan_line, run_line, sample = lines
    assert (weights.split()[:3], sample.split()[:2]) == (["cogtune", "weights", "get"], ["cogtune", "sample"])
    new = typed(clone, new_line.replace("--model cogvideox-5b --lora --device 4090", "--model toy --steps 20 --yes"))
    assert "4 clips of 1.0 to 1.0 s, captions: a .txt beside each clip" in new.stderr
    typed(clone, f'cogtune new real --data "{CLIPS}" --model cogvideox-2b --device 24GB --yes')
    plan = typed(clone, plan_line).stdout
    assert re.search(r"train +stale +20 steps", plan)
    assert "4 clips a step = 4 x 1 accumulation x 1 rank" in plan
    run = typed(clone, run_line)
    page = clone / "results/mine/report.html"
    assert run.stderr.splitlines()[0] == "snakemake experiment_mine --cores all"
    assert f"\nreport: {page}\n" in run.stderr
    assert page.is_file()
    assert json.loads((clone / "results/mine/metrics.json").read_text())["samples.count"] == 4
    assert "results/demo" not in run.stderr, "only what was asked for is run"
    assert "weights" not in run.stderr, "the experiment `real`, whose weights are missing, keeps no other from running"

    (clone / "prompts.txt").write_text("a rabbit waves\n")
    typed(clone, sample.replace("--strength 0 0.5 1", "--strength 0 1"))  # the toy trains all weights
    assert len(list((clone / "results/mine/prompts/prompts/videos").glob("*.mp4"))) == 2

    (watched,) = re.findall(r"^tail .*", (REPO / "docs/report.md").read_text(), re.MULTILINE)
    assert "20/20 steps" in typed(clone, watched).stdout

    again = typed(clone, "snakemake --cores 1 experiment_mine")
    assert "Nothing to be done" in again.stdout + again.stderr
    assert "up to date: nothing to run (4 clips, 4 captions, 20 steps)" in typed(clone, "cogtune plan mine").stdout

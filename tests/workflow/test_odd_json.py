"""Every JSON file of a finished project, odd in each way: the command that reads it says so, or gives the same result."""

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cogtune.__main__ import main
from tests.forked import forked
from tests.workflow.project import Project

pytestmark = pytest.mark.workflow
FILES = {
    "store/hashes.json": "plan",
    "store/slices/*.json": "plan report",
    "store/records/*.json": "plan report",
    "store/locks/*/*.json": "report",
    "store/scan/memo.jsonl": "scan",
    "store/scan/*/digests.json": "plan",
    "store/scan/*/manifest.jsonl": "plan report",
    "store/scan/*/rejects.jsonl": "report",
    "store/scan/*/report.json": "scan",
    "store/preprocess/*/index.json": "report",
    "store/text/*/index.json": "report",
    "store/sample/*/index.json": "plan",
    "store/train/*/log.jsonl": "report",
    "store/train/*/final/summary.json": "plan report",
    "store/export/*/index.json": "plan report",
    "store/evaluate/*/metrics.json": "report",
    "store/evaluate/*/per_sample.json": "report",
    "results/.receipts/*.json": "plan",
    "results/.runs/*.json": "plan report",
    "results/tiny/*.json": "plan report",
}
"""Who reads what. Of files that one piece of code reads, the one of train, or the first, stands for all."""
PLAN = ["plan", "--format", "json"]
QUICK = ("store/scan/memo.jsonl", "store/locks/*/*.json", "store/train/*/log.jsonl", "results/.receipts/*.json")
NOT_READ = (
    "checkpoints/",
    "store/export/*/transformer/",
    "images/",
    "latents/",
    "evaluate/*/index.json",
    "store/roots/",
)
"""Checkpoints, caches and what only `store gc` reads have tests of their own; what export writes for others is held against
SHA256SUMS."""


def odd(text: str) -> Iterator[tuple[str, str | None]]:
    """(what is done, the text; None removes the file)."""
    yield from {"[]": "[]", "null": "null", "cut": text[: len(text) // 2], "empty": "", "gone": None}.items()
    lines = text.splitlines()
    first = json.loads(lines[0]) if len(lines) > 1 and lines[0].endswith("}") else json.loads(text)
    if isinstance(first, list):
        yield "row null", json.dumps([None, *first[1:]])
        first = {}
    for key, value in first.items():
        wrong = json.dumps({**first, key: 5 if isinstance(value, list | dict | str) else ["odd"]})
        yield f"{key} of another type", "\n".join([wrong, *lines[1:]]) if len(lines) > 1 and lines[0] != "{" else wrong


def of_train(paths: list[Path]) -> list[Path]:
    """One file for each kind."""
    ours = [path for path in paths if path.name.startswith("train-") or '"stage": "train"' in path.read_text()]
    return ours[:1] or paths[:1]


@pytest.fixture(scope="module")
def copy(untouched: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    found = Project(tmp_path_factory.mktemp("odd") / "copy")
    shutil.copytree(untouched.root, found.root, symlinks=True)
    for old in (*found.root.glob("store/scan/*/"), found.root / "results/.runs"):
        shutil.rmtree(old)
    for old in (*found.root.glob("results/.receipts/scan-*"), *found.root.glob("results/tiny/.published-*")):
        old.unlink()
    found.snakemake()  # the data has another path here, so it is scanned once more
    return found


def commands(root: Path, names: str) -> Iterator[list[str]]:
    for name in names.split():
        if name == "plan":
            yield PLAN
            continue
        receipts = {"scan": "results/.receipts/scan-*.json", "report": "results/tiny/.published-*"}
        (receipt,) = root.glob(receipts[name])
        key = receipt.name.rpartition("-")[2].removesuffix(".json")
        run = next(path for path in (root / "results/.runs").glob("*.json") if f'"{key}"' in path.read_text())
        told = ["--run", str(run), "--receipt", str(receipt), "--plain"]
        yield [name, "--slice", f"store/slices/{key}.json", *told]


def published(root: Path, odd: Path) -> dict[str, bytes]:
    """What must stay the same, but for the file that is odd."""
    kept = [root / "results/tiny" / name for name in ("metrics.json", "per_sample.json", "run.json", "config.yaml")]
    kept += root.glob("store/scan/*/manifest.jsonl")
    return {str(path): path.read_bytes() for path in kept if path != odd}


def run(root: Path, words: list[str]) -> int:
    os.chdir(root)
    return main(words)


def plan_in(said: str) -> dict[str, Any] | None:
    """What `plan --format json` printed, without what it was told on the way."""
    begins = said.find("\n{\n") + 1 if not said.startswith("{\n") else 0
    if not begins and not said.startswith("{\n"):
        return None
    return json.JSONDecoder().raw_decode(said[begins:])[0]


def in_one_sentence(code: int, said: str, path: Path) -> bool:
    told = [line for line in said.splitlines() if line.startswith("cogtune: ")]
    return code == 1 and len(told) == 1 and (path.name in told[0] or path.parent.name in told[0])


@pytest.mark.parametrize(
    "glob", [glob if glob in QUICK else pytest.param(glob, marks=pytest.mark.slow) for glob in FILES]
)
def test_one_sentence_or_the_same(copy: Project, tmp_path: Path, glob: str) -> None:
    lines = list(commands(copy.root, FILES[glob]))
    wrong, tried = [], 0
    code, said = forked(partial(run, copy.root, PLAN), tmp_path / "output.txt")
    planned = plan_in(said)
    assert code == 0, said
    assert planned, said
    found = sorted(copy.root.glob(glob))
    for path in found if "results/tiny" in glob else of_train(found):
        good, right = path.read_bytes(), published(copy.root, path)
        for what, text in odd(good.decode()):
            for words in lines:
                path.unlink(missing_ok=True) if text is None else path.write_text(text)
                code, said = forked(partial(run, copy.root, words), tmp_path / "output.txt")
                tried += 1
                now = published(copy.root, path)
                other = [name for name in right if now[name] != right[name]] if code == 0 else []
                path.write_bytes(good)
                if words == PLAN and not code and plan_in(said) != planned and path.name not in said:
                    other.append("the plan")
                if other or "Traceback" in said or (code and not in_one_sentence(code, said, path)):
                    wrong.append(f"{path.name}: {what}: {words[0]}: exit code {code}, other {other}\n{said[-1500:]}")
    assert tried, f"no file {glob}"
    assert not wrong, f"{len(wrong)} of {tried}:\n" + "\n\n".join(wrong)


def test_no_file_is_left_out(untouched: Project) -> None:
    known = {path for glob in (*FILES, "results/.receipts/*") for path in untouched.root.glob(glob)}
    for path in [*untouched.root.glob("store/**/*.json*"), *untouched.root.glob("results/**/*.json*")]:
        name = str(path.relative_to(untouched.root))
        skipped = any(part in name or path.match(part) for part in NOT_READ) or "/transformer/" in name
        assert path in known or skipped or path.resolve() != path, name

"""`cogtune store verify` over a complete store: one flipped bit in a file of any kind is told, and `--repair` leaves a store that
is sound, from which the next run gives the same results."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogtune.commands import store_verify
from tests.workflow.project import Project
from tests.workflow.test_damage import results

pytestmark = pytest.mark.workflow
NOT_CHECKED = {
    "locks/*/*.json": "who works now; a claim that does not read is taken over, and decides no result",
    "train/*/ranks.log": "output of the ranks, for people to read",
    "train/*/tensorboard/*": "curves for people to look at, from log.jsonl",
}
"""Kinds of files in which a flipped bit is not told, with the reason."""
BITS = 2
"""Flips in files of each kind; as `slow`, many more."""


def kind(path: Path, store: Path) -> str:
    """The path with what differs between files of one kind replaced."""
    name = re.sub(
        r"[0-9a-f]{32}|[0-9a-f]{16}-[0-9a-f]{16}|[0-9a-f]{16}|[0-9a-f]{12}", "*", str(path.relative_to(store))
    )
    name = re.sub(r"/tensorboard/.*", "/tensorboard/*", name)
    name = re.sub(r"^locks/.*", "locks/*/*.json", re.sub(r"step-\d+|rank_\d+_mp_rank_\d+|mp_rank_\d+", "*", name))
    return re.sub(r"\*\.(base|tuned|null|shuffled|guided)\.mp4", "*.mp4", re.sub(r"^records/.*", "records/*", name))


def files_by_kind(store: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(store.rglob("*")):
        if path.is_file():
            found.setdefault(kind(path, store), []).append(path)
    return found


@pytest.fixture(scope="module")
def copy(untouched: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished project that each test puts back as it was."""
    made = Project(tmp_path_factory.mktemp("verify") / "copy")
    shutil.copytree(untouched.root, made.root, symlinks=True)
    return made


def verified(project: Project, repair: bool = False) -> int:
    return store_verify.run(project.root / "store", None, repair, project.root / "results")


def flipped(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def same_json(one: bytes, other: bytes) -> bool:
    """Whether two texts are the same value: a flip may change the case of an exponent."""
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("bits", [BITS, pytest.param(20, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_any_kind_of_file_is_told(
    copy: Project, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    store, draw = copy.root / "store", random.Random(bits)
    kinds = files_by_kind(store)
    assert NOT_CHECKED.keys() < kinds.keys()
    assert len(kinds) > 25, kinds.keys()
    assert verified(copy) == 0
    assert "not checked" not in capsys.readouterr().out
    for name, paths in kinds.items():
        if name in NOT_CHECKED:
            continue
        for _ in range(bits):
            path = draw.choice(paths)
            whole = path.read_bytes()
            damaged = flipped(whole, draw)
            path.write_bytes(damaged)
            code = verified(copy)
            told = capsys.readouterr().out
            about = [line for line in told.splitlines() if str(path) in line or f"{path.parent}: " in line]
            assert about or same_json(whole, damaged), f"{path}: {whole[:0]!r} {told}"
            assert code == 1 or name in ("scan/memo.jsonl", "hashes.json", "records/*") or path.name == "index.json"
            path.write_bytes(whole)
    assert verified(copy) == 0


def test_all_damage_is_told_in_one_run_and_repaired_in_one(
    copy: Project, untouched: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of every kind at once; afterwards verify finds nothing, and the next run gives the same bytes."""
    work = Project(tmp_path / "copy")
    shutil.copytree(copy.root, work.root, symlinks=True)
    store, draw = work.root / "store", random.Random(4)
    hurt = []
    for name, paths in files_by_kind(store).items():
        if name in NOT_CHECKED or "checkpoints" in name or "final" in name:
            continue  # without checkpoints all is trained again, and a kernel may round otherwise
        hurt.append(draw.choice(paths))
        whole = hurt[-1].read_bytes()
        while same_json(whole, hurt[-1].read_bytes()) or whole == hurt[-1].read_bytes():
            hurt[-1].write_bytes(flipped(whole, draw))
    assert verified(work) == 1
    told = capsys.readouterr().out
    named = [path for path in hurt if str(path) in told or "SHA256SUMS" in path.name]
    assert sorted(named) == sorted(hurt)
    assert verified(work, repair=True) == 0
    assert verified(work) == 0, capsys.readouterr().out
    work.snakemake()
    assert results(work) == results(untouched)
    assert verified(work) == 0, capsys.readouterr().out


@pytest.mark.parametrize("damage", ["flip", "delete"])
@pytest.mark.parametrize("glob", ["sample/*/videos/*.mp4", "evaluate/*/clips/*.mp4"])
def test_a_view_is_made_again(
    copy: Project, tmp_path: Path, glob: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Project(tmp_path / "copy")
    shutil.copytree(copy.root, work.root, symlinks=True)
    path = sorted(work.root.glob(f"store/{glob}"))[0]
    whole = path.read_bytes()
    if damage == "flip":
        path.write_bytes(flipped(whole, random.Random(1)))
    else:
        path.unlink()
    assert verified(work) == 1
    assert f"{path}: " in capsys.readouterr().out
    assert verified(work, repair=True) == 0
    assert verified(work) == 0, capsys.readouterr().out
    work.snakemake()
    assert path.read_bytes() == whole
    capsys.readouterr()
    assert verified(work) == 0
    assert capsys.readouterr().out.count("\n") == 1


def slices(project: Project) -> Iterator[Path]:
    yield from sorted((project.root / "store/slices").glob("*.json"))


def test_several_damaged_slices_are_told_in_one_run(
    copy: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Project(tmp_path / "copy")
    shutil.copytree(copy.root, work.root, symlinks=True)
    for path in slices(work):
        path.write_text(path.read_text().replace('"stage"', '"stagf"'))
    assert verified(work) == 1
    told = capsys.readouterr().out
    for path in slices(work):
        (line,) = [line for line in told.splitlines() if line.startswith(f"{path}: ")]
        assert line.count("`cogtune store verify --repair`") == 1
    assert verified(work, repair=True) == 0
    assert not list(slices(work))
    assert verified(work) == 0
    work.snakemake()
    assert len(list(slices(work))) == len(list(slices(copy)))

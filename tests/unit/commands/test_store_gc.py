"""`cogtune store gc`: what it keeps, and that it removes nothing else than what nobody needs. The remover is guarded."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cogtune.__main__ import main
from cogtune.commands.store_gc import Policy, collect, remove
from cogtune.errors import UserError
from cogtune.runtime.locks import hold_lock
from cogtune.work.roots import register, root_file
from cogtune.work.runs import write_run
from cogtune.work.slices import Slice
from cogtune.work.stages import STAGES
from cogtune.work.volatile import UpstreamJob, Volatile
from tests.removal import only_below

NOW = Policy(0.0)


@dataclass(frozen=True)
class Shop:
    """A store, and working directories that use it."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def results(self, name: str) -> Path:
        """The results folder of a working directory, registered in the store."""
        results = self.folder / name / "results"
        (results / ".receipts").mkdir(parents=True, exist_ok=True)
        register(self.store, results)
        return results

    def job(self, stage: str, seed: object, data: str = "d", upstream: list[Slice] | None = None) -> Slice:
        """A job with a folder in the store; stages with items have the same folder for all ``data``."""
        identity = {"format": "cogtune-slice-1", "stage": stage, "version": 1, "values": {"seed": seed}, "data": data}
        jobs = {one.stage: UpstreamJob(one.stage, one.key, one.items_key) for one in upstream or []}
        identity["upstream"] = {one.stage: one.upstream_identity for one in upstream or []}
        part = Slice(stage, identity, Volatile(jobs=jobs))
        part.write(self.store)
        self.of(part).mkdir(parents=True, exist_ok=True)
        (self.of(part) / "rows").write_text("x" * 100)
        return part

    def of(self, part: Slice) -> Path:
        return self.store / part.stage / (part.items_key if STAGES[part.stage].items else part.key)

    def finish(self, results: Path, part: Slice) -> None:
        (results / f".receipts/{part.stage}-{part.key}.json").write_text("{}")

    def removable(self, policy: Policy = NOW) -> set[Path]:
        return {entry.folder for entry in collect(self.store, self.folder / "absent", policy).removable}

    def gc(self, *words: str) -> int:
        return main(["store", "gc", *words, "--store", str(self.store), "--results", str(self.folder / "absent")])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with only_below(tmp_path):
        yield Shop(tmp_path)


def test_what_two_directories_need_is_kept(shop: Shop) -> None:
    mine, theirs = shop.results("mine"), shop.results("theirs")
    latents, other = shop.job("latents", 1), shop.job("latents", 2)
    train, theirs_train = shop.job("train", 1, upstream=[latents]), shop.job("train", 2, upstream=[other])
    nobody = [shop.job("latents", 3), shop.job("text", 3), shop.job("train", 3)]
    shop.finish(mine, latents)
    write_run(mine, "demo", {train.key: train.volatile})  # still running: no receipt
    write_run(theirs, "demo", {theirs_train.key: theirs_train.volatile})
    assert shop.removable() == {shop.of(part) for part in nobody}


def test_rows_are_kept_for_any_of_the_jobs_that_share_them(shop: Shop) -> None:
    results = shop.results("mine")
    first, grown = shop.job("text", 1, data="one clip"), shop.job("text", 1, data="two clips")
    assert shop.of(first) == shop.of(grown)
    shop.finish(results, grown)
    assert shop.removable() == set()


def test_nothing_is_removed_without_yes(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.results("mine")
    part = shop.job("train", 1)
    assert shop.gc("--older-than", "0") == 0
    assert shop.of(part).exists()
    assert "dry run" in capsys.readouterr().out
    assert shop.gc("--older-than", "0", "--yes") == 0
    assert not shop.of(part).exists()
    assert f"removed {shop.of(part)}" in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(20))
def test_any_set_of_directories_keeps_what_it_needs(shop: Shop, seed: int) -> None:
    """Chains of jobs, each finished, started or unknown in some directories: what one needs stays, the rest goes."""
    draw = random.Random(seed)
    places = [shop.results(f"place{number}") for number in range(draw.randint(1, 3))]
    needed: set[Path] = set()
    known: set[Path] = set()
    for number in range(4):
        chain: list[Slice] = []
        for stage in ("preprocess", "latents", "train", "export"):
            chain.append(shop.job(stage, draw.randint(0, 3), draw.choice("ab"), chain[-1:]))
        known |= {shop.of(part) for part in chain}
        for results in places:
            state, length = draw.choice(["finished", "started", "unknown"]), draw.randint(1, 4)
            if state == "finished":
                for part in chain[:length]:
                    shop.finish(results, part)
            elif state == "started":
                write_run(results, f"run{number}", {part.key: part.volatile for part in chain[:length]})
            if state != "unknown":
                needed |= {shop.of(part) for part in chain[:length]}
    assert shop.removable() == known - needed
    assert shop.gc("--older-than", "0", "--yes") == 0
    assert {folder for folder in known if folder.exists()} == needed


def test_young_entries_are_kept(shop: Shop) -> None:
    shop.results("mine")
    part = shop.job("train", 1)
    assert shop.removable(Policy(3600)) == set()
    later = time.time() - 7200
    for path in (shop.of(part), shop.of(part) / "rows"):
        os.utime(path, (later, later))
    os.utime(root_file(shop.store, shop.folder / "mine/results"), (later - 1, later - 1))
    assert shop.removable(Policy(3600)) == {shop.of(part)}


def test_what_is_older_than_the_registration_needs_an_option(shop: Shop) -> None:
    part = shop.job("train", 1)
    past = time.time() - 1000
    for path in (shop.of(part), shop.of(part) / "rows"):
        os.utime(path, (past, past))
    shop.results("mine")
    assert shop.removable() == set()
    assert shop.removable(Policy(0.0, old=True)) == {shop.of(part)}


def test_a_live_lock_keeps_its_folder(shop: Shop) -> None:
    shop.results("mine")
    part = shop.job("train", 1)
    with hold_lock(shop.store / f"locks/train-{part.key}.lock"):
        assert shop.removable() == set()
    assert shop.removable() == {shop.of(part)}


@pytest.mark.heavy
def test_a_dead_lock_does_not(shop: Shop) -> None:
    shop.results("mine")
    part = shop.job("train", 1)
    lock = str(shop.store / f"locks/train-{part.key}.lock")
    code = f"import os\nfrom cogtune.runtime.locks import hold_lock\nwith hold_lock({lock!r}): os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert shop.removable() == {shop.of(part)}


def test_a_run_that_started_meanwhile_is_seen(shop: Shop) -> None:
    results = shop.results("mine")
    part = shop.job("train", 1)
    seen = collect(shop.store, results, NOW)
    assert len(seen.removable) == 1
    write_run(results, "demo", {part.key: part.volatile})
    assert list(remove(shop.store, results, NOW, seen)) == []
    assert shop.of(part).exists()


def test_a_deleted_directory_is_named_and_can_be_forgotten(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    results = shop.results("gone")
    part = shop.job("train", 1)
    shop.finish(results, part)
    shutil.rmtree(results.parent)
    for words in ([], ["--yes"]):
        assert shop.gc("--older-than", "0", *words) == 1
        assert f"{results} (user " in capsys.readouterr().err
        assert shop.of(part).exists()
    assert shop.gc("--forget", str(results), "--older-than", "0") == 0
    assert root_file(shop.store, results).exists(), "a dry run forgets nothing"
    assert shop.gc("--forget", str(results), "--older-than", "0", "--yes") == 0
    assert not root_file(shop.store, results).exists()
    assert not shop.of(part).exists()


def test_a_directory_that_exists_or_is_unknown_is_not_forgotten(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    results = shop.results("mine")
    assert shop.gc("--forget", str(results)) == 1
    assert "the folder exists" in capsys.readouterr().err
    assert shop.gc("--forget", str(shop.folder / "other")) == 1
    assert "not a registered results folder" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["run", "root", "slice"])
def test_damage_never_frees_anything(shop: Shop, damage: str) -> None:
    """What a damaged file stood for is unknown: nothing is removed, or nothing of its stage."""
    results = shop.results("mine")
    part = shop.job("text", 1)
    shop.job("text", 2)
    shop.finish(results, part)
    if damage == "slice":
        part.path(shop.store).write_text("{}")
        assert shop.removable() == set()
        return
    path = root_file(shop.store, results) if damage == "root" else write_run(results, "demo", {})
    path.write_text(path.read_text()[:-10])
    with pytest.raises(UserError, match=path.name):
        shop.removable()


@pytest.mark.parametrize("linked", ["store/train/{key}", "store/train"])
def test_nothing_is_removed_through_a_link(shop: Shop, linked: str) -> None:
    shop.results("mine")
    part = shop.job("train", 1)
    real = shop.folder / linked.format(key=part.key)
    shutil.move(real, shop.folder / "elsewhere")
    real.symlink_to(shop.folder / "elsewhere")
    assert shop.removable() == set()
    assert shop.gc("--older-than", "0", "--yes") == 0
    assert len([path for path in (shop.folder / "elsewhere").rglob("*") if path.is_file()]) == 1


def test_other_folders_are_not_entries(shop: Shop) -> None:
    shop.results("mine")
    for name in ("train/notes", "train/0123456789ABC", "mine/0123456789ab", "hashes.json"):
        (shop.store / name).mkdir(parents=True)
    assert shop.removable() == set()


def test_files_of_killed_writers_are_removed(shop: Shop) -> None:
    results = shop.results("mine")
    part = shop.job("train", 1)
    shop.finish(results, part)
    left = [shop.of(part) / f".{'a' * 32}.tmp", shop.store / f"slices/.{'b' * 32}.tmp"]
    young, other = shop.store / f"slices/.{'c' * 32}.tmp", shop.of(part) / ".hidden"
    for path in (*left, young, other):
        path.write_text("x")
    for path in (*left, other):
        os.utime(path, (1e9, 1e9))
    assert shop.gc("--yes") == 0
    assert [path.exists() for path in (*left, young, other)] == [False, False, True, True]


def test_reasons_are_printed(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    results = shop.results("mine")
    part, young = shop.job("train", 1), shop.job("train", 2)
    shop.finish(results, part)
    assert shop.gc("-v") == 0
    printed = capsys.readouterr().out
    assert f"kept {shop.of(part)}: needed by {results}/.receipts/train-{part.key}.json" in printed
    assert f"kept {shop.of(young)}: changed 0.0 hours ago (--older-than)" in printed


@pytest.mark.parametrize("text", ["1", "1y", "-1d", "d", ""])
def test_ages(text: str) -> None:
    with pytest.raises(SystemExit):
        main(["store", "gc", f"--older-than={text}"])


def superseded(shop: Shop) -> tuple[Path, list[Slice], list[Slice]]:
    """An experiment whose report was published for one config, then for another; (results, of the first, of the last)."""
    results = shop.results("mine")
    latents = shop.job("latents", 0)
    chains = []
    for seed in (1, 2):
        train = shop.job("train", seed, upstream=[latents])
        report = shop.job("report", seed, upstream=[latents, train])
        parts = [latents, train, report]
        for part in (latents, train):
            shop.finish(results, part)
        run = write_run(results, "demo", {part.key: part.volatile for part in parts})
        os.utime(run, (1e9, 1e9))
        chains.append(parts)
    (results / "demo").mkdir()
    (results / f"demo/.published-{chains[1][2].key}").write_text("{}")
    return results, *chains


def test_earlier_configs_are_kept_unless_asked_for(shop: Shop) -> None:
    results, first, last = superseded(shop)
    assert shop.removable() == set()
    words = ["store", "gc", "--older-than", "0", "--yes", "--store", str(shop.store), "--results", str(results)]
    assert main([*words, "--superseded"]) == 0
    assert not shop.of(first[1]).exists()
    assert not (results / f".receipts/train-{first[1].key}.json").exists()
    assert all(shop.of(part).exists() for part in last)
    kept = {path.name for path in (results / ".receipts").iterdir()}
    assert kept == {f"latents-{last[0].key}.json", f"train-{last[1].key}.json"}
    assert (results / f"demo/.published-{last[2].key}").exists()


def test_a_config_that_another_directory_needs_is_not_superseded(shop: Shop) -> None:
    results, first, _ = superseded(shop)
    shop.finish(shop.results("theirs"), first[1])
    policy = Policy(0.0, superseded=True)
    assert shop.of(first[1]) not in {entry.folder for entry in collect(shop.store, results, policy).removable}


@pytest.mark.parametrize("why", ["started again", "by hand"])
def test_a_run_in_progress_is_not_superseded(shop: Shop, why: str) -> None:
    results, first, _ = superseded(shop)
    parts = {part.key: part.volatile for part in first}
    write_run(results, "demo" if why == "started again" else "by-hand", parts)
    past = time.time() - 1000
    for path in (shop.of(first[1]), shop.of(first[1]) / "rows"):
        os.utime(path, (past, past))
    os.utime(root_file(shop.store, results), (past - 1, past - 1))
    policy = Policy(100.0, superseded=True)
    assert collect(shop.store, results, policy).removable == []


def test_what_a_lost_registration_needed_is_kept(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    lost = shop.results("lost")
    shop.results("mine")
    part = shop.job("train", 1)
    shop.finish(lost, part)
    path = root_file(shop.store, lost)
    path.write_text(path.read_text()[:-10])
    main(["store", "verify", "--repair", "--store", str(shop.store), "--results", str(shop.folder / "absent")])
    assert f"{path}: " in capsys.readouterr().out
    assert not path.exists()
    assert shop.removable() == set()
    assert shop.removable(Policy(0.0, old=True)) == {shop.of(part)}

"""`cogtune store gc` and own prompts: a video is kept as long as a page shows it. The remover is guarded."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cogtune.commands.store_gc import Policy, collect
from cogtune.data.store import ShardWriter, row_ids
from cogtune.evaluation.report.prompts_page import VIDEOS
from cogtune.evaluation.report.publish import link_files
from cogtune.runtime.sums import check_sums, names_in_sums, write_sums
from cogtune.work.runs import write_run
from cogtune.work.slices import Slice
from cogtune.work.volatile import PromptRow, PromptsRun, UpstreamJob, Volatile
from tests.removal import only_below
from tests.unit.commands.test_store_gc import NOW, Shop

ROWS = ("row1", "row2", "row3", "row4")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with only_below(tmp_path):
        yield Shop(tmp_path)


def sampled(shop: Shop, results: Path) -> tuple[Slice, Path]:
    """The job of own prompts with four rows in two shards, and the text job that it needs."""
    text, sample = shop.job("text", 1), shop.job("sample", 1)
    folder = shop.of(sample)
    (folder / "rows").unlink()
    for pair in (ROWS[:2], ROWS[2:]):
        with ShardWriter(folder) as writer:
            for row in pair:
                writer.add(row, {"video": torch.zeros(1)})
    (folder / "videos").mkdir()
    for row in ROWS:
        (folder / f"videos/{row}.mp4").write_text(row)
    write_sums(folder, (folder / "videos").iterdir())
    run = PromptsRun([PromptRow(row, "sea", "id", 1, 1.0) for row in ROWS])
    volatile = Volatile(jobs={"text": UpstreamJob("text", text.key, text.items_key)}, prompts=run)
    write_run(results, "mine.prompts", {sample.key: volatile, text.key: text.volatile})
    return text, folder


def page(results: Path, name: str, folder: Path, *rows: str) -> Path:
    """The page ``name`` that shows ``rows``."""
    at = results / "mine/prompts" / name
    at.mkdir(parents=True)
    link_files(at / VIDEOS, {f"{row}-readable.mp4": folder / f"videos/{row}.mp4" for row in rows})
    return at


def test_all_is_kept_while_pages_show_it(shop: Shop) -> None:
    results = shop.results("mine")
    text, folder = sampled(shop, results)
    page(results, "one", folder, *ROWS[:3])
    page(results, "two", folder, *ROWS[2:])
    collection = collect(shop.store, results, NOW)
    assert {entry.folder for entry in collection.kept} == {folder, shop.of(text)}
    assert not collection.in_words()


def test_a_deleted_page_frees_the_videos_that_only_it_showed(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    results = shop.results("mine")
    text, folder = sampled(shop, results)
    shutil.rmtree(page(results, "one", folder, *ROWS[:3]))
    page(results, "two", folder, *ROWS[2:])
    assert not collect(shop.store, results, Policy(3600.0)).rows, "they are younger than --older-than"
    assert shop.gc("--older-than", "0") == 0
    assert "--yes removes 2 videos of own prompts" in capsys.readouterr().out
    assert row_ids(folder) == set(ROWS)
    assert shop.gc("--older-than", "0", "--yes") == 0
    assert row_ids(folder) == set(ROWS[2:])
    assert {path.stem for path in (folder / "videos").iterdir()} == set(ROWS[2:])
    assert names_in_sums(folder) == {f"videos/{row}.mp4" for row in ROWS[2:]}
    assert check_sums(folder)
    assert shop.of(text).exists()


def test_the_last_page_frees_all(shop: Shop) -> None:
    results = shop.results("mine")
    text, folder = sampled(shop, results)
    shutil.rmtree(page(results, "one", folder, *ROWS))
    assert shop.removable() == {folder, shop.of(text)}


def test_pages_of_another_results_folder_count(shop: Shop) -> None:
    results, theirs = shop.results("mine"), shop.results("theirs")
    _, folder = sampled(shop, results)
    sampled_again = next((results / ".runs").glob("*.json"))
    (theirs / ".runs").mkdir()
    shutil.copy(sampled_again, theirs / ".runs")
    page(theirs, "one", folder, *ROWS)
    assert not collect(shop.store, results, NOW).in_words()

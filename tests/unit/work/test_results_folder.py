"""results/<experiment>/ while a run goes on: a link there never leads nowhere."""

from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.work.results import SUMMARY
from cogtune.work.results_folder import LOG, PAGE, link_training, open_results

KEY, OLD = "0123456789ab", "ba9876543210"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def links(folder: Path) -> set[str]:
    """Names of the links, each of which must lead somewhere."""
    names = {path.name for path in folder.iterdir() if path.is_symlink()}
    assert all((folder / name).exists() for name in names)
    return names


def test_before_the_scan_there_is_the_folder(results: Path, store: Path) -> None:
    assert links(open_results(results, store, "mine", None)) == set()


def test_a_training_that_has_not_started_says_so(results: Path, store: Path) -> None:
    folder = open_results(results, store, "mine", KEY)
    assert links(folder) == {PAGE, LOG}
    assert "has not started" in (folder / PAGE).read_text()
    assert "has not started" in (folder / LOG).read_text()


def test_what_a_training_wrote_is_kept_and_linked(results: Path, store: Path) -> None:
    (results / ".logs").mkdir(parents=True)
    (results / f".logs/train-{KEY}.html").write_text("step 5")
    (results / f".logs/train-{KEY}.log").write_text("step 5")
    (store / f"train/{KEY}/checkpoints").mkdir(parents=True)
    folder = open_results(results, store, "mine", KEY)
    assert links(folder) == {PAGE, LOG, "checkpoints"}
    assert (folder / PAGE).read_text() == (folder / LOG).read_text() == "step 5"


def test_a_finished_training_does_not_wait(results: Path, store: Path) -> None:
    """Its log may be gone: results/ was deleted, or it ran elsewhere."""
    (store / f"train/{KEY}/final").mkdir(parents=True)
    (store / f"train/{KEY}/final" / SUMMARY).touch()
    assert links(open_results(results, store, "mine", KEY)) == set()


def test_links_to_another_training_are_replaced_or_removed(results: Path, store: Path) -> None:
    (store / f"train/{OLD}/checkpoints").mkdir(parents=True)
    folder = open_results(results, store, "mine", OLD)
    assert links(folder) == {PAGE, LOG, "checkpoints"}
    open_results(results, store, "mine", KEY)
    assert links(folder) == {PAGE, LOG}
    assert (folder / PAGE).resolve().name == f"train-{KEY}.html"
    (results / f".logs/train-{KEY}.log").unlink()
    link_training(results, folder, KEY, store / f"train/{KEY}/checkpoints")
    assert links(folder) == {PAGE}


def test_files_of_the_user_stay(results: Path, store: Path) -> None:
    for name in (PAGE, LOG, "checkpoints"):
        (results / "mine").mkdir(parents=True, exist_ok=True)
        (results / "mine" / name).write_text("mine")
    folder = open_results(results, store, "mine", KEY)
    assert links(folder) == set()
    assert {path.read_text() for path in folder.iterdir()} == {"mine"}


def test_a_folder_that_is_a_link_is_refused(results: Path, store: Path, tmp_path: Path) -> None:
    results.mkdir()
    (results / "mine").symlink_to(tmp_path)
    with pytest.raises(UserError, match="symbolic link"):
        open_results(results, store, "mine", KEY)

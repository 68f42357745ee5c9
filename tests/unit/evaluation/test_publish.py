import json
from pathlib import Path

import pytest

from cogtune.errors import UserError
from cogtune.evaluation.report.publish import publish, to_json


def published(folder: Path):
    return [path.name for path in folder.glob(".published-*")]


def test_a_then_b_then_a_shows_a(tmp_path: Path):
    results, store = tmp_path / "results" / "demo", tmp_path / "store"
    for name in ("A", "B", "A"):
        (store / "export" / name).mkdir(parents=True, exist_ok=True)
        marker = publish(results, name, {"report.html": name}, {"export": store / "export" / name})
        assert published(results) == [f".published-{name}"] == [marker.name]
        assert (results / "report.html").read_text() == name
        assert (results / "export").resolve() == (store / "export" / name).resolve()


def test_links_survive_a_move_of_results_and_store_together(tmp_path: Path):
    here = tmp_path / "here"
    (here / "store" / "export" / "k").mkdir(parents=True)
    publish(here / "results" / "demo", "k", {"report.html": ""}, {"export": here / "store" / "export" / "k"})
    there = here.rename(tmp_path / "there")
    assert (there / "results" / "demo" / "export").is_dir()


def test_no_marker_stands_when_publishing_fails(tmp_path: Path):
    publish(tmp_path, "A", {"report.html": "A"}, {})
    (tmp_path / "export").mkdir()
    with pytest.raises(UserError, match="export: is a folder, but the report needs"):
        publish(tmp_path, "B", {"report.html": "B"}, {"export": tmp_path / "elsewhere"})
    assert published(tmp_path) == []


def test_json_does_not_depend_on_order():
    assert to_json({"b": 1, "a": {"d": "é", "c": 2}}) == to_json({"a": {"c": 2, "d": "é"}, "b": 1})
    assert json.loads(to_json({"a": 1})) == {"a": 1}
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": float("nan")})


def test_the_page_has_a_second_name_that_may_be_deleted(tmp_path: Path) -> None:
    """Snakemake deletes it when a job starts or fails; an older one does not stay."""
    for key, text in (("a" * 12, "first"), ("b" * 12, "second")):
        publish(tmp_path, key, {"report.html": text}, {})
        (page,) = tmp_path.glob(".page-*")
        assert (page.name, page.read_text()) == (f".page-{key}.html", text)
        assert page.samefile(tmp_path / "report.html")
    page.unlink()
    assert (tmp_path / "report.html").read_text() == "second"


def test_files_have_names_of_their_own(tmp_path: Path) -> None:
    """A folder of links, also where an earlier version made one link to the folder of the store. Files of the user stay."""
    results, store = tmp_path / "results/demo", tmp_path / "store/sample/k/videos"
    store.mkdir(parents=True)
    for name in ("a", "b"):
        (store / name).write_text(name)
    publish(results, "A", {}, {"samples": store})
    publish(results, "B", {}, {}, files={"samples": {"01-wave.mp4": store / "a", "02-sea.mp4": store / "b"}})
    assert sorted(path.name for path in store.iterdir()) == ["a", "b"]
    assert {path.name: path.read_text() for path in (results / "samples").iterdir()} == {
        "01-wave.mp4": "a",
        "02-sea.mp4": "b",
    }
    (results / "samples/mine.txt").write_text("mine")
    publish(results, "C", {}, {}, files={"samples": {"01-sea.mp4": store / "b"}})
    assert sorted(path.name for path in (results / "samples").iterdir()) == ["01-sea.mp4", "mine.txt"]
    with pytest.raises(UserError, match="is a file, but the report needs this name"):
        publish(results, "D", {}, {}, files={"samples": {"mine.txt": store / "a"}})
    with pytest.raises(UserError, match="expected a plain relative path inside"):
        publish(results, "E", {}, {}, files={"samples": {"../x": store / "a"}})

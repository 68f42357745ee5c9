"""Lines are added to config/config.yaml; every other byte stays, and what is read is what was meant."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cogtune.config.errors import ConfigError
from cogtune.setup.config_lines import _scalar, check_new_name, indent_of, lines_of, with_experiment, write
from cogtune.setup.settings import NewExperiment, choose
from cogtune.work.workspace import Workspace
from tests.unit.setup.wishes import data, wish

REPO = Path(__file__).parents[3]
SHIPPED = (REPO / "config/config.yaml").read_text()
FORMS = {
    "shipped": SHIPPED,
    "comments": "# top\nexperiments:\n  a:   # first\n    base: [x.yaml]\n    # inside\n\n# below\nsweep: null\n",
    "other indent": "experiments:\n    a:\n        base: x.yaml\nstore_dir: s\n",
    "last, no newline": "store_dir: s\nexperiments:\n  a: {base: [x.yaml], set: [k=1]}",
    "none yet": "store_dir: s\nexperiments:\n",
    "no key": "store_dir: s\n",
    "windows": "store_dir: s\r\nexperiments:\r\n  a:\r\n    base: [x.yaml]\r\n",
    "block text": "experiments:\n  a:\n    base: [x.yaml]\n    set:\n    - >-\n      k=1\n\nresolvers: [oc.env]\n",
}


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> NewExperiment:
    monkeypatch.chdir(REPO)
    return choose(wish(data=data(8, 8, folder='my: "clips", {ü} #1')))


@pytest.mark.parametrize("form", FORMS)
def test_lines_are_added(form: str, experiment: NewExperiment, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(FORMS[form].encode())
    lines = lines_of(experiment, ["cogtune", "new", "mine"], indent_of(FORMS[form]))
    text = with_experiment(FORMS[form], "mine", lines, path)
    write(path, FORMS[form], text, experiment)
    assert path.read_bytes() == text.encode()
    before, after = FORMS[form].splitlines(), text.splitlines()
    added = set(lines) | {"experiments:"}
    assert [line for line in after if line not in added] == [line for line in before if line not in added]
    assert ("\r\n" in text) == (form == "windows")
    body = yaml.safe_load(text)["experiments"]["mine"]
    assert body["set"] == [one.override for one in experiment.settings]
    assert Workspace.load(path).experiments["mine"].base == experiment.base
    others = {name: value for name, value in yaml.safe_load(text).items() if name != "experiments"}
    assert others == {k: v for k, v in (yaml.safe_load(FORMS[form]) or {}).items() if k != "experiments"}


@pytest.mark.parametrize(
    "text", ["experiments: {a: {base: [x.yaml]}}\n", "{experiments: {a: {base: [x.yaml]}}}\n", "experiments: {}\n"]
)
def test_braces_are_not_edited(text: str, experiment: NewExperiment, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"in braces, .*\n  mine:"):
        with_experiment(text, "mine", lines_of(experiment, ["x"]), tmp_path)


def test_a_link_and_its_mode_stay(experiment: NewExperiment, tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "config.yaml"
    real.write_text(SHIPPED)
    real.chmod(0o640)
    link.symlink_to(real)
    write(link, SHIPPED, with_experiment(SHIPPED, "mine", lines_of(experiment, ["x"]), link), experiment)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "mine:" in real.read_text()
    assert os.listdir(tmp_path) == ["real.yaml", "config.yaml"] or len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("added", ["  other:\n    base: [y.yaml]\n", "# only a comment\n"])
def test_a_file_that_changed_meanwhile_is_not_overwritten(
    added: str, experiment: NewExperiment, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SHIPPED)
    text = with_experiment(SHIPPED, "mine", lines_of(experiment, ["x"]), path)
    path.write_text(SHIPPED + added)
    with pytest.raises(ConfigError, match="run the same command again"):
        write(path, SHIPPED, text, experiment)
    assert path.read_text() == SHIPPED + added


@pytest.mark.parametrize(
    "name", ["on", "null", "123", "1.5", "0x1f", "1_000", "2024-01-01", "1e3", "-a", "--", "---", "_"]
)
def test_names_that_yaml_reads_as_something_else(name: str, experiment: NewExperiment, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SHIPPED)
    named = replace(experiment, name=name)
    write(path, SHIPPED, with_experiment(SHIPPED, name, lines_of(named, ["x"]), path), named)
    assert Workspace.load(path).experiments[name].base == experiment.base


@pytest.mark.parametrize(
    ("name", "message"),
    [("demo", "already|has an experiment 'demo'"), ("a/b", "invalid folder name"), (".x", "invalid"), ("", "invalid")],
)
def test_names(name: str, message: str) -> None:
    path = REPO / "config/config.yaml"
    with pytest.raises(ConfigError, match=message):
        check_new_name(Workspace.load(path), name, path)


@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=30))
def test_any_text_is_read_as_written(text: str) -> None:
    assert yaml.safe_load(f"- {_scalar('args.train_data=' + text)}  # why\n") == [f"args.train_data={text}"]

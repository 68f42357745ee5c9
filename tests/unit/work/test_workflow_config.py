"""Folders that config/config.yaml names reach Snakemake's patterns and a shell: any name works, or is refused."""

import re
from pathlib import Path

import pytest
import yaml

from cogtune.config.errors import ConfigError
from cogtune.work.experiment import Experiment, with_place
from cogtune.work.stages import STAGES
from cogtune.work.workflow_config import workflow_values
from cogtune.work.workspace import Workspace

REPO = Path(__file__).parents[3]


@pytest.mark.parametrize("key", ["store_dir", "results_dir"])
@pytest.mark.parametrize("name", ["r{x}", "}", "a\nb", "-r", "--store=x", "file/below", "file", "/dev/null"])
def test_a_folder_that_snakemake_or_the_system_cannot_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("config.yaml").write_text(yaml.safe_dump({key: name}))
    with pytest.raises(ConfigError, match=f"config.yaml: {key}: .*expected"):
        workflow_values("config.yaml", {})
    with pytest.raises(ConfigError, match=f"{key}: .*expected"):
        workflow_values("config.yaml", {key: name})


@pytest.mark.parametrize("name", ["my results", "a;b", "$(id)", 'q"', "it's", "s*[1]", "ä/ü", "..", "/tmp/x y"])
def test_any_other_name_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"store_dir": name}))
    assert workflow_values(tmp_path / "config.yaml", {}).store_dir == Path(name)


def test_a_tilde_is_the_home_folder_as_in_every_other_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.yaml").write_text("store_dir: ~/store")
    assert workflow_values(tmp_path / "config.yaml", {}).store_dir == tmp_path / "store"


def test_every_path_in_a_rule_is_quoted_for_the_shell() -> None:
    rules = sorted(REPO.glob("workflow/rules/*.smk"))
    lines = [line for rule in rules for line in rule.read_text().splitlines() if "python -m cogtune" in line]
    assert {line.split("python -m cogtune ")[1].split()[0] for line in lines} == {*STAGES, "sweep"}
    named = [name for line in lines for name in re.findall(r"{([^{}]*)}", line)]
    assert {name for name in named if not name.endswith(":q")} == set()


def test_what_was_typed_after_the_set_of_an_experiment() -> None:
    """The last one wins, and is named."""
    experiment = Experiment(
        "a", ("x.yaml",), ("args.seed=1", "args.load.experiment=b", "args.seed=2"), place="c.yaml", typed=1
    )
    origin = {"args.seed": "command line", "args.load.experiment": "command line", "args.lr": "x.yaml:3"}
    assert with_place(origin, experiment) == origin | {"args.load.experiment": "c.yaml"}


def test_ranks_of_a_profile_win_over_those_of_an_experiment(tmp_path: Path) -> None:
    """A profile gives them by `--config`, for its machines; what `cogtune new` writes is for the machine of the user."""
    path = tmp_path / "config.yaml"
    path.write_text("experiments: {a: {base: [x.yaml], ranks: 2}, b: {base: [x.yaml]}}")
    ranks = {name: known.ranks for name, known in Workspace.load(path, {"ranks": 8}).experiments.items()}
    assert ranks == {"a": 8, "b": 8}
    assert Workspace.load(path).experiments["a"].ranks == 2


@pytest.mark.parametrize("values", [{"experiments": {"by-hand": {"base": ["a.yaml"]}}}, {"sweep": {"by-hand": {}}}])
def test_the_folder_of_commands_without_an_experiment_is_no_name_of_one(
    tmp_path: Path, values: dict[str, object]
) -> None:
    """Pages of `cogtune sample WEIGHTS` are in results/by-hand/."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(
        ConfigError, match="'by-hand': by-hand is the folder of results of commands without an experiment"
    ):
        workflow_values(tmp_path / "config.yaml", {})

"""config/config.yaml: experiments, sweeps, one-off runs, and what is wrong with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.work.experiment import Experiment
from cogtune.work.sweeps import expand_sweep
from cogtune.work.workspace import Workspace

START = {"demo": Experiment("demo", ("a.yaml",), ("args.seed=1",), ranks=2)}
VALUES = st.lists(st.integers(0, 999), min_size=1, max_size=4, unique=True)


def expand(body: Any, name: str = "lr"):
    return expand_sweep(name, body, START, 1, f"config.yaml: sweep.{name}")


@given(st.dictionaries(st.sampled_from(["args.lr", "args.seed", "args.train_iters"]), VALUES, min_size=1))
def test_every_point_of_the_grid_is_one_experiment(grid: Any):
    sweep, members = expand({"experiment": "demo", "grid": grid})
    size = 1
    for values in grid.values():
        size *= len(values)
    assert len(members) == len(sweep.points) == size
    assert list(members) == list(sweep.points)
    for name, point in sweep.points.items():
        assert members[name].set == ("args.seed=1", *(f"{key}={value}" for key, value in point.items()))
        assert members[name].base == ("a.yaml",)
        assert members[name].ranks == 2


def test_names_are_short_and_are_folders():
    grid = {
        "model.a.params.r": [1e-4, "x/../y"],
        "model.b.params.r": [[480, 720]],
        "args.load": [None],
        "args.bf16": [True],
    }
    _, members = expand({"experiment": "demo", "grid": grid})
    assert list(members) == [
        "lr-a_params_r_0.0001-b_params_r_480x720-load_null-bf16_true",
        "lr-a_params_r_x_.._y-b_params_r_480x720-load_null-bf16_true",
    ]
    assert "model.b.params.r=[480, 720]" in next(iter(members.values())).set


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "expected a mapping with `grid"),
        ({"experiment": "demo"}, "expected a mapping with `grid"),
        ({"experiment": "demo", "grid": {"args.lr": 1}}, "sweep.lr.grid.args.lr: expected a list of values"),
        ({"experiment": "demo", "grid": {"args.lr": []}}, "expected a list of values"),
        ({"experiment": "demo", "grid": {"args": [{"lr": 1}]}}, "sweep the keys of the mapping instead"),
        ({"experiment": "demmo", "grid": {"args.lr": [1]}}, "unknown experiment 'demmo'; expected one of demo"),
        ({"experiment": "demo", "base": ["b"], "grid": {"args.lr": [1]}}, "not both"),
        ({"grid": {"args.lr": [1]}}, "expected a mapping with `base"),
        ({"experiment": "demo", "grids": {}, "grid": {"args.lr": [1]}}, "unknown key 'grids'"),
        ({"experiment": "demo", "grid": {"args.lr": ["a b", "a_b"]}}, "two points get the same name 'lr-lr_a_b'"),
    ],
)
def test_what_is_wrong_with_a_sweep(body: dict[str, Any] | list[Any], message: str):
    with pytest.raises(ConfigError) as caught:
        expand(body)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "experiments: {a: {base: [x.yaml]}}\nsweep: {a: {experiment: a, grid: {args.lr: [1]}}}",
            "there is already an experiment 'a'",
        ),
        ("experiments: [a]", "experiments: expected a mapping"),
        ("experiments: {a: {base: [x.yaml], ranks: two}}", "experiments.a.ranks: expected an integer"),
        ("experiments: {a: {base: [x.yaml], set: {a: 1}}}", "experiments.a.set: expected a list of strings"),
        ("experiments: {../a: {base: [x.yaml]}}", "invalid folder name"),
        ("experiments: {a: {base: [x.yaml]}}\nplugins: os", "plugins: expected a list"),
        ("experiments: {a: {base: [x.yaml]}}\nplugins: [os]", "so it cannot be a plugin"),
        (
            "experiments: {a: {base: [x.yaml]}}\nresolvers: [eval]",
            "resolvers: unknown resolver 'eval'; expected oc.env",
        ),
        ("experimints: {}", "experimints: unknown key; did you mean 'experiments'?"),
        ("{}", "no experiments; expected names"),
    ],
)
def test_what_is_wrong_with_a_workflow_config(text: str, message: str, tmp_path: Path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Workspace.load(tmp_path / "config.yaml")
    assert message in str(caught.value)


def test_a_one_off_run_is_the_only_target_and_knows_the_others(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("experiments: {a: {base: [x.yaml]}}\nsweep: {s: {experiment: a, grid: {args.seed: [1, 2]}}}")
    everything = Workspace.load(path)
    assert everything.targets == ("a", "s-seed_1", "s-seed_2")
    assert list(everything.sweeps) == ["s"]
    once = Workspace.load(
        path, {"run": "try", "base": "y.yaml z.yaml", "set": "args.load.experiment=s-seed_1 args.seed=3"}
    )
    assert once.targets == ("try",)
    assert replace(once.experiments["try"], started_by="") == Experiment(
        "try", ("y.yaml", "z.yaml"), ("args.load.experiment=s-seed_1", "args.seed=3")
    )
    assert "s-seed_1" in once.experiments
    assert not once.sweeps


def test_resolvers_are_allowed_by_the_workflow_config_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny = (
        (Path(__file__).parents[2] / "workflow/tiny.yaml")
        .read_text()
        .replace("scale_factor: 0.9", "scale_factor: ${oc.env:COGTUNE_S}")
    )
    (tmp_path / "tiny.yaml").write_text(tiny)
    path = tmp_path / "config.yaml"
    text = f"experiments: {{a: {{base: [{tmp_path}/tiny.yaml]}}}}"
    path.write_text(text)
    workspace = Workspace.load(path)
    with pytest.raises(ConfigError, match=r"tiny.yaml:3:\d+: model.scale_factor: .*resolvers: \[oc.env\]"):
        workspace.load_config(workspace.experiments["a"], check_files=False)
    path.write_text(text + "\nresolvers: [oc.env]")
    workspace = Workspace.load(path)
    with pytest.raises(ConfigError, match="COGTUNE_S"):
        workspace.load_config(workspace.experiments["a"], check_files=False)
    monkeypatch.setenv("COGTUNE_S", "0.7")
    config = workspace.load_config(workspace.experiments["a"], check_files=False)
    assert config.values["model"]["scale_factor"] == 0.7


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"run": "try", "base": "y.yaml", "sett": "args.seed=3"}, "--config: sett: unknown key; did you mean 'set'?"),
        ({"storedir": "/x"}, "--config: storedir: unknown key; did you mean 'store_dir'?"),
        ({"rnu": "try", "base": "y.yaml"}, "--config: rnu: unknown key; did you mean 'run'?"),
        ({"ranks": "two"}, "--config: ranks: expected an integer or null; found 'two'"),
        ({"ranks": 0}, "--config: ranks: expected 1 to 1024"),
        ({"demo_data": "yes please"}, "--config: demo_data: expected true or false"),
        ({"plugins": "os"}, "--config: plugins: expected a list of strings"),
        ({"store_dir": ""}, "--config: store_dir: expected a path; found an empty string"),
        ({"run": "try"}, "--config: run: 'try' needs config files: run=try base=\"a.yaml b.yaml\""),
        ({"set": "args.seed=3"}, "--config: set: needs a name for the one-off experiment: run=NAME"),
        (
            {"run": "try", "base": {"y.yaml": 1}},
            "--config: base: expected a string or a list of strings or null; found a mapping",
        ),
        ({"run": "a", "base": "y.yaml"}, "--config: run: {path} already has an experiment 'a'; choose another name"),
        ({"seed": 3}, "--config: seed: unknown key; a key of this name exists in args"),
    ],
)
def test_snakemakes_config_is_checked_as_the_file_is(asked: dict[str, Any], message: str, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("experiments: {a: {base: [x.yaml]}}")
    with pytest.raises(ConfigError) as caught:
        Workspace.load(path, asked)
    assert message.format(path=path) in str(caught.value)


def test_every_slip_of_file_and_command_line_is_told_at_once(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("experimints: {}\nranks: [2]")
    with pytest.raises(ConfigErrors) as caught:
        Workspace.load(path, {"storedir": "x", "ranks": "many"})
    assert [str(error).partition(";")[0] for error in caught.value.errors] == [
        f"{path}:1:1: experimints: unknown key",
        f"{path}:2:1: ranks: expected an integer or null",
        "--config: storedir: unknown key",
        "--config: ranks: expected an integer or null",
    ]


def test_base_and_set_may_be_lists_and_a_run_a_number(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("experiments: {a: {base: [x.yaml]}}\nstore_dir: here")
    once = Workspace.load(path, {"run": 7, "base": ["y z.yaml"], "set": ["args.seed=3"], "results_dir": "there"})
    assert replace(once.experiments["7"], started_by="") == Experiment("7", ("y z.yaml",), ("args.seed=3",))
    assert (str(once.store), str(once.results)) == ("here", "there")

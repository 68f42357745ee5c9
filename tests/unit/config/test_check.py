"""A slip in any key is refused with the right name; a value of the wrong type is refused; all errors come at once."""

import copy
import functools
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cogtune.config.errors import ConfigError, ConfigErrors
from cogtune.config.hints import all_keys
from cogtune.config.key_types import members
from cogtune.config.merge import check, read
from cogtune.config.tree import from_plain
from cogtune.work.load import load_config

CONFIG = Path(__file__).parents[3] / "config"
MODELS = sorted(path.name for path in CONFIG.glob("cogvideox*.yaml") if path.name != "cogvideox_common.yaml")
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


@functools.cache
def merged(model: str, rest: str) -> dict[str, Any]:
    return read([CONFIG / model, CONFIG / rest]).plain()


def keys_of(tree: Any, path: tuple[Any, ...] = ()) -> typing.Iterator[tuple[Any, ...]]:
    """Every key of every mapping."""
    for name, inner in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if isinstance(name, str):
            yield (*path, name)
        yield from keys_of(inner, (*path, name))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def message_of(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigErrors) as caught:
        check(from_plain(tree), check_files=False)
    return str(caught.value)


@st.composite
def slips(draw: st.DrawFn) -> tuple[dict[str, Any], str, str]:
    """(config, right key, the same key with one letter changed, left out, doubled or swapped)."""
    tree = merged(draw(st.sampled_from(MODELS)), draw(st.sampled_from(["sft.yaml", "inference.yaml"])))
    path = draw(st.sampled_from([path for path in keys_of(tree) if len(path) > 1]))
    name = path[-1]
    i, letter = draw(st.integers(0, len(name) - 1)), draw(st.sampled_from(LETTERS))
    wrong = draw(
        st.sampled_from(
            [
                name[:i] + letter + name[i + 1 :],
                name[:i] + name[i + 1 :],
                name[:i] + letter + name[i:],
                name[:i] + name[i + 1 : i + 2] + name[i] + name[i + 2 :],
            ]
        )
    )
    return tree, ".".join(map(str, path)), wrong


@pytest.mark.heavy
@settings(max_examples=200, deadline=None)
@given(slips())
def test_a_slip_in_any_key_is_refused_with_the_right_name(slip: Any):
    tree, dotted, wrong = slip
    *parents, name = dotted.split(".")
    changed = copy.deepcopy(tree)
    owner = at(changed, tuple(int(part) if part.isdecimal() else part for part in parents))
    known = {key.path.rpartition(".")[2] for key in all_keys()} | {"target", "params"}
    assume(wrong != name and wrong not in owner and wrong not in known)
    renamed = [(wrong if key == name else key, value) for key, value in owner.items()]
    owner.clear()
    owner.update(renamed)
    message = message_of(changed)
    assert f"{'.'.join([*parents, wrong])}: unknown key" in message
    assert name in message.partition("unknown key")[2]


def fits(value: Any, declared: Any) -> bool:
    """Whether a value has a type, told independently of the checker."""
    for kind in members(declared):
        if kind is type(None) and value is None:
            return True
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return True
        if isinstance(kind, type) and kind in (int, str, bool) and type(value) is kind:
            return True
        if typing.get_origin(kind) is list and isinstance(value, list):
            return all(fits(item, typing.get_args(kind)[0]) for item in value)
        if isinstance(value, dict) and (typing.get_origin(kind) is dict or hasattr(kind, "__dataclass_fields__")):
            return True
    return False


WRONG = ["text", "1e-5", "true", 1, 1.5, True, None, [1.5], ["x"], [None], {"x": 1}, float("nan"), float("inf")]


@pytest.mark.heavy
@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MODELS), st.sampled_from(["sft.yaml", "inference.yaml"]), st.data())
def test_a_value_of_a_wrong_type_is_refused(model: Any, rest: Any, data: Any):
    tree = copy.deepcopy(merged(model, rest))
    declared: dict[str, list[Any]] = {}
    for key in all_keys():
        declared.setdefault(key.path, []).append(key.field)
    leaves = {path: ".".join("*" if isinstance(part, int) else part for part in path) for path in keys_of(tree)}
    path = data.draw(st.sampled_from([path for path, dotted in leaves.items() if dotted in declared]))
    value = data.draw(st.sampled_from(WRONG))
    fields = declared[leaves[path]]
    assume(not any(fits(value, field.type) or field.key.node == "dataset" for field in fields) or value in ({"x": 1},))
    at(tree, path[:-1])[path[-1]] = value
    assert ".".join(map(str, path)) in message_of(tree)


def test_all_errors_at_once_each_with_its_place(write: Callable[..., Any]):
    model = write(
        "base: %s\nmodel:\n  scale_facto: 1\n  lora_train: maybe\n  sampler_config:\n    target: Sampler\n"
        "  network_config:\n    params:\n      num_layers: 0\n      patch_size: [1, 2]\n"
        % (CONFIG / "cogvideox_2b.yaml")
    )
    rest = write(
        "args:\n  mode: tune\n  seed: -1\n  lr: fast\ndeepspeed:\n  gradient_cliping: 1\n  fp16: true\n", "b.yaml"
    )
    with pytest.raises(ConfigErrors) as caught:
        load_config([model, rest], ["args.warmup=2", "--save-interval", "often"], check_files=False)
    text = str(caught.value)
    for expected in (
        "a.yaml:3:3: model.scale_facto: unknown key; did you mean 'scale_factor'",
        "a.yaml:4:3: model.lora_train: expected true or false; found 'maybe'",
        "a.yaml:6:5: model.sampler_config.target: unknown target 'Sampler'; did you mean 'VideoDDIMSampler'?",
        "a.yaml:9:7: model.network_config.params.num_layers: expected 1 to 1000, because published models have",
        "b.yaml:2:3: args.mode: expected pretrain, finetune or inference; found 'tune'; did you mean 'finetune'?",
        "b.yaml:3:3: args.seed: expected 1 to 4294967295, because NumPy, which upstream seeds too, takes 32 bits; found -1",
        "b.yaml:4:3: args.lr: expected a number; found 'fast'",
        "b.yaml:6:3: deepspeed.gradient_cliping: unknown key; did you mean 'gradient_clipping'",
        "b.yaml:7:3: deepspeed.fp16: expected a mapping; found true",
        "command line: args.warmup: expected 0 to 1, because it is a fraction; found 2.0",
        "command line: args.save_interval: expected an integer; found 'often'",
    ):
        assert expected in text
    assert text.startswith(f"{len(caught.value.errors)} errors")


def test_a_key_in_the_wrong_place_is_told_where_it_belongs(write: Callable[..., Any]):
    tree = copy.deepcopy(merged("cogvideox_2b.yaml", "sft.yaml"))
    tree["model"]["num_attention_heads"] = 30
    assert "a key of this name exists in model.network_config.params" in message_of(tree)


def test_removed_and_unused_deepspeed_keys_say_why():
    tree = copy.deepcopy(merged("cogvideox_2b.yaml", "sft.yaml"))
    tree["deepspeed"] |= {
        "nebula": {},
        "autotuning": {},
        "bfloat16": {"enabled": True},
        "scheduler": {"type": "WarmupLR"},
    }
    text = message_of(tree)
    for expected in (
        "deepspeed.nebula: DeepSpeed has removed this key",
        "deepspeed.autotuning: not supported by this trainer",
        "deepspeed.bfloat16: old spelling; use bf16",
        "deepspeed.scheduler: a mapping is not available: args.lr_decay_style",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("value", "accepted"), [(True, False), ({"experiment": "demo"}, True), ("x.pt", True), (None, True)]
)
def test_load_is_a_path_or_an_experiment(value: Any, accepted: bool):
    tree = copy.deepcopy(merged("cogvideox_2b.yaml", "sft.yaml"))
    tree["args"]["load"] = value
    if accepted:
        assert check(from_plain(tree), check_files=False).values["args"]["load"] == value
    else:
        assert "args.load: expected a string or a mapping or null" in message_of(tree).replace(
            "a mapping or a string", "a string or a mapping"
        )


def test_files_that_are_not_there(write: Callable[..., Any], tmp_path: Path):
    (tmp_path / "t5").mkdir()
    overrides = [
        f"model.conditioner_config.params.emb_models.0.params.model_dir={tmp_path / 't5'}",
        "model.first_stage_config.params.ckpt_path=/nowhere/3d-vae.pt",
    ]
    with pytest.raises(ConfigError) as caught:
        load_config([CONFIG / "cogvideox_2b.yaml", CONFIG / "sft.yaml"], overrides)
    text = str(caught.value)
    assert "ckpt_path: no such file or folder: '/nowhere/3d-vae.pt'" in text
    assert "args.load: no such file or folder: 'weights/cogvideox-2b/transformer'" in text
    assert "args.train_data.0: {folder with videos/ and labels/} is a placeholder" in text
    assert "model_dir" not in text
    files = load_config([CONFIG / "cogvideox_2b.yaml", CONFIG / "sft.yaml"], overrides, check_files=False).files
    assert files["model.conditioner_config.params.emb_models.0.params.model_dir"] == str(tmp_path / "t5")


def test_numbers_and_text_from_the_command_line_take_the_declared_type():
    files = [CONFIG / "cogvideox_2b.yaml", CONFIG / "sft.yaml"]
    config = load_config(
        files,
        ["--lr", "1", "args.input_file=7", "args.input_type=txt", "args.split=1", "--load", "010"],
        check_files=False,
    )
    assert config.values["args"]["input_file"] == "7"
    assert config.values["args"]["load"] == "010"
    assert isinstance(config.values["args"]["lr"], float)
    config = load_config(files, ["deepspeed.zero_optimization.reduce_bucket_size=5e8"], check_files=False)
    assert config.values["deepspeed"]["zero_optimization"]["reduce_bucket_size"] == 500_000_000


@pytest.mark.parametrize("named", ["my.Lion", "Lion", "", None, [1], {"a": 1}])
def test_a_wrong_optimizer_is_told_at_its_key_beside_all_other_errors(named: Any) -> None:
    tree = copy.deepcopy(merged("cogvideox_2b.yaml", "sft.yaml"))
    tree["deepspeed"]["optimizer"]["type"], tree["args"]["seed"] = named, -1
    told = message_of(tree)
    assert told.count("deepspeed.optimizer.type: ") == 1
    assert "args.seed: " in told
    assert "Node(" not in told

"""Two keys of one setting: the command line wins, whichever it names; two that differ there are refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cogtune.config import reconcile
from cogtune.config.errors import ConfigError
from cogtune.config.merge import Config
from cogtune.work.load import load_config

CONFIG = Path(__file__).parents[3] / "config"
SAMPLER = "model.sampler_config.params"
INNER = "model.network_config.params.transformer_args.checkpoint_activations"


@dataclass(frozen=True)
class Pair:
    """``strong`` decides where files give both; ``also``: overrides that make all these values legal."""

    strong: str
    weak: str
    strong_value: Any
    weak_value: Any
    also: tuple[str, ...] = ()


PAIRS = [
    Pair("deepspeed.train_micro_batch_size_per_gpu", "args.batch_size", 2, 3),
    Pair("deepspeed.gradient_accumulation_steps", "args.gradient_accumulation_steps", 2, 3),
    Pair("deepspeed.optimizer.params.lr", "args.lr", 0.002, 0.003),
    Pair("deepspeed.optimizer.params.weight_decay", "args.weight_decay", 0.2, 0.3),
    Pair("deepspeed.zero_optimization.stage", "args.zero_stage", 1, 2),
    Pair("deepspeed.bf16.enabled", "args.bf16", True, False),
    Pair("deepspeed.fp16.enabled", "args.fp16", False, True, ("deepspeed.bf16.enabled=false",)),
    Pair("args.checkpoint_activations", INNER, True, False),
]
IDS = [pair.weak.rpartition(".")[2] for pair in PAIRS]


def at(config: Config, key: str) -> Any:
    value: Any = config.values
    for part in key.split("."):
        value = value[part]
    return value


def load(folder: Path, files: dict[str, Any], *overrides: str) -> Config:
    """Upstream's kind of files, with ``files`` (dotted key -> value) in one more."""
    tree: dict[str, Any] = {}
    for key, value in files.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    (folder / "more.yaml").write_text(yaml.safe_dump(tree))
    paths = [CONFIG / "cogvideox_5b.yaml", CONFIG / "sft.yaml", folder / "more.yaml"]
    return load_config(paths, overrides, check_files=False)


def typed(key: str, value: Any) -> str:
    return f"{key}={str(value).lower()}"


def overruled(config: Config, *keys: str) -> list[str]:
    return [notice for notice in config.notices if ": ignored: " in notice and any(key in notice for key in keys)]


def test_every_pair_is_in_the_table() -> None:
    assert set(reconcile._PAIRS) <= {(pair.strong, pair.weak) for pair in PAIRS}


@pytest.mark.parametrize("pair", PAIRS, ids=IDS)
@pytest.mark.parametrize("wins", ["strong", "weak"])
def test_the_command_line_wins_over_the_other_key_in_a_file(tmp_path: Path, pair: Pair, wins: str) -> None:
    one, other = (pair.strong, pair.weak) if wins == "strong" else (pair.weak, pair.strong)
    values = {pair.strong: pair.strong_value, pair.weak: pair.weak_value}
    config = load(tmp_path, {other: values[other]}, *pair.also, typed(one, values[one]))
    assert at(config, one) == values[one]
    assert at(config, other) == values[one]
    assert config.origin[one] == "command line"
    assert not overruled(config, pair.strong, pair.weak)


@pytest.mark.parametrize("pair", PAIRS, ids=IDS)
def test_both_on_the_command_line_are_refused_where_they_differ(tmp_path: Path, pair: Pair) -> None:
    words = [typed(pair.strong, pair.strong_value), typed(pair.weak, pair.weak_value)]
    with pytest.raises(
        ConfigError, match=r"^command line: \S+: \S+, but \S+ is \S+, and both are the same setting; set only one"
    ):
        load(tmp_path, {}, *pair.also, *words)
    load(tmp_path, {}, *pair.also, typed(pair.strong, pair.strong_value), typed(pair.weak, pair.strong_value))


@pytest.mark.parametrize("pair", PAIRS[:7], ids=IDS[:7])
def test_the_deepspeed_section_decides_among_files(tmp_path: Path, pair: Pair) -> None:
    config = load(tmp_path, {pair.strong: pair.strong_value, pair.weak: pair.weak_value}, *pair.also)
    assert at(config, pair.strong) == at(config, pair.weak) == pair.strong_value
    assert config.origin[pair.weak] == pair.strong
    assert len(overruled(config, pair.weak)) == 1


def test_either_switch_turns_recomputing_on_among_files(tmp_path: Path) -> None:
    config = load(tmp_path, {"args.checkpoint_activations": True, INNER: False})
    assert at(config, INNER) is True
    config = load(tmp_path, {"args.checkpoint_activations": False, INNER: True})
    assert at(config, INNER) is True


@pytest.mark.parametrize(
    ("files", "typed_keys", "policy", "ignored"),
    [
        # upstream's files turn both on; a name in a file decides, that of args first
        ({"args.checkpoint_activations": "attention"}, {}, "attention", INNER),
        ({"args.checkpoint_activations": "selective"}, {}, False, INNER),
        ({"args.checkpoint_activations": "full"}, {}, True, None),
        ({INNER: "none"}, {}, "none", "args.checkpoint_activations"),
        ({INNER: "none", "args.checkpoint_activations": "attention"}, {}, "attention", INNER),
        # the command line decides over any file
        ({INNER: "none"}, {"args.checkpoint_activations": "attention"}, "attention", None),
        ({"args.checkpoint_activations": "none"}, {INNER: "selective"}, False, None),
        ({"args.checkpoint_activations": "none"}, {"args.checkpoint_activations": "false"}, False, None),
    ],
)
def test_a_named_policy_decides(
    tmp_path: Path, files: dict[str, Any], typed_keys: dict[str, str], policy: bool | str, ignored: str | None
) -> None:
    config = load(tmp_path, files, *(f"{key}={value}" for key, value in typed_keys.items()))
    assert at(config, INNER) == at(config, "args.checkpoint_activations") == policy
    notices = [notice.partition(":")[0] for notice in config.notices if notice.endswith("names a policy")]
    assert notices == ([ignored] if ignored else [])


def test_the_number_of_sampling_steps_is_the_one_that_is_typed(tmp_path: Path) -> None:
    """`args.sampling_steps`, where it is set, stands for the sampler's and the guider's number."""
    own, ramp = f"{SAMPLER}.num_steps", f"{SAMPLER}.guider_config.params.num_steps"
    config = load(tmp_path, {own: 50}, "args.sampling_steps=20")
    assert (at(config, "args.sampling_steps"), at(config, ramp)) == (20, 20)
    config = load(tmp_path, {"args.sampling_steps": 20}, f"{own}=40", f"{ramp}=40")
    assert (at(config, "args.sampling_steps"), at(config, own)) == (None, 40)
    with pytest.raises(
        ConfigError, match=r"args\.sampling_steps: 20, but \S+num_steps is 40, and both are the same setting"
    ):
        load(tmp_path, {}, "args.sampling_steps=20", f"{own}=40")


def test_a_sweep_of_the_weak_key_is_a_sweep(tmp_path: Path) -> None:
    """Members of a sweep are overrides; all of them had one learning rate."""
    files = {"deepspeed.optimizer.params.lr": 1e-5}
    rates = [at(load(tmp_path, files, f"args.lr={rate}"), "deepspeed.optimizer.params.lr") for rate in (1e-3, 1e-4)]
    assert rates == [1e-3, 1e-4]


LORA, PREFIXES = "model.lora_train", "model.not_trainable_prefixes"


@pytest.mark.parametrize(
    ("files", "words", "expected", "notices"),
    [
        ({LORA: True}, [], ["all"], 0),
        ({LORA: True, PREFIXES: ["x"]}, [], ["all"], 1),
        ({PREFIXES: ["x"]}, [f"{LORA}=true"], ["all"], 0),
        ({LORA: True}, [f"{PREFIXES}=[x]"], ["x"], 0),
        ({}, [f"{LORA}=true", f"{PREFIXES}=[all]"], ["all"], 0),
        ({}, [f"{LORA}=true", f"{PREFIXES}=[x]"], None, 0),
    ],
)
def test_lora_train_is_lora_mode(
    tmp_path: Path, files: dict[str, Any], words: list[str], expected: Any, notices: int
) -> None:
    adapters = {"model.network_config.params.modules.lora_config": {"target": "Lora", "params": {"r": 128}}}
    if expected is None:
        with pytest.raises(ConfigError, match=r"not_trainable_prefixes: \['x'\], but model\.lora_train is true"):
            load(tmp_path, adapters | files, *words)
        return
    config = load(tmp_path, adapters | files, *words)
    assert at(config, PREFIXES) == expected
    assert len(overruled(config, PREFIXES)) == notices


def test_accumulation_that_is_typed_is_not_lost_to_a_global_batch(tmp_path: Path) -> None:
    for key in ("deepspeed.gradient_accumulation_steps", "args.gradient_accumulation_steps"):
        with pytest.raises(ConfigError, match=rf"{key}: 3 is ignored when args\.global_batch_size is set .8."):
            load(tmp_path, {"args.global_batch_size": 8}, f"{key}=3")
        load(tmp_path, {"args.global_batch_size": 8}, f"{key}=3", "args.global_batch_size=null")


SIZES = [
    ("sampling_image_size", "[768,1360]", "video_size", [768, 1360]),
    ("sampling_num_frames", "5", "max_num_frames", 17),
    ("sampling_fps", "16", "fps", 16.0),
]
INFERENCE = {"args.mode": "inference", "args.load": "w", "args.input_type": "txt", "args.input_file": "p.txt"}


@pytest.mark.parametrize(("name", "text", "ours", "value"), SIZES)
def test_a_size_of_samples_is_followed_or_refused(tmp_path: Path, name: str, text: str, ours: str, value: Any) -> None:
    word, target = f"args.{name}={text}", f"data.params.{ours}"
    with pytest.raises(ConfigError, match=rf"args\.{name}: samples have the size .*; set {target}"):
        load(tmp_path, {}, word)
    config = load(tmp_path, INFERENCE, word)
    assert at(config, target) == value
    assert config.origin[target] == f"args.{name}"
    with pytest.raises(ConfigError, match="both are the same setting; set only one"):
        load(tmp_path, INFERENCE, word, f"{target}={[480, 720] if ours == 'video_size' else 9}")

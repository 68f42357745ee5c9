"""What a stage's key depends on: the meaning of the keys that the stage reads, and nothing of how they are written."""

import functools
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cogtune.config import registry
from cogtune.config.errors import ConfigError
from cogtune.config.leaves import leaves_of
from cogtune.config.merge import Config, read
from cogtune.work.load import load_config
from cogtune.work.slices import cut, how_read
from cogtune.work.stages import STAGES

REPO = Path(__file__).parents[3]
CONFIGS = [
    *(
        [f"config/{model.name}", "config/sft.yaml"]
        for model in sorted(REPO.glob("config/cogvideox*_*.yaml"))
        if "common" not in model.name
    ),
    ["config/cogvideox1.5_5b.yaml", "config/inference.yaml"],
    ["config/tiny/demo_lora.yaml"],
]
WORKING = [stage for stage in STAGES.values() if stage.name != "report"]  # its key holds the config as written, too


def keys(config: Config) -> dict[str, str]:
    return {stage.name: cut(stage, config.values, {}, {}, {}).key for stage in WORKING}


@functools.cache
def loaded(files: tuple[str, ...], *overrides: str) -> Config:
    return load_config([REPO / file for file in files], overrides, check_files=False)


class Dumper(yaml.SafeDumper):
    """Writes what is equal as an anchor and its aliases, and quotes some of the texts."""

    shared: dict[str, Any]
    chance: random.Random

    def represent_str(self, text: str) -> yaml.Node:
        node = super().represent_str(text)
        if self.chance.random() < 0.5:
            node.style = self.chance.choice("'\"")
        return node


Dumper.add_representer(str, Dumper.represent_str)


def reworded(tree: Any, chance: random.Random, seen: dict[str, Any]) -> Any:
    """The same config in other words: keys shuffled, targets by another of their names, equal mappings made one object."""
    if isinstance(tree, dict):
        items = list(tree.items())
        chance.shuffle(items)
        made = {name: reworded(value, chance, seen) for name, value in items}
        if isinstance(made.get("target"), str):
            entry = registry.find(made["target"])
            made["target"] = chance.choice([entry.name, *entry.aliases])
        return seen.setdefault(repr(made), made) if chance.random() < 0.8 else made
    return [reworded(value, chance, seen) for value in tree] if isinstance(tree, list) else tree


def commented(text: str, chance: random.Random) -> str:
    lines = []
    for line in text.splitlines():
        lines += ["# lr: 5, model: {}"] if chance.random() < 0.1 else []
        lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.heavy
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.sampled_from(CONFIGS), seed=st.integers(0, 2**32))
def test_how_a_config_is_written_is_not_in_any_key(files: Any, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    tree = read([REPO / file for file in files]).plain()
    Dumper.chance = chance
    flow = chance.choice([None, True, False])
    text = yaml.dump(reworded(tree, chance, {}), Dumper=Dumper, sort_keys=False, default_flow_style=flow, width=100)
    path = tmp_path / "reworded.yaml"
    path.write_text(commented(text, chance) if flow is False else text)
    assert keys(load_config(path, check_files=False)) == keys(loaded(tuple(files)))


def another(value: Any, chance: random.Random) -> list[str]:
    """Values to try in place of one, as they are typed on the command line."""
    if isinstance(value, bool):
        return [str(not value).lower()]
    if isinstance(value, int):
        return [str(value + step) for step in (1, -1, 8, -8)] + [str(value * 2)]
    if isinstance(value, float):
        return [str(value * 0.5), str(value + 0.25), "0.5"]
    if isinstance(value, list):
        return ["[]", "[1]", "[all]", "[first_stage_model]"]
    return ["7", "true", "other", "constant", "cosine", "fp32", "stride", "timestep", "l1"]


@pytest.mark.heavy
@settings(max_examples=300, deadline=None)
@given(files=st.sampled_from(CONFIGS), seed=st.integers(0, 2**32))
def test_an_edit_changes_the_keys_of_the_stages_that_read_it_and_no_other(files: Any, seed: int) -> None:
    chance = random.Random(seed)
    before = loaded(tuple(files))
    path, value = chance.choice(list(leaves_of(before.values)))
    dotted = ".".join(map(str, path))
    try:
        after = loaded(tuple(files), f"{dotted}={chance.choice(another(value, chance))}")
    except ConfigError:
        assume(False)
    old, new = dict(leaves_of(before.values)), dict(leaves_of(after.values))
    changed = {".".join(map(str, leaf)) for leaf in old.keys() | new.keys() if old.get(leaf, old) != new.get(leaf, new)}
    assume(changed)
    was, now = keys(before), keys(after)
    for stage in WORKING:
        reads = any(how_read(stage, leaf) == "keys" for leaf in changed)
        assert (was[stage.name] != now[stage.name]) == reads, f"{stage.name}: {sorted(changed)}"


@pytest.mark.heavy
@pytest.mark.parametrize("files", CONFIGS[-2:], ids=lambda files: Path(files[0]).stem)
def test_every_identity_key_of_a_stage_is_in_its_key(files: list[Any]) -> None:
    """Each leaf on its own, whether or not another value of it would be legal."""
    values = loaded(tuple(files)).values
    was = keys(loaded(tuple(files)))
    for path, value in leaves_of(values):
        edited = put(values, path, ["edited", value])
        for stage in WORKING:
            reads = how_read(stage, ".".join(map(str, path))) == "keys"
            assert (was[stage.name] != cut(stage, edited, {}, {}, {}).key) == reads, (
                stage.name,
                path,
            )


def put(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one leaf replaced."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = put(tree[path[0]], path[1:], value)
    return copy

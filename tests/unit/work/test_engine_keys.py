"""Every key of `deepspeed` is on one side: it names a training, or may change while it runs."""

from functools import cache
from typing import Any

import pytest

from cogtune.config.hints import all_keys
from cogtune.config.leaves import leaves_of
from cogtune.work.engine_keys import IDENTITY_KEYS, VOLATILE_KEYS
from cogtune.work.slices import cut
from cogtune.work.stages import STAGES

BOTH = IDENTITY_KEYS | VOLATILE_KEYS


@cache
def schema_keys() -> list[str]:
    """Every leaf below `deepspeed` that has an effect."""
    paths = [one.path.removeprefix("deepspeed.") for one in all_keys() if one.path.startswith("deepspeed.")]
    effective = {one.path.removeprefix("deepspeed.") for one in all_keys() if one.field.key.has_effect}
    inner = {path.rpartition(".")[0] for path in paths}
    return sorted(path for path in set(paths) & effective if path not in inner)


def side_of(key: str) -> str:
    """By the longest row that covers it."""
    parts = key.split(".")
    rows = [name for i in range(len(parts)) if (name := ".".join(parts[: i + 1])) in BOTH]
    assert rows, f"{key}: no row in work/engine_keys.py"
    return "volatile" if rows[-1] in VOLATILE_KEYS else "identity"


def train_key(key: str, value: Any) -> str:
    """Of a training whose config has nothing but this."""
    node: Any = value
    for name in reversed(["deepspeed", *key.split(".")]):
        node = {name: node}
    part = cut(STAGES["train"], node, {}, {}, {})
    assert len(list(leaves_of(part.identity["values"]))) + len(part.volatile.values) == 1, "read by the train stage"
    return part.key


@pytest.mark.parametrize("key", schema_keys())
def test_identity_moves_the_key_of_a_training_and_volatile_does_not(key: str) -> None:
    moved = train_key(key, 1) != train_key(key, 2)
    assert moved == (side_of(key) == "identity")


def test_no_row_is_stale_or_on_both_sides() -> None:
    assert IDENTITY_KEYS.keys().isdisjoint(VOLATILE_KEYS)
    unused = [row for row in BOTH if not any(key == row or key.startswith(f"{row}.") for key in schema_keys())]
    assert unused == []

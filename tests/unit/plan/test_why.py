"""Reasons: every key that was edited is named, data changes are counted."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cogtune.config.leaves import leaves_of
from cogtune.config.merge import Config
from cogtune.data.listing import Columns
from cogtune.plan.why import as_text, changed_keys, changed_upstream, data_changes, differences
from cogtune.work.load import load_config
from cogtune.work.slices import cut
from cogtune.work.stages import STAGES
from tests.unit.plan.world import TINY

CONFIG: Config = load_config([TINY], check_files=False)
HASH = "sha256:" + "0" * 64
IDENTITIES = {
    name: cut(stage, CONFIG.values, dict.fromkeys(CONFIG.files, HASH), CONFIG.files, {}).identity
    for name, stage in STAGES.items()
}
LEAVES = [(stage, path) for stage, one in IDENTITIES.items() for path, _ in leaves_of(one["values"])]


def edited(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return ("sha256:" + "1" * 64) if value.startswith("sha256:") else f"{value}x"
    return ["x"] if value != ["x"] else []


def put(tree: Any, path: tuple[str | int, ...], change: Callable[[Any], Any]) -> None:
    for part in path[:-1]:
        tree = tree[part]
    tree[path[-1]] = change(tree[path[-1]])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(LEAVES))
def test_every_edited_key_is_named(leaf: tuple[str, tuple[str | int, ...]]) -> None:
    stage, path = leaf
    before = copy.deepcopy(IDENTITIES[stage])
    put(before["values"], path, edited)
    (reason,) = differences(before, IDENTITIES[stage], CONFIG)
    dotted = ".".join(map(str, path))
    assert reason.key == dotted
    assert reason.text.startswith(dotted)
    origin = CONFIG.origin_of(dotted.removeprefix("as_written."))
    assert reason.kind == "file" or reason.text.endswith(f"({origin})")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(STAGES)), st.data())
def test_of_several_edits_each_is_named_or_follows_one_that_is(stage: str, data: st.DataObject) -> None:
    paths = [path for path, _ in leaves_of(IDENTITIES[stage]["values"])]
    chosen = data.draw(st.lists(st.sampled_from(paths), unique=True, min_size=1))
    before = copy.deepcopy(IDENTITIES[stage])
    for path in chosen:
        put(before["values"], path, edited)
    named = {reason.key for reason in differences(before, IDENTITIES[stage], CONFIG)}
    for path in chosen:
        dotted = ".".join(map(str, path))
        assert dotted in named or CONFIG.origin_of(dotted.removeprefix("as_written.")) in named


def test_equal_identities_have_no_reason() -> None:
    assert all(differences(one, one, CONFIG) == [] for one in IDENTITIES.values())


def test_a_key_that_came_and_one_that_went() -> None:
    old, new = {"args": {"seed": 1, "gone": 2}}, {"args": {"seed": 1, "epochs": 3}}
    texts = [reason.text for reason in changed_keys(old, new, CONFIG)]
    assert texts == ["args.gone 2 → (absent)", "args.epochs (absent) → 3 (default)"]


def test_upstream_by_name() -> None:
    before, after = (
        {"upstream": {"latents": "a", "text": "b"}},
        {"upstream": {"latents": "a", "text": "c", "load": "d"}},
    )
    assert changed_upstream(before, after) == ["text", "load"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1e-05"), ("bf16", "bf16"), ("", '""'), (None, "null"), ([32, 48], "[32, 48]"), ("x" * 60, "x" * 39 + "…")],
)
def test_values_in_words(value: Any, text: str) -> None:
    assert as_text(value) == text


OLD = Columns(["a", "b", "c", "d"], ["1", "2", "3", "4"], ["train", "train", "train", "valid"])


@pytest.mark.parametrize(
    ("new", "kind", "text"),
    [
        (Columns([*OLD.clips, "e"], [*OLD.captions, "1"], [*OLD.splits, "train"]), "clips", "1 new clip"),
        (Columns(OLD.clips[1:], OLD.captions[1:], OLD.splits[1:]), "clips", "1 removed clip"),
        (Columns(OLD.clips, ["5", "6", "3", "4"], OLD.splits), "captions", "2 changed captions"),
        (Columns(OLD.clips, ["5", "5", "3", "4"], OLD.splits), "captions", "1 removed caption, 1 changed caption"),
        (
            Columns([*OLD.clips, "new"], ["5", "2", "3", "4", "6"], [*OLD.splits, "train"]),
            "captions",
            "1 new caption, 1 changed caption",
        ),
        (Columns(OLD.clips, ["5", "6", "3", "4"], OLD.splits), "train", "2 changed captions"),
        (Columns(OLD.clips, ["2", "1", "3", "4"], OLD.splits), "train", "2 changed captions"),
        (Columns(OLD.clips, OLD.captions, ["train", "train", "valid", "valid"]), "train", "1 removed clip"),
        (Columns(OLD.clips, OLD.captions, ["train", "train", "valid", "valid"]), "pairs", "1 clip in another split"),
        (OLD, "pairs", "the data set changed"),
    ],
)
def test_data_changes(new: Columns, kind: str, text: str) -> None:
    assert [reason.text for reason in data_changes(OLD, new, kind)] == [text]

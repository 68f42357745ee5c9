"""Slices: cutting loses nothing that is declared, leaks nothing that is not, and the key sees exactly the identity."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogtune.config.leaves import leaves_of, nest
from cogtune.errors import UserError
from cogtune.runtime.digest import canonical, data_digests
from cogtune.work.runs import write_run
from cogtune.work.slices import Slice, cut, read_slice
from cogtune.work.stage_input import Node, identity, volatile
from cogtune.work.stages import STAGES, Stage

NAMES = st.text("abcdefgh_", min_size=1, max_size=6)
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.floats(-9, 9)
TREES = st.recursive(
    SCALARS | st.lists(SCALARS, max_size=3),
    lambda inner: (
        st.dictionaries(NAMES, inner, max_size=4) | st.lists(st.dictionaries(NAMES, inner, min_size=1), max_size=3)
    ),
    max_leaves=12,
)
CONFIGS = st.dictionaries(NAMES, TREES, min_size=1, max_size=4)


@pytest.mark.heavy
@given(CONFIGS)
def test_leaves_and_nest_are_inverse(config: dict[str, Any]) -> None:
    assert nest(dict(leaves_of(config))) == config


@given(st.permutations([("a", 1), ("b", {"x": 1.5, "y": [1, 2]}), ("c", None), ("d", "é")]))
def test_canonical_json_does_not_depend_on_key_order(items: list[Any]) -> None:
    assert canonical(dict(items)) == canonical({"a": 1, "b": {"y": [1, 2], "x": 1.5}, "c": None, "d": "é"})


@dataclass(frozen=True)
class TrainInput:
    model: Node = identity("model", volatile=("speed",))
    seed: int = identity("args.seed")
    ranks: int = volatile("args.ranks")


STAGE = Stage("train", 1, TrainInput, help="", unit="steps")


@given(seed=st.integers(), speed=SCALARS, other=SCALARS, ranks=SCALARS)
def test_only_identity_keys_move_the_key(seed: int, speed: object, other: object, ranks: object) -> None:
    values = {"model": {"width": 4, "speed": speed}, "args": {"seed": seed, "ranks": ranks, "unread": other}}
    part = cut(STAGE, values, {}, {}, {})
    assert part.config() == {"model": {"width": 4, "speed": speed}, "args": {"seed": seed, "ranks": ranks}}
    plain = cut(STAGE, {"model": {"width": 4}, "args": {"seed": seed}}, {}, {}, {})
    assert part.key == plain.key
    assert part.key != cut(STAGE, values | {"args": {"seed": seed + 1}}, {}, {}, {}).key


def test_files_are_identity_by_content_and_reach_the_stage_by_path() -> None:
    values = {"model": {"weights": "w.pt"}, "args": {"seed": 1}}
    here = cut(STAGE, values, {"model.weights": "sha256:aa"}, {"model.weights": "/here/w.pt"}, {})
    moved = cut(STAGE, values, {"model.weights": "sha256:aa"}, {"model.weights": "/there/w.pt"}, {})
    other = cut(STAGE, values, {"model.weights": "sha256:bb"}, {"model.weights": "/here/w.pt"}, {})
    assert here.key == moved.key != other.key
    assert moved.config()["model"]["weights"] == "/there/w.pt"
    assert "/here" not in canonical(here.identity)


def test_a_grown_data_set_is_a_new_job_over_the_same_rows() -> None:
    rows = STAGES["latents"]
    one, two = (cut(rows, {}, {}, {}, {}, data=data) for data in ("d1", "d2"))
    assert one.items_key == two.items_key
    assert one.key != two.key
    train = [cut(STAGES["train"], {}, {}, {}, {"latents": part}, data="t") for part in (one, two)]
    assert train[0].key == train[1].key, "rows of clips that are not trained on must not retrain"


def test_data_digests_tell_sets_from_pairings() -> None:
    rows = [("clip1", "cap1", "train"), ("clip2", "cap2", "train"), ("clip3", "cap3", "valid")]
    swapped = [("clip1", "cap2", "train"), ("clip2", "cap1", "train"), ("clip3", "cap3", "valid")]
    without_valid = rows[:2]
    base, other, smaller = map(data_digests, (rows, swapped, without_valid))
    assert data_digests(reversed(rows)) == base
    assert (base["clips"], base["captions"]) == (other["clips"], other["captions"])
    assert base["train"] != other["train"]
    assert base["train"] == smaller["train"]
    assert base["pairs"] != smaller["pairs"]


def test_a_changed_slice_file_is_refused(tmp_path: Path) -> None:
    part = cut(STAGE, {"args": {"seed": 3}}, {}, {}, {})
    path = part.write(tmp_path)
    run = write_run(tmp_path / "results", "tiny", {part.key: part.volatile})
    assert read_slice(path, run) == Slice("train", part.identity, part.volatile)
    content = json.loads(path.read_text())
    content["values"]["args"]["seed"] = 4
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="was modified; delete it and run snakemake again"):
        read_slice(path)


@pytest.mark.parametrize("bit", range(8))
def test_a_damaged_slice_is_refused_and_written_anew(tmp_path: Path, bit: int) -> None:
    part = cut(STAGE, {"args": {"seed": 3}}, {}, {}, {})
    path = part.write(tmp_path)
    whole = path.read_bytes()
    for place in range(0, len(whole) - 1, 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            assert read_slice(path).identity == part.identity, "white space"
        part.write(tmp_path)
        assert read_slice(path).identity == part.identity
    path.write_bytes(whole)
    stamp = path.stat().st_mtime_ns
    part.write(tmp_path)
    assert path.stat().st_mtime_ns == stamp, "a whole one is left alone"


def test_every_stage_stands_on_earlier_ones_only() -> None:
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert set(stage.upstream) <= seen
        seen.add(name)

"""The stages table against real configs and the schema: nothing in it is dead, nothing in a config is read by nobody, and
a stage's input has the types that its keys have."""

import ast
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from cogtune.config.hints import all_keys, with_stars
from cogtune.config.key_types import members
from cogtune.config.leaves import leaves_of
from cogtune.errors import UserError
from cogtune.work.engine_keys import IDENTITY_KEYS, VOLATILE_KEYS
from cogtune.work.load import load_config
from cogtune.work.slices import cut, how_read
from cogtune.work.stage_input import Node, Unread, identity, parts, read_input, reads_of, unread, volatile
from cogtune.work.stages import SAMPLING, STAGES, SWEEP, Stage, row_of

REPO = Path(__file__).resolve().parents[3]
CONFIGS = [
    ["config/tiny/demo_lora.yaml"],
    ["tests/workflow/tiny.yaml"],
    ["config/cogvideox1.5_5b_i2v.yaml", "config/sft.yaml"],
]
OPTIONAL = {"deepspeed.tensorboard", "deepspeed.wandb", "deepspeed.csv_monitor", "experiment", "as_written"}
"""Sections that stand in no shipped file, and what the plan adds for the report."""
DECIDED = {"args.batch_size", "args.checkpoint_activations", "args.gradient_accumulation_steps", "args.zero_stage"}
"""Keys that the merge has already turned into their counterpart of the deepspeed section or of the network."""
ROWS = {f"{row.name}, {row.input.__name__}": row for row in [*STAGES.values(), *SAMPLING.values(), SWEEP]}


@pytest.fixture(scope="module")
def leaves() -> set[str]:
    merged = (load_config([REPO / file for file in files], check_files=False) for files in CONFIGS)
    return {".".join(map(str, path)) for config in merged for path, _ in leaves_of(config.values)}


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_every_pattern_names_a_key(stage: Stage, leaves: set[str]) -> None:
    engine_keys = {
        f"deepspeed.{key}" for key in VOLATILE_KEYS | IDENTITY_KEYS
    }  # compared with the schema by test_engine_keys
    for pattern in {*stage.keys, *stage.volatile} - OPTIONAL - engine_keys:

        @dataclass(frozen=True)
        class Alone:
            only: Any = identity(pattern)

        assert any(how_read(Stage("alone", 1, Alone, "", ""), leaf) for leaf in leaves), (
            f"{stage.name}: {pattern} names nothing"
        )


def test_every_key_is_read_by_a_stage_that_works(leaves: set[str]) -> None:
    working = [stage for stage in STAGES.values() if stage.name != "report"]
    unread = {leaf for leaf in leaves if not any(how_read(stage, leaf) for stage in working)}
    assert unread <= DECIDED, f"accepted and then read by nobody: {sorted(unread - DECIDED)}"


MADE = {"data", "deepspeed", "sweep.points"}
"""Sections that a stage gets as they are."""
RESOLVED = {"args.global_batch_size", "deepspeed.train_micro_batch_size_per_gpu"}
"""They may be null in a file. What is null then is decided before a slice is cut, by work/resolve.py and config/reconcile.py."""


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_an_input_has_the_types_of_its_keys(row: Stage) -> None:
    """Values are checked against the schema, so this is what makes the types of an input true."""
    schema = {declared.path: declared.field for declared in all_keys()}
    for field in fields(row.input):
        reads = reads_of(row.input)[field.name]
        assert (field.type is Unread) == bool(reads.because), field.name
        if field.type is Unread or reads.key in MADE:
            continue
        declared = set(members(schema[with_stars(reads.key)].type))
        # The other experiment that a `load` names stands upstream; its place in the slice is null.
        given = {kind for kind in declared if not hasattr(kind, "__dataclass_fields__")}
        given -= {type(None)} if reads.key in RESOLVED else set()
        assert set(members(field.type)) == given, f"{row.name}: {field.name} is {reads.key}"


@dataclass(frozen=True)
class Made:
    size: int = identity("args.text_batch")
    node: Node = parts("model.first_stage_config", identity=("target", "params.ch"), volatile=("params",))
    rate: float = volatile("model.conditioner_config.params.emb_models.*.ucg_rate")
    optional: int | None = volatile("args.epochs")
    rest: Unread = unread("args.seed", "args.mode", because="…")


MADE_UP = Stage("made_up", 1, Made, "", "")


def test_an_input_is_what_the_slice_holds() -> None:
    values = {
        "args": {"text_batch": 3, "seed": 1, "mode": "finetune", "lr": 1.0},
        "model": {
            "first_stage_config": {"target": "V", "params": {"ch": 1, "slicing": True}, "loss": 2},
            "conditioner_config": {"params": {"emb_models": [{"ucg_rate": 0.5, "target": "T"}]}},
        },
    }
    part = cut(MADE_UP, values, {}, {}, {})
    given = read_input(Made, part.config())
    assert given == Made(
        size=3,
        node={"target": "V", "params": {"ch": 1, "slicing": True}},
        rate=0.5,
        optional=None,
        rest=given.rest,
    )
    node = {"target": "V", "params": {"ch": 1}}
    assert part.identity["values"] == {
        "args": {"text_batch": 3, "seed": 1, "mode": "finetune"},
        "model": {"first_stage_config": node},
    }


def test_what_a_slice_does_not_hold_is_the_default_of_the_schema() -> None:
    """Slices of earlier versions know fewer keys."""
    model = {"first_stage_config": {"target": "V", "params": {}}}
    given = read_input(Made, {"model": model})
    assert (given.size, given.rate, given.optional) == (8, 0.0, None)
    with pytest.raises(
        UserError, match=r"model\.first_stage_config: not in the slice of this job, and it has no default"
    ):
        read_input(Made, {})


def test_the_row_of_a_slice() -> None:
    for row in ROWS.values():
        mode = "inference" if row.name in SAMPLING and row is SAMPLING[row.name] else "finetune"
        assert row_of({"stage": row.name, "values": {"args": {"mode": mode}}}) is row
    with pytest.raises(UserError, match="no stage named 'gone'"):
        row_of({"stage": "gone", "values": {}})


SPECIAL = {
    ("work/resolve.py", "scan"): "its results decide the keys of all other stages",
    ("plan/requests.py", "scan"): "the same",
    ("plan/history.py", "scan"): "the same",
    ("plan/counts.py", "preprocess"): "it rejects clips, so later stages have fewer rows",
    ("plan/counts.py", "train"): "a split of the data set, not the stage",
    ("plan/why.py", "train"): "a split of the data set, not the stage",
}


def test_no_stage_is_asked_for_by_name() -> None:
    """What makes a stage different is a field of its row, except for these."""
    compared: set[tuple[str, str]] = set()
    source = REPO / "src/cogtune"
    for path in [*(source / "work").glob("*.py"), *(source / "plan").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                constants = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                compared |= {(str(path.relative_to(source)), str(name)) for name in constants & set(STAGES)}
    assert compared == set(SPECIAL)
